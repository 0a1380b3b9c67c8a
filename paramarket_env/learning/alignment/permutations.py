"""Permutations of hidden units, and their action on flat parameter vectors.

The permutations of Q pairs are one int64 tensor ``[Q, H]``. It concatenates the permutations that ``permutation_sizes``
lists, in that order. Entry i of a permutation is the seller's unit that takes the place of the buyer's unit i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.learning.networks.network import Network, offsets, permutation_sizes


def identity(network: Network, device: torch.device) -> Tensor:
    """The permutations that change nothing, int64 ``[H]``."""
    units = [torch.arange(size, device=device) for size in permutation_sizes(network).values()]
    return torch.cat(units) if units else torch.zeros(0, dtype=torch.int64, device=device)


def stem_order(network: Network, permutations: Tensor) -> Tensor:
    """The part of the permutations that acts on the stem's units, ``[Q, units]``."""
    first = network.parameters[0]
    acting = first.permutations[0]
    if acting is None:
        return torch.arange(first.shape[0], device=permutations.device).repeat(len(permutations), 1)
    return by_name(network, permutations)[acting]


def permute(network: Network, parameters: Tensor, permutations: Tensor) -> Tensor:
    """The networks ``[Q, P]`` with their hidden units in the order of ``permutations`` ``[Q, H]``."""
    orders = by_name(network, permutations)
    index = []
    for spec, offset in zip(network.parameters, offsets(network), strict=True):
        place = torch.full((len(parameters),), offset, device=parameters.device)
        stride = spec.size
        for name, size in zip(spec.permutations, spec.shape, strict=True):
            stride //= size
            units = torch.arange(size, device=parameters.device) if name is None else orders[name]
            place = place.unsqueeze(-1) + (units * stride).view(-1, *(1,) * (place.dim() - 1), size)
        index.append(place.flatten(1))
    return parameters.gather(1, torch.cat(index, dim=1))


def inverse(network: Network, permutations: Tensor) -> Tensor:
    """The inverse permutations, ``[Q, H]``: they bring the buyer's units into the seller's order."""
    orders = [order.argsort(dim=1) for order in by_name(network, permutations).values()]
    return torch.cat(orders or [permutations], dim=1)


def by_name(network: Network, permutations: Tensor) -> dict[str, Tensor]:
    """Views of the permutations ``[Q, H]`` by name, ``[Q, units]`` each."""
    sizes = permutation_sizes(network)
    return dict(zip(sizes, permutations.split(list(sizes.values()), dim=1), strict=True))
