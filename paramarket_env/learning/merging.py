"""Mergers try candidate merges of a buyer's network with an aligned seller's, and make the one that is bought."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import losses, stems
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network, parameter_count, stem_units
from paramarket_env.learning.parameter_sets import ParameterSets
from paramarket_env.learning.statistics import with_statistics
from paramarket_env.learning.trials import Groups, Pairs, try_merges
from paramarket_env.plugins import Registry
from paramarket_env.validation import configuration, require


@dataclass(frozen=True)
class MergeInputs:
    """Q pairs of networks to merge, and what a merger may use."""

    network: Network
    buyers: Tensor
    """float32 ``[Q, P]``."""
    sellers: Tensor
    """float32 ``[Q, P]``, aligned to the buyers."""
    start: Tensor
    """float32 ``[Q, P]``: the networks with which all agents of the market began; ``[Q, 0]`` without
    ``needs_common_start``."""
    masks: Tensor
    """bool ``[Q, P]``: the parameter sets that are bought."""
    dataset: Dataset
    samples: Tensor
    """int64 ``[Q, n]``: the broker's validation samples of the buyers' tasks."""

    def __len__(self) -> int:
        return len(self.buyers)

    def within(self, merged: Tensor) -> Tensor:
        """The networks ``[Q, W, P]`` with the buyers' parameters outside of the parameter sets, to the bit."""
        return torch.where(self.masks.unsqueeze(1), merged, self.buyers.unsqueeze(1))


@runtime_checkable
class Merger(Protocol):
    """A plug-in that defines the candidates tried before a purchase, evaluates them and delivers the one bought.

    A subclass needs ``weights`` and ``candidates``. What is delivered must equal the candidate that was quoted, so
    random numbers come from a seeded stream.
    """

    @property
    def needs_common_start(self) -> bool:
        """Whether the merger uses the network with which all agents began. It then demands ``network.common_start``."""
        return False

    @property
    def weights(self) -> tuple[float, ...]:
        """The merge weight of each of the W candidates, as infos show it: mostly the share of the seller."""

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """The candidates of each pair, float32 ``[Q, W, P]``.

        Only the parameters within the pair's set are used. Running statistics are estimated anew afterwards.
        """

    def require_serves(self, network: Network) -> None:
        """Raise ``ValueError`` if the merger cannot serve the network."""
        return

    def words(self, network: Network, samples: int) -> int:
        """The memory for one pair whose candidates are evaluated on so many samples, in 32-bit words."""
        return len(self.weights) * (8 * parameter_count(network) + samples * stem_units(network))

    def losses(self, network: Network, groups: Groups, couples: Pairs, goods: ParameterSets) -> Tensor:
        """The mean loss of every candidate on the broker's data, float64 ``[2 C, K, W]``.

        ``couples`` holds each of the C couples twice: first all couples, then all couples in the same order with buyer
        and seller exchanged. A candidate whose loss is not finite is never quoted.
        """
        size = max(1, chunk_elements(groups.parameters.device) // self.words(network, groups.samples.shape[1]))
        goods_of = [torch.cat(list(self._losses(network, groups, couples, mask, size))) for mask in goods.masks]
        return torch.stack(goods_of, dim=1)

    def _losses(self, network: Network, groups: Groups, pairs: Pairs, mask: Tensor, size: int) -> Iterator[Tensor]:
        """Yield the losses ``[q, W]`` of the candidates of at most ``size`` pairs at a time."""
        for some in pairs.split(size):
            inputs = inputs_of(network, groups, some, mask)
            merged = with_statistics(network, groups.dataset, inputs.within(self.candidates(inputs)), some.samples)
            stem = stems(network, groups.dataset, merged, inputs.samples)
            yield losses(network, merged, stem, groups.labels[some.group])

    def merge(self, inputs: MergeInputs, candidate: Tensor) -> Tensor:
        """The merged networks of Q purchases, float32 ``[Q, P]``, given the index of each one's candidate ``[Q]``."""
        chosen = torch.arange(len(inputs), device=candidate.device)
        return inputs.within(self.candidates(inputs))[chosen, candidate]


MERGERS: Registry[Merger] = Registry("merger", Merger)


def inputs_of(network: Network, groups: Groups, pairs: Pairs, mask: Tensor) -> MergeInputs:
    """The inputs with which a merger can merge some pairs within a parameter set, bool ``[P]``."""
    buyers, sellers = (groups.parameters[pairs.group, agent] for agent in (pairs.buyer, pairs.seller))
    aligned = permute(network, sellers, pairs.permutations)
    start, samples = groups.start[pairs.group], groups.samples[pairs.group]
    return MergeInputs(network, buyers, aligned, start, mask.expand_as(buyers), groups.dataset, samples)


APART = 1e-6
"""The least merge weight, and the least difference of two. A float32 tells such weights apart."""

Weight = Annotated[float, Field(ge=APART, le=1)]
Weights = Annotated[tuple[Weight, ...], Field(min_length=1)]
"""Merge weights within [1e-6, 1], each at least 1e-6 above the one before."""

GRID = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)


def require_increasing(field: str, weights: tuple[float, ...]) -> None:
    """Raise ``ValueError``, naming the field, unless merge weights increase."""
    apart = all(b - a >= APART for a, b in pairwise(weights))
    require(apart, field, weights, f"increasing by at least {APART}")


@MERGERS.register
@configuration
class Linear(Merger):
    """The paper's linear interpolation, (1 - w) * buyer + w * seller, over a grid of merge weights.

    Source: McMahan et al., *Communication-efficient learning of deep networks from decentralized data*, AISTATS 2017
    (arXiv 1602.05629), with a share per network. Cost: an evaluation per weight, in which the stem is shared.
    """

    weights: Weights = GRID
    """Merge weights within [1e-6, 1], each at least 1e-6 above the one before."""

    def __post_init__(self) -> None:
        require_increasing("linear.weights", self.weights)

    def words(self, network: Network, samples: int) -> int:
        """See :meth:`Merger.words`. Samples are evaluated in blocks."""
        return 2 * len(self.weights) * parameter_count(network)

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

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        weights = _line(self.weights, inputs.buyers.device)[0][:, None] * inputs.masks[:, None]
        return interpolate(inputs.buyers.unsqueeze(1), inputs.sellers.unsqueeze(1), weights)

    def merge(self, inputs: MergeInputs, candidate: Tensor) -> Tensor:
        """See :meth:`Merger.merge`."""
        weights = _line(self.weights, inputs.buyers.device)[0][candidate]
        return interpolate(inputs.buyers, inputs.sellers, weights.unsqueeze(1) * inputs.masks)


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
