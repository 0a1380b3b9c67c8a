"""Linear assignment of a seller's hidden units to a buyer's, one permutation at a time or blocks of units at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paramarket_env.learning.kernels import compiled
from paramarket_env.learning.kernels.selection import backend, kernels
from paramarket_env.learning.networks.network import Blocks, Network, permutation_sizes


@lru_cache(maxsize=16)
def teams_of(network: Network) -> list[Blocks]:
    """The permutations that must be solved together: those of the same blocks. The others are alone."""
    teams = {name: blocks for blocks in network.blocks for name in blocks.permutations}
    each = [teams.get(name, Blocks(1, (name,))) for name in permutation_sizes(network)]
    return list(dict.fromkeys(each))


def assign(team: Blocks, products: list[Tensor], wanted: Tensor) -> list[Tensor]:
    """The permutations of a team with the largest sum of inner products, int64 ``[Q, units]`` each.

    ``products`` are those of each of the buyer's units with each of the seller's, ``[Q, units, units]`` for each of the
    team's permutations. Pairs that are not ``wanted``, bool ``[Q]``, get any permutations.
    """
    if team.count > 1:
        return _assign_blocks(products, wanted, team.count)
    return [assign_units(matrix, wanted) for matrix in products]


def assign_all(network: Network, products: dict[str, Tensor], wanted: Tensor) -> dict[str, Tensor]:
    """The permutations with the largest sum of ``products``, int64 ``[Q, units]`` each, in the network's order.

    ``products`` holds a matrix for each permutation; see :func:`assign`, also for ``wanted``.
    """
    best: dict[str, Tensor] = {}
    for team in teams_of(network):
        units = [products[name] for name in team.permutations]
        best |= dict(zip(team.permutations, assign(team, units, wanted), strict=True))
    return {name: best[name] for name in permutation_sizes(network)}


def assign_units(products: Tensor, wanted: Tensor) -> Tensor:
    """The permutation with the largest sum in each matrix of float64 ``[Q, units, units]``: int64 ``[Q, units]``.

    Matrices that are not ``wanted``, bool ``[Q]``, get any permutation. On a CPU, products that are not finite raise
    ``ValueError``.
    """
    served = backend(products.device)
    if served == "triton":
        on_device: Tensor = kernels(served).assign(products, wanted)
        return on_device
    if served == "compiled":
        return compiled.assign(products.contiguous())
    solved = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in products.cpu().numpy()]
    return torch.from_numpy(np.stack(solved)).to(products.device)


def _assign_blocks(products: list[Tensor], wanted: Tensor, count: int) -> list[Tensor]:
    """The permutations with the largest sum that move ``count`` blocks as wholes, all in the same order.

    Each entry of ``products`` is ``[Q, units, units]``, and each permutation is int64 ``[Q, units]``. Every pair of
    blocks is solved first, and then the order of the blocks.
    """
    within = []
    value = torch.zeros(len(products[0]), count, count, dtype=torch.float64, device=products[0].device)
    each = wanted.repeat_interleave(count * count, output_size=count * count * len(wanted))
    for matrix in products:
        size = matrix.shape[1] // count
        pairs = matrix.unflatten(2, (count, size)).unflatten(1, (count, size)).transpose(2, 3)  # [Q, count, count, ...]
        inner = assign_units(pairs.flatten(0, 2), each).view(-1, count, count, size)
        value += pairs.gather(4, inner.unsqueeze(-1)).sum((3, 4))
        within.append(inner)
    blocks = assign_units(value, wanted).unsqueeze(-1)
    return [
        (blocks * inner.shape[3] + inner.take_along_dim(blocks.unsqueeze(-1), 2).squeeze(2)).flatten(1)
        for inner in within
    ]
