"""Try before purchase: the losses of many merges of many pairs of networks.

Most of the work of evaluating a network is its stem: the products of its first layer with the data. The stem is linear
in the parameters, so it is computed once per network: the stem of a merge is the merge of the stems, and a permutation
of hidden units only reorders the rows of the stem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paramarket_env.learning.alignment.permutations import permute, stem_order
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import losses, sample_losses, serving_trials, stems
from paramarket_env.learning.kernels.selection import kernels
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import Network
from paramarket_env.learning.statistics import with_statistics


@dataclass(frozen=True)
class Groups:
    """m groups of N networks, with their stems on the samples of their group."""

    parameters: Tensor
    """float32 ``[m, N, P]``."""
    stem: Tensor
    """float32 ``[m, N, units, n]``."""
    samples: Tensor
    """int64 ``[m, n]``."""
    labels: Tensor
    """int64 ``[m, n]``."""
    start: Tensor
    """float32 ``[m, P]``: the network with which all agents began; ``[m, 0]`` if the merger does not need it."""
    dataset: Dataset
    """The samples of all agents."""

    def alone(self, group: Tensor, network: Tensor) -> Groups:
        """Q of the networks, each in a group of its own; their group and place in it are int64 ``[Q]``."""
        networks, stems = (part[group, network].unsqueeze(1) for part in (self.parameters, self.stem))
        return Groups(networks, stems, self.samples[group], self.labels[group], self.start[group], self.dataset)


def group(
    network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor, start: Tensor | None = None
) -> Groups:
    """The groups of networks ``[m, N, P]``, each group on its own samples, int64 ``[m, n]``.

    ``start`` is ``[m, P]``, or None where the merger does not need it; see :attr:`Groups.start`.
    """
    start = parameters.new_empty(len(parameters), 0) if start is None else start
    stem = stems(network, dataset, parameters, samples)
    return Groups(parameters, stem, samples, dataset.labels[samples], start, dataset)


LOSS_MAX = 1e6
"""Nats. A network with a higher loss has failed. This keeps rewards within float32."""


def own_losses(network: Network, groups: Groups) -> Tensor:
    """The mean loss of each network, float64 ``[m, N]``; NaN for a network that has failed.

    A network has failed if its loss is above ``LOSS_MAX``, or if its loss or a parameter is not finite.
    """
    loss = losses(network, groups.parameters, groups.stem, groups.labels)
    # A loss can be finite even if a parameter is not (-inf before a ReLU). Such a network cannot be aligned.
    # The largest parameter is found several times as fast as all are checked. It is NaN if one is.
    sound = (loss <= LOSS_MAX) & groups.parameters.abs().amax(dim=2).isfinite()
    return loss.masked_fill(~sound, torch.nan)


@dataclass(frozen=True)
class Pairs:
    """Q pairs of a buyer and a seller; both networks of a pair are in one group."""

    group: Tensor
    """int64 ``[Q]``: the index of the group."""
    buyer: Tensor
    """int64 ``[Q]``: the index of the buyer within the group."""
    seller: Tensor
    """int64 ``[Q]``: the index of the seller within the group."""
    permutations: Tensor
    """int64 ``[Q, H]``: they bring the seller's hidden units into the buyer's order."""
    samples: Tensor
    """int64 ``[Q, s]``: the buyer's samples on which the running statistics of merged networks are estimated."""

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, some: slice) -> Pairs:
        return Pairs(*(tensor[some] for tensor in vars(self).values()))

    def split(self, size: int) -> Iterator[Pairs]:
        """Yield the pairs in chunks of at most ``size``."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


def try_merges(network: Network, groups: Groups, pairs: Pairs, weights: Tensor) -> Tensor:
    """The mean losses, float64 ``[Q, W]``, of W merges of each pair.

    ``weights``, float32 ``[W, P]``, hold the merge weight of each merge for each parameter. The running statistics of
    merged networks are estimated on the buyer's samples.
    """
    served = serving_trials(network, groups.parameters)
    if isinstance(network, MLPNetwork) and served != "torch":
        which = (pairs.group, pairs.buyer, pairs.seller, pairs.permutations)
        given = (groups.parameters, groups.stem, groups.labels, [tensor.contiguous() for tensor in which])
        losses_of_merges: Tensor = kernels(served).try_merges(network.widths, *given, weights.contiguous())
        return losses_of_merges
    units, samples = groups.stem.shape[2:]
    room, merges = chunk_elements(weights.device) // units, len(weights)
    # Without a stem, all merges of a pair share their samples.
    chunk, block = room // (merges * samples), room // merges if network.stem_size else room
    chunk, block = max(1, chunk), min(max(1, block), samples)
    buyers = groups.parameters[pairs.group, pairs.buyer]
    sellers = permute(network, groups.parameters[pairs.group, pairs.seller], pairs.permutations)
    stem_size = network.stem_size
    buyers, sellers = (networks[:, None, stem_size:].split(chunk) for networks in (buyers, sellers))
    parts = [
        _try(network, groups, some, torch.lerp(*bodies, weights[:, stem_size:]), weights[:, 0], block)
        for some, bodies in zip(pairs.split(chunk), zip(buyers, sellers, strict=True), strict=True)
    ]
    return torch.cat(parts)


def _try(network: Network, groups: Groups, pairs: Pairs, bodies: Tensor, weights: Tensor, block: int) -> Tensor:
    """The losses of :func:`try_merges` for a few pairs with the merged ``bodies`` ``[Q, W, P - stem_size]``.

    ``weights`` ``[W]`` are the merge weights of the stems. Samples are evaluated in blocks of ``block``.
    """
    bodies = with_statistics(network, groups.dataset, bodies, pairs.samples)
    stems = _merged_stems(network, groups, pairs, weights)
    total = torch.zeros(bodies.shape[:2], dtype=torch.float64, device=weights.device)
    for start in range(0, groups.stem.shape[3], block):
        columns = slice(start, start + block)
        logits = network.body(bodies, stems(columns))
        total += sample_losses(logits, groups.labels[pairs.group, columns]).sum(-1, dtype=torch.float64)
    return total / groups.stem.shape[3]


def _merged_stems(network: Network, groups: Groups, pairs: Pairs, weights: Tensor) -> Callable[[slice], Tensor]:
    """The stems ``[Q, W, units, columns]`` of all merges of a few pairs, as a function of the samples' columns."""
    if network.stem_size == 0:
        samples = groups.stem[pairs.group, pairs.buyer]
        return lambda columns: samples[:, None, :, columns].expand(-1, len(weights), -1, -1)
    units = torch.arange(groups.stem.shape[2], device=weights.device)
    buyer = _rows_of_stem(groups, pairs.group, pairs.buyer, units)
    seller = _rows_of_stem(groups, pairs.group, pairs.seller, stem_order(network, pairs.permutations))
    weights = weights[:, None, None]
    return lambda columns: torch.lerp(buyer[:, None, :, columns], seller[:, None, :, columns], weights)


def _rows_of_stem(groups: Groups, group: Tensor, network: Tensor, units: Tensor) -> Tensor:
    """The stems ``[Q, units, n]`` of Q networks, with the ``units`` ``[Q, units]`` or ``[units]`` in that order."""
    _, networks, width, samples = groups.stem.shape
    rows = (group * networks + network).unsqueeze(1) * width + units
    return groups.stem.view(-1, samples).index_select(0, rows.flatten()).view(*rows.shape, samples)
