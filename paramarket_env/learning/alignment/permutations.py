"""Permutations of hidden units, and their action on flat parameter vectors.

The permutations of Q pairs are one int64 tensor ``[Q, H]``. It concatenates the permutations that ``permutation_sizes``
lists, in that order. Entry i of a permutation is the seller's unit that takes the place of the buyer's unit i.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from paramarket_env.learning.networks.network import Axis, Network, ParameterSpec, permutation_sizes, split


@lru_cache(maxsize=16)
def columns_of(network: Network) -> dict[str, slice]:
    """The columns of each permutation in ``[Q, H]``, by its name."""
    sizes = permutation_sizes(network)
    starts = accumulate(sizes.values(), initial=0)
    return {name: slice(start, start + size) for (name, size), start in zip(sizes.items(), starts, strict=False)}


@lru_cache(maxsize=16)
def identity(network: Network, device: torch.device) -> Tensor:
    """The permutations that change nothing, int64 ``[H]``. The tensor is shared: do not change it."""
    return torch.arange(sum(permutation_sizes(network).values()), device=device) - _starts(network, device)


@lru_cache(maxsize=16)
def _starts(network: Network, device: torch.device) -> Tensor:
    """The first column of the permutation that each column belongs to, int64 ``[H]``."""
    starts = [torch.full((part.stop - part.start,), part.start, device=device) for part in columns_of(network).values()]
    return torch.cat(starts) if starts else torch.zeros(0, dtype=torch.int64, device=device)


def inverse(network: Network, permutations: Tensor) -> Tensor:
    """The inverse permutations, ``[Q, H]``: they bring the buyer's units into the seller's order."""
    places = permutations + _starts(network, permutations.device)
    units = identity(network, permutations.device).expand_as(permutations)
    return torch.empty_like(permutations).scatter_(1, places, units)


def compose(network: Network, first: Tensor, second: Tensor) -> Tensor:
    """The permutations ``[Q, H]`` that do what the ``first`` and then the ``second`` do, int64 ``[Q, H]`` each."""
    return first.gather(1, second + _starts(network, second.device))


def by_name(network: Network, permutations: Tensor) -> dict[str, Tensor]:
    """Views of the permutations ``[Q, H]`` by name, ``[Q, units]`` each."""
    return {name: permutations[:, columns] for name, columns in columns_of(network).items()}


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
    """The networks ``[Q, P]`` with their hidden units in the order of ``permutations`` ``[Q, H]``, any integers."""
    orders, parts = by_name(network, permutations.long()), []
    for spec, tensor in zip(network.parameters, split(network, parameters).values(), strict=True):
        moved = tensor
        for number in moving_axes(spec):
            moved = reorder(moved, number + 1, axis_order(spec.axes[number], orders, parameters.device))
        parts.append(moved.flatten(1) if spec.shape else moved.unsqueeze(1))
    return torch.cat(parts, dim=1)


def reorder(tensor: Tensor, dim: int, order: Tensor) -> Tensor:
    """The tensor ``[Q, ...]`` with its elements along ``dim`` in the ``order``, int64 ``[Q, size]``."""
    if dim == 1 and tensor.dim() > 2:  # whole rows are copied, which is several times faster than single elements
        rows = order + torch.arange(0, order.numel(), order.shape[1], device=order.device).unsqueeze(1)
        return tensor.flatten(0, 1).index_select(0, rows.flatten()).view(tensor.shape)
    index = order.view(len(order), *(1,) * (dim - 1), -1, *(1,) * (tensor.dim() - dim - 1))
    return tensor.gather(dim, index.expand(tensor.shape))


def moving_axes(spec: ParameterSpec) -> list[int]:
    """The axes of a tensor on which permutations act."""
    return [number for number, axis in enumerate(spec.axes) if any(segment.permutation is not None for segment in axis)]
