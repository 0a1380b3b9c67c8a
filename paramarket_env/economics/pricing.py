"""The Bayesian-optimal posted price, and beliefs about a buyer's value that it is optimal for.

A belief says how likely the value is at least each of L ask levels: its *survival* 1 - F at the levels, ``[..., L]``.
It comes from a distribution in closed form, or from a histogram that learns from what sold and what did not: L + 1
bins that the levels divide the values into. Bin 0 is below the first level, bin l is within [level l - 1, level l), the
last is from the last level up. All functions are batched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bayesian_price(survival: Tensor, levels: Tensor, cost: Tensor | float = 0.0) -> Tensor:
    """The index of the level that maximises (p - c)(1 - F(p)), int64 ``[...]``; L, to withhold, if none is worth c.

    This is Myerson's optimal price (1981), where the virtual value p - (1 - F(p)) / f(p) meets the cost c, on a grid of
    levels. ``survival`` ``[..., L]``; ``levels`` ``[L]`` and ``cost`` (a number, or ``[...]``) in one unit, ticks or
    reward. Of equals the lowest.
    """
    margin = levels - torch.as_tensor(cost, dtype=torch.float64, device=survival.device).unsqueeze(-1)
    profit = margin * survival
    best = profit.max(dim=-1, keepdim=True).values
    # Profits equal up to rounding are equal: take the lowest price among them.
    nearly = (profit >= best * (1 - 1e-12)) & (margin >= 0)
    lowest = nearly.to(torch.int8).argmax(dim=-1)
    return torch.where(nearly.any(dim=-1), lowest, len(levels))


def uniform_survival(low: Tensor, high: Tensor, levels: Tensor) -> Tensor:
    """1 - F at the levels ``[L]`` of values uniform within [low, high], ``[...]`` each: ``[..., L]``.

    The price that is optimal for it is max(low, (high + c) / 2).
    """
    low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    share = (high - levels) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    # The value of a point is at least itself.
    return torch.where(levels <= low, 1.0, share.clamp(0, 1))


def exponential_survival(rate: Tensor, levels: Tensor) -> Tensor:
    """1 - F at the levels ``[L]`` of exponential values of rate lambda ``[...]``: ``[..., L]``.

    The price that is optimal for it is c + 1 / lambda.
    """
    return (-rate.unsqueeze(-1) * levels).exp()


def uniform_belief(shape: tuple[int, ...], levels: int, device: torch.device) -> Tensor:
    """The histogram that holds all bins alike: float64 ``[*shape, L + 1]``."""
    return torch.full((*shape, levels + 1), 1 / (levels + 1), dtype=torch.float64, device=device)


def survival(belief: Tensor) -> Tensor:
    """The survival ``[..., L]`` of a histogram ``[..., L + 1]``."""
    return belief.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def update_belief(belief: Tensor, level: Tensor, sold: Tensor, refused: Tensor, attention: float) -> Tensor:
    """The posterior after O outcomes: ``sold`` sales and ``refused`` refusals at a level, each a censored observation.

    A buyer takes an offer with chance ``attention`` if its value is at least the price, and never otherwise: the rest
    of the time it is busy. So a sale proves value >= price, and a refusal speaks against it by 1 - attention.
    ``belief`` ``[..., L + 1]``; ``level`` int64 and the counts ``sold`` and ``refused``, ``[..., O]``. A level of L
    (withheld) teaches nothing.
    """
    bins = torch.arange(belief.shape[-1], device=belief.device)
    worth_it = bins > level.unsqueeze(-1)
    # Nothing is quite impossible (1e-6), and logarithms do not underflow however many observations there are.
    unlikely, busy = math.log(1e-6), math.log(max(1 - attention, 1e-6))
    sale = (~worth_it).double() * unlikely * sold.unsqueeze(-1)
    refusal = worth_it.double() * busy * refused.unsqueeze(-1)
    return (belief.log() + (sale + refusal).sum(dim=-2)).softmax(dim=-1)


def drift(belief: Tensor, spread: float, jump: float) -> Tensor:
    """The belief about a value after it has moved on: gains change as networks learn.

    With chance ``spread`` the value has gone to a neighbouring bin, either one alike (from the outermost it stays as
    often as it goes); with chance ``jump`` it is anywhere. ``belief`` ``[..., L + 1]``.
    """
    padded = torch.cat([belief[..., :1], belief, belief[..., -1:]], dim=-1)
    moved = (padded[..., 2:] + padded[..., :-2]) / 2
    return (1 - jump) * belief.lerp(moved, spread) + jump / belief.shape[-1]
