"""The Bayesian-optimal posted price, and a belief about a buyer's value learned from what sold and what did not.

A belief is a distribution over L + 1 bins that the L ask levels divide the values into: bin 0 is below the first
level, bin l is within [level l - 1, level l), the last is from the last level up. All functions are batched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniform_belief(rows: int, levels: int, device: torch.device) -> Tensor:
    """The belief that holds all bins alike: float64 ``[B, L + 1]``."""
    return torch.full((rows, levels + 1), 1 / (levels + 1), dtype=torch.float64, device=device)


def survival(belief: Tensor) -> Tensor:
    """The chance that the value is at least each level, ``[..., L]``: 1 - F at the levels."""
    return belief.flip(-1).cumsum(-1).flip(-1)[..., 1:]


def bayesian_price(belief: Tensor, levels: Tensor, cost: float = 0.0) -> Tensor:
    """The index of the level that maximises (p - c)(1 - F(p)), int64 ``[...]``; L, to withhold, if none is worth c.

    This is Myerson's optimal price (1981), where the virtual value p - (1 - F(p)) / f(p) meets the cost c, on a grid of
    levels. ``belief`` ``[..., L + 1]``; ``levels`` ``[L]`` and ``cost`` in one unit, ticks or reward. Of equals
    the lowest.
    """
    profit = (levels - cost) * survival(belief)
    best = profit.max(dim=-1)
    # Profits equal up to rounding are equal: take the lowest price among them.
    nearly = (profit >= best.values.unsqueeze(-1) * (1 - 1e-12)) & (levels >= cost)
    lowest = nearly.to(torch.int8).argmax(dim=-1)
    return torch.where(nearly.any(dim=-1), lowest, len(levels))


def update_belief(belief: Tensor, level: Tensor, sold: Tensor, refused: Tensor, attention: float) -> Tensor:
    """The posterior after ``sold`` sales and ``refused`` refusals at an ask level, each a censored observation.

    A buyer takes an offer with chance ``attention`` if its value is at least the price, and never otherwise: the rest
    of the time it is busy. So a sale proves value >= price, and a refusal speaks against it by 1 - attention.
    ``belief`` ``[B, L + 1]``; ``level``, ``sold``, ``refused`` int64 ``[B]``. A level of L (withheld) teaches nothing.
    """
    bins = torch.arange(belief.shape[-1], device=belief.device)
    worth_it = bins > level.unsqueeze(-1)
    # Nothing is quite impossible (1e-6), and logarithms do not underflow however many observations there are.
    unlikely, busy = math.log(1e-6), math.log(max(1 - attention, 1e-6))
    sale = torch.where(worth_it, 0.0, unlikely) * sold.unsqueeze(-1).double()
    refusal = torch.where(worth_it, busy, 0.0) * refused.unsqueeze(-1).double()
    return (belief.log() + sale + refusal).softmax(dim=-1)


def forget(belief: Tensor, rate: float) -> Tensor:
    """The belief moved towards uniform by ``rate`` within [0, 1]: gains fall as networks converge."""
    return (1 - rate) * belief + rate / belief.shape[-1]
