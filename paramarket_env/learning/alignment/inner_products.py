"""The inner product of two networks as a function of the second one's permutations, which weight matching maximises."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from paramarket_env.learning.alignment.permutations import axis_order, by_name, moving_axes, permute, reorder
from paramarket_env.learning.networks.network import (
    Axis,
    Network,
    ParameterSpec,
    Segment,
    permutation_sizes,
    split,
)

Some = Tensor | slice
"""Some of Q pairs: their indices, or ``ALL``."""
ALL = slice(None)


@dataclass(frozen=True)
class Place:
    """A segment of an axis of a tensor on which a permutation acts."""

    number: int
    """The index of the tensor."""
    spec: ParameterSpec
    axis: int
    start: int
    segment: Segment

    @cached_property
    def others(self) -> list[int]:
        """The other axes of the tensor on which a permutation acts."""
        return [number for number in moving_axes(self.spec) if number != self.axis]

    def by_unit(self, tensor: Tensor) -> Tensor:
        """The part of a tensor ``[q, *shape]`` that belongs to each unit of the segment, ``[q, units, elements]``."""
        part = tensor.narrow(self.axis + 1, self.start, self.segment.size).movedim(self.axis + 1, 1)
        units: Tensor = part.unflatten(1, (self.segment.units, self.segment.repeat))
        return units.flatten(2)

    def with_units_last(self, tensor: Tensor) -> Tensor:
        """The part of a tensor ``[q, *shape]`` that the segment holds, ``[q, *others, ..., units]``."""
        part = tensor.narrow(self.axis + 1, self.start, self.segment.size)
        units = part.unflatten(self.axis + 1, (self.segment.units, self.segment.repeat)).movedim(self.axis + 1, -1)
        dims = range(1, 1 + len(self.others))
        layout: Tensor = units.movedim([other + 1 for other in self.others], list(dims)).contiguous()
        return layout


@lru_cache(maxsize=16)
def places(network: Network) -> dict[str, list[Place]]:
    """The places where each permutation acts, by its name."""
    found: dict[str, list[Place]] = {name: [] for name in permutation_sizes(network)}
    for index, spec in enumerate(network.parameters):
        for number, axis in enumerate(spec.axes):
            starts = accumulate((segment.size for segment in axis), initial=0)
            for start, segment in zip(starts, axis, strict=False):
                if segment.permutation is not None:
                    found[segment.permutation].append(Place(index, spec, number, start, segment))
    return found


class InnerProducts:
    """The inner products of Q pairs of a buyer and a seller, ``[Q, P]`` each, computed in float64."""

    def __init__(self, network: Network, buyers: Tensor, sellers: Tensor) -> None:
        self.network = network
        self._buyers, self._sellers = buyers.double(), sellers.double()
        # What the tensors with a single permuted axis add to the products of units is always the same.
        self._fixed = {name: self._of_units_alone(some) for name, some in places(network).items()}
        self._layouts: dict[Place, tuple[Tensor, Tensor]] = {}

    def _of_units_alone(self, some: list[Place]) -> Tensor:
        """The products of units by the places whose tensors have no other permuted axis, ``[Q, units, units]``."""
        alone = [place for place in some if not place.others]
        if not alone:
            return self._buyers.new_zeros(len(self), some[0].segment.units, some[0].segment.units)
        buyer, seller = (
            torch.cat([place.by_unit(tensors[place.number]) for place in alone], dim=2) for tensors in self._tensors
        )
        return buyer @ seller.mT

    def __len__(self) -> int:
        return len(self._buyers)

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self._buyers.device

    @property
    def unchanged(self) -> Tensor:
        """The inner products ``[Q]`` with the sellers' units as they are."""
        return _inner(self._buyers, self._sellers)

    def of_networks(self, permutations: Tensor, pairs: Some = ALL) -> Tensor:
        """The inner products ``[q]`` of some pairs, with the sellers' units ordered by ``permutations`` ``[q, H]``."""
        return _inner(self._buyers[pairs], permute(self.network, self._sellers[pairs], permutations))

    def of_matrices(self, matrices: dict[str, Tensor]) -> Tensor:
        """The inner products ``[Q]`` with the sellers' units mixed by matrices; see :meth:`of_units_mixed`."""
        total = self._buyers.new_zeros(len(self))
        for spec, buyer, seller in zip(self.network.parameters, *self._tensors, strict=True):
            mixed = seller
            for number in moving_axes(spec):
                mixed = _mix(mixed, number + 1, spec.axes[number], matrices)
            total += (buyer * mixed).reshape(len(self), -1).sum(1)
        return total

    def of_units(self, name: str, permutations: Tensor, pairs: Some = ALL) -> Tensor:
        """The inner product of each unit of the buyer with each of the seller, for some pairs: ``[q, units, units]``.

        The units are those of the permutation ``name``. The other permuted axes of the seller's tensors are in the
        order of ``permutations``, int64 ``[q, H]``.
        """
        total, orders = self._fixed[name][pairs], by_name(self.network, permutations)
        for place in places(self.network)[name]:
            if place.others:
                buyer, seller = (layout[pairs] for layout in self._layout(place))
                for dim, other in enumerate(place.others, start=1):
                    seller = reorder(seller, dim, axis_order(place.spec.axes[other], orders, self.device))
                total = torch.baddbmm(total, buyer.flatten(1, -2).mT, seller.flatten(1, -2))
        return total

    def _layout(self, place: Place) -> tuple[Tensor, Tensor]:
        """The part of the buyers' and of the sellers' tensors at a place; see :meth:`Place.with_units_last`."""
        if place not in self._layouts:
            buyer, seller = (place.with_units_last(tensors[place.number]) for tensors in self._tensors)
            self._layouts[place] = buyer, seller
        return self._layouts[place]

    def of_units_mixed(self, name: str, matrices: dict[str, Tensor], pairs: Some = ALL) -> Tensor:
        """The products of :meth:`of_units`, with the seller's other axes mixed by matrices.

        ``matrices`` holds a doubly stochastic matrix for each permutation, float64 ``[q, units, units]``.
        """
        total = self._fixed[name][pairs]
        for place in places(self.network)[name]:
            if place.others:
                buyer, mixed = (tensors[place.number][pairs] for tensors in self._tensors)
                for other in place.others:
                    mixed = _mix(mixed, other + 1, place.spec.axes[other], matrices)
                total = torch.baddbmm(total, place.by_unit(buyer), place.by_unit(mixed).mT)
        return total

    @cached_property
    def _tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """The named tensors of the buyers and of the sellers, ``[Q, *shape]`` each."""
        buyers, sellers = (list(split(self.network, networks).values()) for networks in (self._buyers, self._sellers))
        return buyers, sellers


def _inner(buyers: Tensor, sellers: Tensor) -> Tensor:
    """The inner product of each row of ``[q, P]`` with its counterpart, ``[q]``."""
    products: Tensor = torch.linalg.vecdot(buyers, sellers)
    return products


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
