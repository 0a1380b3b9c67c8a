"""Try before purchase: the losses of many merges of many pairs of networks.

The stem of a network, its first layer's products with the data, is most of the work of evaluating it. It is linear in
the parameters, so it is computed once for each network: the stem of a merge is the merge of the stems, and to permute
hidden units only reorders its rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paramarket_env.learning.alignment.permutations import permute, stem_order
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import losses, sample_losses, stems
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network


@dataclass(frozen=True)
class Groups:
    """m groups of N networks, with their stems on the samples of the group."""

    parameters: Tensor
    """float32 ``[m, N, P]``."""
    stem: Tensor
    """float32 ``[m, N, units, n]``."""
    labels: Tensor
    """int64 ``[m, n]``."""


def group(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Groups:
    """Groups of networks ``[m, N, P]``, each group on its samples (int64 ``[m, n]``)."""
    return Groups(parameters, stems(network, dataset, parameters, samples), dataset.labels[samples])


def own_losses(network: Network, groups: Groups) -> Tensor:
    """The mean loss of each network, float64 ``[m, N]``; NaN for one that is not finite."""
    loss = losses(network, groups.parameters, groups.stem, groups.labels)
    # A loss can be finite although a parameter is not (-inf before a ReLU): such a network cannot be aligned.
    return loss.masked_fill(~groups.parameters.isfinite().all(dim=2), torch.nan)


@dataclass(frozen=True)
class Pairs:
    """Q buyers and sellers, each pair in one group: int64 ``[Q]``, and ``[Q, H]`` the alignment."""

    group: Tensor
    buyer: Tensor
    seller: Tensor
    permutations: Tensor

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, some: slice) -> Pairs:
        return Pairs(self.group[some], self.buyer[some], self.seller[some], self.permutations[some])

    def split(self, several: int) -> Iterator[Pairs]:
        """So many pairs at a time."""
        for start in range(0, len(self), several):
            yield self[start : start + several]


def try_merges(network: Network, groups: Groups, pairs: Pairs, weights: Tensor) -> Tensor:
    """The mean loss, float64 ``[Q, L]``, of L merges of each pair, with the merge weights ``[L, P]`` float32."""
    units, samples = groups.stem.shape[2:]
    room = max(1, chunk_elements(weights.device) // (len(weights) * units))
    several, block = max(1, room // samples), min(room, samples)
    mine = groups.parameters[pairs.group, pairs.buyer]
    theirs = permute(network, groups.parameters[pairs.group, pairs.seller], pairs.permutations)
    size = network.stem_size
    mine, theirs = (bodies[:, None, size:].split(several) for bodies in (mine, theirs))
    parts = [
        _try(network, groups, some, torch.lerp(*bodies, weights[:, size:]), weights[:, 0], block)
        for some, bodies in zip(pairs.split(several), zip(mine, theirs, strict=True), strict=True)
    ]
    return torch.cat(parts)


def _try(network: Network, groups: Groups, pairs: Pairs, bodies: Tensor, weights: Tensor, block: int) -> Tensor:
    """As :func:`try_merges` for a few pairs, whose merged ``bodies`` are ``[Q, L, P - stem_size]``.

    ``weights`` ``[L]`` are those of the stems; ``block`` is how many samples are looked at at a time.
    """
    units = torch.arange(groups.stem.shape[2], device=weights.device)
    my_stem = _rows_of_stem(groups, pairs.group, pairs.buyer, units)
    their_stem = _rows_of_stem(groups, pairs.group, pairs.seller, stem_order(network, pairs.permutations))
    total = torch.zeros(bodies.shape[:2], dtype=torch.float64, device=weights.device)
    for start in range(0, groups.stem.shape[3], block):
        columns = slice(start, start + block)
        stem = torch.lerp(my_stem[:, None, :, columns], their_stem[:, None, :, columns], weights[:, None, None])
        logits = network.body(bodies, stem)
        total += sample_losses(logits, groups.labels[pairs.group, columns]).sum(-1, dtype=torch.float64)
    return total / groups.stem.shape[3]


def _rows_of_stem(groups: Groups, group: Tensor, network: Tensor, units: Tensor) -> Tensor:
    """Stems ``[Q, units, n]`` of some networks, their units in the order ``[Q, units]`` or ``[units]``."""
    _, networks, width, samples = groups.stem.shape
    rows = (group * networks + network).unsqueeze(1) * width + units
    return groups.stem.view(-1, samples).index_select(0, rows.flatten()).view(*rows.shape, samples)
