"""The Bayesian-optimal posted price, and the beliefs about a buyer's value on which it is based.

The price depends on the *survival* 1 - F of a belief, ``[..., L]``: the probability that the value is at least each of
the L ask levels. It comes from a distribution in closed form, or from a histogram that learns from sales and refusals.
The levels divide the values into L + 1 bins: bin 0 is below the first level, bin l is [level l - 1, level l), and the
last bin starts at the last level. All functions are batched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bayesian_price(survival: Tensor, levels: Tensor, cost: Tensor | float = 0.0) -> Tensor:
    """The index of the level that maximises (p - c)(1 - F(p)), int64 ``[...]``; L, to withhold, if all are below c.

    On a grid of levels, this is Myerson's optimal price (1981), at which the virtual value p - (1 - F(p)) / f(p) equals
    the ``cost`` c. ``survival`` is ``[..., L]``. ``levels`` ``[L]`` and ``cost`` (a number, or ``[...]``) have the same
    unit, ticks or reward. Ties go to the lowest price.
    """
    margin = levels - torch.as_tensor(cost, dtype=torch.float64, device=survival.device).unsqueeze(-1)
    profit = margin * survival
    best = profit.max(dim=-1, keepdim=True).values
    # Profits that differ only by rounding are ties.
    nearly = (profit >= best * (1 - 1e-12)) & (margin >= 0)
    lowest = nearly.to(torch.int8).argmax(dim=-1)
    return torch.where(nearly.any(dim=-1), lowest, len(levels))


def uniform_survival(low: Tensor, high: Tensor, levels: Tensor) -> Tensor:
    """The survival ``[..., L]`` at the ``levels`` ``[L]`` of values uniform within [low, high], ``[...]`` each.

    The optimal price is max(low, (high + c) / 2).
    """
    low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    share = (high - levels) / (high - low).clamp_min(torch.finfo(torch.float64).tiny)
    # This also covers a value that is known exactly: low equals high.
    return torch.where(levels <= low, 1.0, share.clamp(0, 1))


def exponential_survival(rate: Tensor, levels: Tensor) -> Tensor:
    """The survival ``[..., L]`` at the ``levels`` ``[L]`` of exponential values with the rate lambda, ``[...]``.

    The optimal price is c + 1 / lambda.
    """
    return (-rate.unsqueeze(-1) * levels).exp()


def uniform_belief(shape: tuple[int, ...], levels: int, device: torch.device) -> Tensor:
    """The histogram with equal probabilities of all bins, float64 ``[*shape, L + 1]``."""
    return torch.full((*shape, levels + 1), 1 / (levels + 1), dtype=torch.float64, device=device)


def survival(belief: Tensor) -> Tensor:
    """The survival ``[..., L]`` of a histogram ``[..., L + 1]``."""
    return belief.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def update_belief(belief: Tensor, level: Tensor, sold: Tensor, refused: Tensor, attention: float) -> Tensor:
    """The posterior after O outcomes: ``sold`` sales and ``refused`` refusals at a level, each a censored observation.

    A buyer takes an offer with probability ``attention`` if its value is at least the price, and never otherwise. The
    rest of the time it is busy. A sale thus proves that value >= price, and a refusal has the likelihood 1 - attention
    if value >= price, and 1 otherwise. ``belief`` is ``[..., L + 1]``. ``level``, int64, and the counts ``sold`` and
    ``refused`` are ``[..., O]``. A level of L (withheld) carries no information.
    """
    bins = torch.arange(belief.shape[-1], device=belief.device)
    worth_it = bins > level.unsqueeze(-1)
    # No likelihood is below 1e-6, so no bin becomes impossible. Logarithms do not underflow after many observations.
    unlikely, busy = math.log(1e-6), math.log(max(1 - attention, 1e-6))
    sale = (~worth_it).double() * unlikely * sold.unsqueeze(-1)
    refusal = worth_it.double() * busy * refused.unsqueeze(-1)
    return (belief.log() + (sale + refusal).sum(dim=-2)).softmax(dim=-1)


def drift(belief: Tensor, spread: float, jump: float) -> Tensor:
    """The belief ``[..., L + 1]`` about a value after a random change, because gains change as networks learn.

    With probability ``jump``, the value is drawn anew from all bins. Otherwise, with probability ``spread``, it moves
    one bin up or down with equal chance; a move beyond the outermost bin leaves it there.
    """
    padded = torch.cat([belief[..., :1], belief, belief[..., -1:]], dim=-1)
    moved = (padded[..., 2:] + padded[..., :-2]) / 2
    return (1 - jump) * belief.lerp(moved, spread) + jump / belief.shape[-1]
