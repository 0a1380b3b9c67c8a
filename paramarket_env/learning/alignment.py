"""Align a seller's network to a buyer's: weight matching (Ainsworth et al., *Git Re-Basin*, ICLR 2023, algorithm 1).

Hidden units have no order of their own, so two networks that compute alike may look unlike. Weight matching permutes
the seller's units so that its tensors have the largest inner product with the buyer's, by coordinate ascent over the
permutations, each step a linear assignment. It needs no data and never changes the function the seller computes.

The permutations of Q pairs are one int64 tensor ``[Q, H]``: those of ``networks.permutation_sizes`` in their order, one
behind the other; entry i names the seller's unit that takes the place of the buyer's unit i.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paramarket_env.learning.networks import Network, offsets, permutation_sizes, split
from paramarket_env.seeding import permutation, stream

TOLERANCE = 1e-12
"""A permutation is replaced only by one whose inner product is larger by more than this share of it (of 1, if less)."""


def identity(network: Network, pairs: int, device: torch.device) -> Tensor:
    """Permutations that change nothing, ``[Q, H]``."""
    units = [torch.arange(size) for size in permutation_sizes(network).values()]
    flat = torch.cat(units) if units else torch.zeros(0, dtype=torch.int64)
    return flat.to(device).repeat(pairs, 1)


def permute(network: Network, parameters: Tensor, permutations: Tensor) -> Tensor:
    """The networks ``[Q, P]`` with their hidden units in the order of ``permutations`` ``[Q, H]``."""
    by_name = _by_name(network, permutations)
    index = []
    for spec, offset in zip(network.parameters, offsets(network), strict=True):
        place = torch.full((len(parameters),), offset, device=parameters.device)
        stride = spec.size
        for name, size in zip(spec.permutations, spec.shape, strict=True):
            stride //= size
            units = torch.arange(size, device=parameters.device) if name is None else by_name[name]
            place = place.unsqueeze(-1) + (units * stride).view(-1, *(1,) * (place.dim() - 1), size)
        index.append(place.flatten(1))
    return parameters.gather(1, torch.cat(index, dim=1))


def weight_matching(network: Network, buyers: Tensor, sellers: Tensor) -> Tensor:
    """The permutations ``[Q, H]`` that bring each seller's units into its buyer's order; both ``[Q, P]``.

    The permutations are visited in a random order, drawn from a fixed stream for each sweep, the same for all pairs:
    a pair is matched alike alone and beside others.
    """
    names = list(permutation_sizes(network))
    result = identity(network, len(buyers), buyers.device)
    moving = torch.arange(len(buyers), device=buyers.device)
    for sweep in count():
        if len(moving) == 0 or not names:
            return result
        by_name = _by_name(network, result[moving])
        buyer, seller = (split(network, networks[moving].double()) for networks in (buyers, sellers))
        improved = torch.zeros(len(moving), dtype=torch.bool, device=buyers.device)
        for position in permutation(stream(torch.tensor(0), "weight matching", sweep), len(names)).tolist():
            name = names[position]
            products = _inner_products(network, name, buyer, seller, by_name)
            better = _assign(products)
            before = _total(products, by_name[name])
            gain = _total(products, better) - before > TOLERANCE * before.abs().clamp_min(1)
            by_name[name] = torch.where(gain.unsqueeze(-1), better, by_name[name])
            improved |= gain
        result[moving] = torch.cat([by_name[name] for name in names], dim=1)
        moving = moving[improved]
    raise AssertionError("unreachable: each sweep improves a bounded sum or ends")


def _by_name(network: Network, permutations: Tensor) -> dict[str, Tensor]:
    sizes = permutation_sizes(network)
    return dict(zip(sizes, permutations.split(list(sizes.values()), dim=1), strict=True))


def _inner_products(
    network: Network, name: str, buyer: dict[str, Tensor], seller: dict[str, Tensor], current: dict[str, Tensor]
) -> Tensor:
    """How alike the buyer's unit i and the seller's unit j are, ``[Q, n, n]``, summed over all tensors that they touch.

    The seller's other axes stand in the order of the current permutations.
    """
    products = []
    for spec in network.parameters:
        for axis, acting in enumerate(spec.permutations):
            if acting != name:
                continue
            moved = seller[spec.name]
            for other, permuting in enumerate(spec.permutations):
                if other != axis and permuting is not None:
                    moved = _reorder(moved, other + 1, current[permuting])
            mine, theirs = (tensor.movedim(axis + 1, 1) for tensor in (buyer[spec.name], moved))
            mine, theirs = (tensor.reshape(*tensor.shape[:2], -1) for tensor in (mine, theirs))
            products.append(mine @ theirs.mT)
    return torch.stack(products).sum(0)


def _reorder(tensor: Tensor, axis: int, order: Tensor) -> Tensor:
    shape = [1] * tensor.dim()
    shape[0], shape[axis] = order.shape
    return torch.take_along_dim(tensor, order.view(shape), dim=axis)


def _assign(products: Tensor) -> Tensor:
    """The permutation of each ``[n, n]`` matrix with the largest sum, int64 ``[Q, n]``."""
    solved = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in products.cpu().numpy()]
    return torch.from_numpy(np.stack(solved)).to(products.device)


def _total(products: Tensor, order: Tensor) -> Tensor:
    return products.gather(2, order.unsqueeze(-1)).sum((1, 2))
