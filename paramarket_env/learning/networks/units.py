"""Hidden units, the constraints that a module's operations put on their order, and the orders that remain free.

A unit is one index of one axis of one parameter. A constraint is data: units that move together, a cut between units
that are used differently, or units that stay together in a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from paramarket_env.learning.networks.network import Axis, Blocks, Segment

Ints = NDArray[np.int64]
Edges = tuple[Ints, Ints]
"""Units that move together, pair by pair."""

FIXED = 0
"""The unit that stands for everything that must not move, and its class."""


def fixed(size: int) -> Tensor:
    """The units ``[size]`` along an axis that does not move."""
    return torch.full((size,), FIXED, device="cpu")


@dataclass
class Units:
    """The units of a module and the constraints on them. Tensors of units are int64 on the CPU."""

    size: int = 1
    """The number of units so far, with unit 0."""
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Pairs of tensors of one shape: the units at the same place move together."""
    cuts: list[Tensor] = field(default_factory=list)
    """Units that cannot be exchanged with units outside the tensor."""
    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Units ``[K, D]`` that stay in their K blocks, and the units ``[K]`` that the blocks are themselves."""

    def new(self, size: int) -> Tensor:
        """New units ``[size]``, which are free."""
        self.size += size
        return torch.arange(self.size - size, self.size, device="cpu")

    def tie(self, first: Tensor, second: Tensor) -> None:
        """Let the units at the same place of two tensors, which are broadcast, move together."""
        self.ties.append(tuple(torch.broadcast_tensors(first, second)))

    def fix(self, units: Tensor) -> None:
        """Let the units stay where they are."""
        self.tie(units, torch.full_like(units, FIXED))

    def outer(self, rows: Tensor) -> Tensor:
        """The units ``[K]`` that move as the rows ``[K, D]`` do.

        Rows of consecutive units become blocks. Other rows cannot be blocks of an axis, so each moves as one unit.
        """
        if rows.shape[1] == 1:
            return rows[:, 0]
        distinct, place = rows.unique(dim=0, return_inverse=True)  # sorted by the first units
        if bool((distinct.amin(1)[1:] > distinct.amax(1)[:-1]).all()):
            self.blocks.append((distinct, self.new(len(distinct))))
            return self.blocks[-1][1][place]
        self.tie(rows, rows[:, :1])
        return rows[:, 0]


def solve(
    units: Units, tensors: Mapping[str, Sequence[Tensor]]
) -> tuple[dict[str, tuple[Axis, ...]], tuple[Blocks, ...]]:
    """The axes of each named tensor, given the units along each axis, and the blocks.

    Units whose orders cannot be described by segments and blocks are fixed.
    """
    edges = [(first.numpy().ravel(), second.numpy().ravel()) for first, second in units.ties]
    axes = [axis.numpy() for each in tensors.values() for axis in each]
    while True:
        orders = _Orders(units, edges, axes)
        odd = [*orders.odd_blocks(), *(cell for axis in axes for cell, _, repeat in orders.runs(axis) if repeat == 0)]
        if not odd:
            break
        edges += [_fixing(orders.first[orders.members[cell]]) for cell in odd]
    names = _names(orders, tensors)
    found = {name: tuple(_axis(orders.runs(axis.numpy()), names) for axis in each) for name, each in tensors.items()}
    return found, orders.blocks(names)


class _Orders:
    """The orders that constraints leave free.

    Units that move together are a *class*. Classes that can be exchanged with each other are a *cell*. Classes and the
    members of cells are in the order of their first units.
    """

    def __init__(self, units: Units, edges: list[Edges], axes: list[Ints]) -> None:
        self._records = [(inside.numpy(), blocks.numpy()) for inside, blocks in units.blocks]
        self.classes, self.first = _components(units.size, edges)
        while more := self._shared() or self._congruent() or self._conflicting():
            edges += more
            self.classes, self.first = _components(units.size, edges)
        self._parent = np.full(len(self.first), FIXED)
        groups = [self.classes[units] for units in (*axes, *(cut.numpy() for cut in units.cuts))]
        for inside, blocks, _ in self._blocks():
            self._parent[inside] = blocks[:, None]
            groups += list(inside[blocks == FIXED])  # nothing can leave a block that does not move
        self._parent[FIXED] = FIXED
        self._cell = self._refine(groups)
        self.members = np.split(np.argsort(self._cell, kind="stable"), np.bincount(self._cell).cumsum()[:-1])

    def _blocks(self) -> list[tuple[Ints, Ints, Ints]]:
        """The classes ``[K, D]`` in blocks, the classes ``[K]`` of the blocks, and the units ``[K]`` of the blocks."""
        return [(self.classes[inside], self.classes[blocks], blocks) for inside, blocks in self._records]

    def _shared(self) -> list[Edges]:
        """Fix the blocks that hold a fixed class, or a class that another block holds, too."""
        edges = []
        for inside, blocks, units in self._blocks():
            row = np.arange(len(inside)).repeat(inside.shape[1])
            held, row = np.unique(np.stack([inside.ravel(), row]), axis=1)
            bad = np.unique(row[(np.bincount(held)[held] > 1) | (held == FIXED)])
            edges.append(_fixing(units[bad][blocks[bad] != FIXED]))
        return _without_empty(edges)

    def _congruent(self) -> list[Edges]:
        """Unite blocks that hold the same class."""
        owner = np.full(len(self.first), FIXED)
        edges = []
        for inside, blocks, units in self._blocks():
            own, other = np.broadcast_to(units[:, None], inside.shape), owner[inside]
            apart = (other != FIXED) & (self.classes[other] != blocks[:, None]) & (inside != FIXED)
            edges.append((own[apart], other[apart]))
            owner[inside] = own
        return _without_empty(edges)

    def _conflicting(self) -> list[Edges]:
        """Fix the classes in blocks that are not distinct, or that are in other blocks themselves."""
        nested = np.zeros(len(self.first), bool)
        for inside, _, _ in self._blocks():
            nested[inside] = True
        edges = []
        for inside, blocks, _ in self._blocks():
            free = blocks != FIXED
            if len(np.unique(blocks[free])) < free.sum() or nested[blocks[free]].any():
                edges.append(_fixing(self.first[inside[free]].ravel()))
        return _without_empty(edges)

    def _refine(self, groups: list[Ints]) -> Ints:
        """The cell of each class: the coarsest partition by the groups that a class is in, and by its blocks.

        This is colour refinement. A class is in a group as often as it occurs there.
        """
        random = np.random.default_rng(0)
        total = len(self.first)
        signature = np.zeros(total, np.uint64)
        for group in groups:
            np.add.at(signature, group, random.integers(2**63, dtype=np.uint64))
        signature[FIXED] = 0
        cell = np.unique(signature, return_inverse=True)[1]
        while True:
            code = random.integers(2**63, size=total, dtype=np.uint64)[cell]
            held = np.zeros(total, np.uint64)
            np.add.at(held, self._parent, code)
            held[FIXED] = 0
            marks = np.stack([cell.astype(np.uint64), code[self._parent], held])
            finer = np.unique(marks, axis=1, return_inverse=True)[1].ravel()
            if finer.max() == cell.max():
                return finer
            cell = finer

    def is_free(self, cell: int) -> bool:
        """Whether a cell has classes to exchange."""
        return len(self.members[cell]) > 1 and self.members[cell][0] != FIXED

    def runs(self, axis: Ints) -> Iterator[tuple[int, int, int]]:
        """The runs of an axis, each a cell, a number of units and how often each unit is repeated.

        A run that is repeated 0 times is the last: the axis does not hold its cell in order.
        """
        classes = self.classes[axis]
        while len(classes):
            cell = int(self._cell[classes[0]])
            run = classes[:1]
            repeat = 1
            if self.is_free(cell):
                repeat = _leading(classes == classes[0])
                run = self.members[cell].repeat(repeat)
                repeat = repeat if np.array_equal(classes[: len(run)], run) else 0
            yield cell, len(run) // max(repeat, 1), repeat
            classes = classes[len(run) :] if repeat else classes[:0]

    def odd_blocks(self) -> list[int]:
        """The cells whose classes are not in the order of their blocks."""
        return [cell for cell, outer in self._outer().items() if not self._in_order(cell, outer)]

    def _outer(self) -> dict[int, int]:
        """The cell of the blocks of each free cell that comes in blocks."""
        outer = {cell: int(self._cell[self._parent[members[0]]]) for cell, members in enumerate(self.members)}
        return {cell: blocks for cell, blocks in outer.items() if self.is_free(cell) and self.is_free(blocks)}

    def _in_order(self, cell: int, outer: int) -> bool:
        each = len(self.members[cell]) // len(self.members[outer])
        return np.array_equal(self._parent[self.members[cell]], self.members[outer].repeat(each))

    def blocks(self, names: Mapping[int, str]) -> tuple[Blocks, ...]:
        """The blocks of the named cells. Blocks that are units of parameters themselves are among the permutations."""
        inside: dict[int, list[str]] = {}
        outer = self._outer()
        for cell in names:
            if cell in outer:
                blocks = outer[cell]
                inside.setdefault(blocks, [names[blocks]] if blocks in names else []).append(names[cell])
        return tuple(Blocks(len(self.members[blocks]), tuple(each)) for blocks, each in inside.items())


def _components(size: int, edges: list[Edges]) -> tuple[Ints, Ints]:
    """The class of each unit ``[size]`` and the first unit of each class."""
    # Old versions of SciPy need indices of 32 bits.
    left, right = (np.concatenate(each).astype(np.int32) for each in zip(([FIXED], [FIXED]), *edges, strict=True))
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(size, size))
    found = connected_components(graph, directed=False)[1]
    _, first, found = np.unique(found, return_index=True, return_inverse=True)
    order = first.argsort()
    return order.argsort()[found], first[order]


def _fixing(units: Ints) -> Edges:
    return units, np.full_like(units, FIXED)


def _without_empty(edges: list[Edges]) -> list[Edges]:
    return [edge for edge in edges if edge[0].size]


def _leading(same: NDArray[np.bool_]) -> int:
    """The number of leading True values."""
    return len(same) if same.all() else int(same.argmin())


def _axis(runs: Iterator[tuple[int, int, int]], names: Mapping[int, str]) -> Axis:
    """The segments of an axis. Adjacent runs that never move are one segment."""
    axis: list[Segment] = []
    for cell, units, repeat in runs:
        if cell not in names and axis and axis[-1].permutation is None:
            axis[-1] = Segment(None, axis[-1].units + units)
        else:
            axis.append(Segment(names.get(cell), units, repeat))
    return tuple(axis)


def _names(orders: _Orders, tensors: Mapping[str, Sequence[Tensor]]) -> dict[int, str]:
    """The names of the free cells: the module whose output units they are, numbered if it has several."""
    outputs = [(name, axes[0]) for name, axes in tensors.items() if len(axes) > 1]
    owners: dict[int, str] = {}
    for name, axis in outputs + [(name, axis) for name, axes in tensors.items() for axis in axes]:
        for cell, _, _ in orders.runs(axis.numpy()):
            if orders.is_free(cell):
                owners.setdefault(cell, name.rpartition(".")[0] or name)
    cells = {owner: [cell for cell in owners if owners[cell] == owner] for owner in owners.values()}
    return {
        cell: f"{owner}/{number}" if len(several) > 1 else owner
        for owner, several in cells.items()
        for number, cell in enumerate(several)
    }
