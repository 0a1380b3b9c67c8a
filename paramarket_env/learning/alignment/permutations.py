"""Permutations of hidden units, and their action on flat parameter vectors.

The permutations of Q pairs are one int64 tensor ``[Q, H]``. It concatenates the permutations that ``permutation_sizes``
lists, in that order. Entry i of a permutation is the seller's unit that takes the place of the buyer's unit i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.learning.networks.network import Axis, Network, offsets, permutation_sizes


def identity(network: Network, device: torch.device) -> Tensor:
    """The permutations that change nothing, int64 ``[H]``."""
    units = [torch.arange(size, device=device) for size in permutation_sizes(network).values()]
    return torch.cat(units) if units else torch.zeros(0, dtype=torch.int64, device=device)


def stem_order(network: Network, permutations: Tensor) -> Tensor:
    """The order of the stem's units, ``[Q, units]``, or ``[units]`` if no permutation acts on them."""
    return axis_order(network.parameters[0].axes[0], by_name(network, permutations), permutations.device)


def axis_order(axis: Axis, orders: dict[str, Tensor], device: torch.device) -> Tensor:
    """The order of an axis's elements, int64 ``[Q, size]``, or ``[size]`` if no permutation acts on it.

    ``orders`` holds the permutations by name, int64 ``[Q, units]`` each.
    """
    parts, start = [], 0
    for segment in axis:
        name = segment.permutation
        units = torch.arange(segment.units, device=device) if name is None else orders[name]
        if segment.repeat > 1:
            elements = torch.arange(segment.repeat, device=device)
            units = (units.unsqueeze(-1) * segment.repeat + elements).flatten(-2)
        parts.append(units + start if start else units)
        start += segment.size
    if len(parts) == 1:
        return parts[0]
    rows = max(part.shape[:-1] for part in parts)
    return torch.cat([part.expand(*rows, -1) for part in parts], dim=-1)


def permute(network: Network, parameters: Tensor, permutations: Tensor) -> Tensor:
    """The networks ``[Q, P]`` with their hidden units in the order of ``permutations`` ``[Q, H]``."""
    orders = by_name(network, permutations)
    index = []
    for spec, offset in zip(network.parameters, offsets(network), strict=True):
        place = torch.full((len(parameters),), offset, device=parameters.device)
        stride = spec.size
        for axis, size in zip(spec.axes, spec.shape, strict=True):
            stride //= size
            order = axis_order(axis, orders, parameters.device) * stride
            place = place.unsqueeze(-1) + order.view(-1, *(1,) * (place.dim() - 1), size)
        index.append(place.reshape(len(parameters), -1))  # a tensor may have no axis
    return parameters.gather(1, torch.cat(index, dim=1))


def inverse(network: Network, permutations: Tensor) -> Tensor:
    """The inverse permutations, ``[Q, H]``: they bring the buyer's units into the seller's order."""
    orders = [order.argsort(dim=1) for order in by_name(network, permutations).values()]
    return torch.cat(orders or [permutations], dim=1)


def by_name(network: Network, permutations: Tensor) -> dict[str, Tensor]:
    """Views of the permutations ``[Q, H]`` by name, ``[Q, units]`` each."""
    sizes = permutation_sizes(network)
    return dict(zip(sizes, permutations.split(list(sizes.values()), dim=1), strict=True))
