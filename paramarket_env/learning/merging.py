"""Mergers try candidate merges of a buyer's network with an aligned seller's, and make the one that is bought."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.networks.network import Network
from paramarket_env.learning.parameter_sets import ParameterSets
from paramarket_env.learning.trials import Groups, Pairs, try_merges
from paramarket_env.plugins import Registry
from paramarket_env.validation import configuration, require


@runtime_checkable
class Merger(Protocol):
    """A plug-in that defines the candidates tried before a purchase, evaluates them and delivers the one bought.

    A candidate is identified by its merge weight: the share of the seller in the merge.
    """

    @property
    def weights(self) -> tuple[float, ...]:
        """The merge weights of the W candidates."""

    def losses(self, network: Network, groups: Groups, couples: Pairs, goods: ParameterSets) -> Tensor:
        """The mean loss of every candidate on the broker's data, float64 ``[2 C, K, W]``.

        ``couples`` holds each of the C couples twice: first all couples, then all couples in the same order with buyer
        and seller exchanged. A candidate whose loss is not finite is never quoted.
        """

    def merge(self, buyers: Tensor, aligned: Tensor, weights: Tensor, masks: Tensor) -> Tensor:
        """The merged networks of Q purchases, float32 ``[Q, P]``.

        ``buyers`` and ``aligned`` sellers are ``[Q, P]``, and ``weights`` ``[Q]`` are the merge weights. ``masks``,
        bool ``[Q, P]``, mark the parameter sets that are bought. Running statistics are estimated anew afterwards.
        """


MERGERS: Registry[Merger] = Registry("merger", Merger)

APART = 1e-6
"""The least merge weight, and the least difference of two. A float32 tells such weights apart."""

Weight = Annotated[float, Field(ge=APART, le=1)]


@MERGERS.register
@configuration
class Linear:
    """The paper's linear interpolation, (1 - w) * buyer + w * seller, over a grid of merge weights."""

    weights: Annotated[tuple[Weight, ...], Field(min_length=1)] = (
        *(0.05, 0.15, 0.25, 0.35, 0.45),
        *(0.55, 0.65, 0.75, 0.85, 0.95),
    )
    """Merge weights within [1e-6, 1], each at least 1e-6 above the one before."""

    def __post_init__(self) -> None:
        apart = all(b - a >= APART for a, b in pairwise(self.weights))
        require(apart, "linear.weights", self.weights, f"increasing by at least {APART}")

    def losses(self, network: Network, groups: Groups, couples: Pairs, goods: ParameterSets) -> Tensor:
        """See :meth:`Merger.losses`."""
        shape = (len(couples), len(goods.masks), len(self.weights))
        loss = torch.empty(shape, dtype=torch.float64, device=goods.masks.device)
        grid, line, there, back = _line(self.weights, goods.masks.device)
        for good, (mask, whole) in enumerate(zip(goods.masks, goods.whole, strict=True)):
            if whole:
                # Whole networks are merged on one line in both directions: w from one end is 1 - w from the other.
                on_line = try_merges(network, groups, couples[: len(couples) // 2], line.unsqueeze(1) * mask)
                loss[:, good] = torch.cat([on_line[:, there], on_line[:, back]])
            else:
                loss[:, good] = try_merges(network, groups, couples, grid.unsqueeze(1) * mask)
        return loss

    def merge(self, buyers: Tensor, aligned: Tensor, weights: Tensor, masks: Tensor) -> Tensor:
        """See :meth:`Merger.merge`."""
        return interpolate(buyers, aligned, weights.unsqueeze(1) * masks)


def interpolate(buyers: Tensor, aligned: Tensor, weights: Tensor) -> Tensor:
    """The linear merges (1 - w) * buyer + w * aligned seller, float32 ``[..., P]``.

    ``weights`` holds the merge weight w on the parameter set and 0 elsewhere. All arguments are float32 ``[..., P]``
    and broadcast. Where the weight is 0, the result equals the buyer's parameter to the bit, even if the seller's is
    not finite.
    """
    return torch.where(weights == 0, buyers, torch.lerp(buyers, aligned, weights))


@lru_cache(maxsize=16)
def _line(grid: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The merge weights, and the points of the line between two networks where they lie when seen from either end.

    Returns the weights, float32 ``[W]``; the distinct points, float32; and twice the indices of the weights' points,
    int64 ``[W]``, for the weights as seen from the first end and as seen from the second.
    """
    points, back = list(grid), []
    for weight in grid:
        same = [index for index, point in enumerate(points) if abs(point - (1 - weight)) < 1e-9]
        back += same or [len(points)]
        points += [] if same else [1 - weight]
    weights, line = (torch.tensor(values, dtype=torch.float32, device=device) for values in (grid, points))
    there, back_again = torch.arange(len(grid), device=device), torch.tensor(back, device=device)
    return weights, line, there, back_again
