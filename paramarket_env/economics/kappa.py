"""Private values: what a nat of validation loss is worth to an agent, drawn anew for each episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

KappaDistribution = Literal["fixed", "uniform", "log-uniform"]

KAPPA_MAX = 100.0
"""Upper end of all kappas: one for every market, so that the bound of an observation tells nothing of another's."""

QUANTILES: dict[KappaDistribution, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fixed": lambda share, low, high: low.expand_as(share).clone(),
    "uniform": lambda share, low, high: low + (high - low) * share,
    "log-uniform": lambda share, low, high: low * (high / low) ** share,
}
"""The value below which a share of all values lies, given the ends of their range."""


def draw_kappas(distribution: KappaDistribution, ranges: tuple[tuple[float, float], ...], shares: Tensor) -> Tensor:
    """kappa of N agents in M markets, float64 ``[M, N]``, of uniform random ``shares`` ``[M, N]`` within [0, 1).

    ``ranges``: the lower and the upper end for each agent.
    """
    low, high = torch.tensor(ranges, dtype=torch.float64, device=shares.device).unbind(1)
    return QUANTILES[distribution](shares, low, high)
