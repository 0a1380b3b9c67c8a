"""The inner product of two networks as a function of the second one's permutations, which weight matching maximises."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from paramarket_env.learning.alignment.permutations import axis_order, permute
from paramarket_env.learning.networks.network import Axis, Network, ParameterSpec, Segment, permutation_sizes, split


@dataclass(frozen=True)
class Place:
    """A segment of an axis of a tensor on which a permutation acts."""

    spec: ParameterSpec
    axis: int
    start: int
    segment: Segment

    @cached_property
    def others(self) -> list[int]:
        """The other axes of the tensor on which a permutation acts."""
        return [number for number in _moving(self.spec) if number != self.axis]


@lru_cache(maxsize=16)
def places(network: Network) -> dict[str, list[Place]]:
    """The places where each permutation acts, by its name."""
    found: dict[str, list[Place]] = {name: [] for name in permutation_sizes(network)}
    for spec in network.parameters:
        for number, axis in enumerate(spec.axes):
            starts = accumulate((segment.size for segment in axis), initial=0)
            for start, segment in zip(starts, axis, strict=False):
                if segment.permutation is not None:
                    found[segment.permutation].append(Place(spec, number, start, segment))
    return found


def _moving(spec: ParameterSpec) -> list[int]:
    """The axes of a tensor on which permutations act."""
    return [number for number, axis in enumerate(spec.axes) if any(segment.permutation is not None for segment in axis)]


class InnerProducts:
    """The inner products of Q pairs of a buyer and a seller, ``[Q, P]`` each, computed in float64."""

    def __init__(self, network: Network, buyers: Tensor, sellers: Tensor) -> None:
        self.network = network
        self.places = places(network)
        self._pairs = torch.stack([buyers, sellers]).double()
        self._tensors = split(network, self._pairs)
        sizes = permutation_sizes(network)
        zeros = {name: self._pairs.new_zeros(len(buyers), size, size) for name, size in sizes.items()}
        # What the tensors with a single permuted axis add to the products of units is always the same.
        self._fixed = {name: self._add(zeros[name], name, None, None) for name in sizes}

    def __len__(self) -> int:
        return self._pairs.shape[1]

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self._pairs.device

    @property
    def unchanged(self) -> Tensor:
        """The inner products ``[Q]`` with the sellers' units as they are."""
        return torch.einsum("qp,qp->q", *self._pairs)

    def of_networks(self, permutations: Tensor, pairs: Tensor | None = None) -> Tensor:
        """The inner products ``[q]`` with the sellers' units in the order of ``permutations`` ``[q, H]``.

        ``pairs`` ``[q]`` are the indices of the pairs. None means all.
        """
        buyers, sellers = self._pairs if pairs is None else self._pairs[:, pairs]
        return torch.einsum("qp,qp->q", buyers, permute(self.network, sellers, permutations))

    def of_matrices(self, matrices: dict[str, Tensor]) -> Tensor:
        """The inner products ``[Q]`` with the sellers' units mixed by matrices; see :meth:`of_units`."""
        total = self._pairs.new_zeros(len(self))
        for spec in self.network.parameters:
            buyer, seller = self._tensors[spec.name]
            for number in _moving(spec):
                seller = _mix(seller, number + 1, spec.axes[number], matrices)
            total += (buyer * seller).reshape(len(self), -1).sum(1)
        return total

    def of_units(self, name: str, pairs: Tensor, current: dict[str, Tensor]) -> Tensor:
        """The inner product of each unit of the buyer with each of the seller, ``[q, units, units]``.

        The units are those of the permutation ``name``. The seller's other axes are in the order of ``current``. It
        holds the permutations of these pairs by name: as permutations, int64 ``[q, units]``, or as doubly stochastic
        matrices, float64 ``[q, units, units]``.
        """
        return self._add(self._fixed[name][pairs], name, pairs, current)

    def _add(self, total: Tensor, name: str, pairs: Tensor | None, current: dict[str, Tensor] | None) -> Tensor:
        """``total`` plus the products of the tensors with several permuted axes, or without ``current`` the others."""
        for place in self.places[name]:
            if bool(place.others) != (current is not None):
                continue
            both = self._tensors[place.spec.name]
            both = (both if pairs is None else both[:, pairs]).narrow(place.axis + 2, place.start, place.segment.size)
            buyer, seller = both
            if current is not None:
                for other in place.others:
                    seller = _reorder(seller, other + 1, place.spec.axes[other], current)
            buyer, seller = (_by_unit(tensor, place) for tensor in (buyer, seller))
            total = total + buyer @ seller.mT
        return total


def _by_unit(tensor: Tensor, place: Place) -> Tensor:
    """The part of a tensor ``[q, *shape]`` that belongs to each unit of a place, ``[q, units, elements]``."""
    units: Tensor = tensor.movedim(place.axis + 1, 1).unflatten(1, (place.segment.units, place.segment.repeat))
    return units.flatten(2)


def _reorder(tensor: Tensor, dim: int, axis: Axis, current: dict[str, Tensor]) -> Tensor:
    """The tensor ``[q, ...]`` with one axis in the order of ``current``; see :meth:`InnerProducts.of_units`."""
    if next(iter(current.values())).is_floating_point():
        return _mix(tensor, dim, axis, current)
    order = axis_order(axis, current, tensor.device)
    shape = [1] * tensor.dim()
    shape[0], shape[dim] = order.shape
    return torch.take_along_dim(tensor, order.view(shape), dim=dim)


def _mix(tensor: Tensor, dim: int, axis: Axis, matrices: dict[str, Tensor]) -> Tensor:
    """The tensor ``[q, ...]`` with each unit of an axis replaced by a weighted sum of the units of its segment."""
    first = tensor.movedim(dim, 1)
    mixed = []
    for segment, part in zip(axis, first.split([segment.size for segment in axis], dim=1), strict=True):
        if segment.permutation is not None:
            units = part.unflatten(1, (segment.units, segment.repeat)).flatten(2)
            mixed.append((matrices[segment.permutation] @ units).view(part.shape))
        else:
            mixed.append(part)
    return torch.cat(mixed, dim=1).movedim(1, dim)
