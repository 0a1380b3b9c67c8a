"""Mergers: which merges of a buyer's and an aligned seller's network are tried, and how the chosen one is made."""

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
    """Owns the candidates that are tried before a purchase, their evaluation, and the delivery: a plug-in.

    A candidate is known by its merge weight: how much of the seller it takes.
    """

    @property
    def weights(self) -> tuple[float, ...]:
        """The merge weights of the L candidates."""

    def losses(self, network: Network, groups: Groups, couples: Pairs, goods: ParameterSets) -> Tensor:
        """The mean loss of every candidate on the broker's data, float64 ``[2 C, K, L]``.

        ``couples`` has each of C couples twice: one after another as first buyer and seller, then in the same order the
        other way round. What is not finite is never quoted.
        """

    def merge(self, buyers: Tensor, aligned: Tensor, weights: Tensor, masks: Tensor) -> Tensor:
        """The networks float32 ``[B, P]`` of the candidates with these weights ``[B]``.

        ``buyers`` and ``aligned`` sellers ``[B, P]``; ``masks`` bool ``[B, P]``: the parameter sets that are bought.
        """


MERGERS: Registry[Merger] = Registry("merger", Merger)

Weight = Annotated[float, Field(gt=0, le=1)]


@MERGERS.register
@configuration
class Linear:
    """Linear interpolation (1 - w) * buyer + w * seller, the paper's, over a grid of merge weights."""

    weights: Annotated[tuple[Weight, ...], Field(min_length=1)] = (
        *(0.05, 0.15, 0.25, 0.35, 0.45),
        *(0.55, 0.65, 0.75, 0.85, 0.95),
    )
    """Merge weights, increasing."""

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in pairwise(self.weights))
        require(increasing, "linear.weights", self.weights, "increasing")

    def losses(self, network: Network, groups: Groups, couples: Pairs, goods: ParameterSets) -> Tensor:
        """See :meth:`Merger.losses`."""
        shape = (len(couples), len(goods.masks), len(self.weights))
        loss = torch.empty(shape, dtype=torch.float64, device=goods.masks.device)
        grid, line, there, back = _line(self.weights, goods.masks.device)
        for good, (mask, whole) in enumerate(zip(goods.masks, goods.whole, strict=True)):
            if whole:
                # Two whole networks have one line between them: w from one end is 1 - w from the other.
                on_line = try_merges(network, groups, couples[: len(couples) // 2], line.unsqueeze(1) * mask)
                loss[:, good] = torch.cat([on_line[:, there], on_line[:, back]])
            else:
                loss[:, good] = try_merges(network, groups, couples, grid.unsqueeze(1) * mask)
        return loss

    def merge(self, buyers: Tensor, aligned: Tensor, weights: Tensor, masks: Tensor) -> Tensor:
        """See :meth:`Merger.merge`."""
        return interpolate(buyers, aligned, weights.unsqueeze(1) * masks)


def interpolate(buyers: Tensor, aligned: Tensor, weights: Tensor) -> Tensor:
    """(1 - w) * buyer + w * aligned seller, where ``weights`` is the merge weight on the set and 0 elsewhere.

    All broadcast, ``[..., P]`` float32. Where the weight is 0 the result is the buyer's parameter to the bit, even
    against a seller's that is not finite.
    """
    return torch.where(weights == 0, buyers, torch.lerp(buyers, aligned, weights))


@lru_cache(maxsize=16)
def _line(grid: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """The merge weights; places on the line from one network to another; which of them each weight is, from each end.

    The weights ``[L]`` and the places are float32.
    """
    places, back = list(grid), []
    for weight in grid:
        same = [index for index, place in enumerate(places) if abs(place - (1 - weight)) < 1e-9]
        back += same or [len(places)]
        places += [] if same else [1 - weight]
    weights, line = (torch.tensor(values, dtype=torch.float32, device=device) for values in (grid, places))
    return weights, line, list(range(len(grid))), back
