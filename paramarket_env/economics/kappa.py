"""kappa, the worth of a nat of validation loss to an agent, drawn anew for each episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

KappaDistribution = Literal["fixed", "uniform", "log-uniform"]

KAPPA_MIN = 1e-6
"""The smallest kappa above 0. Observations in float32 and ratios of kappas need a bound."""

KAPPA_MAX = 100.0
"""The upper bound of kappa. It is the same in all markets, so the bounds of observations reveal no agent's kappa."""

QUANTILES: dict[KappaDistribution, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fixed": lambda share, low, high: low.expand_as(share).clone(),
    "uniform": lambda share, low, high: low + (high - low) * share,
    "log-uniform": lambda share, low, high: low * (high / low) ** share,
}
"""Quantile functions: the kappa below which a share of all kappas lies, given the ends of their range."""


def draw_kappas(distribution: KappaDistribution, ranges: tuple[tuple[float, float], ...], shares: Tensor) -> Tensor:
    """The kappas of N agents in M markets, float64 ``[M, N]``.

    ``ranges`` holds the lower and the upper end for each agent. ``shares`` ``[M, N]`` are uniform random numbers within
    [0, 1).
    """
    low, high = torch.tensor(ranges, dtype=torch.float64, device=shares.device).unbind(1)
    return QUANTILES[distribution](shares, low, high)
