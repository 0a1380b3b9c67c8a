"""The hidden units that the tensors inside a module hold, and how they pass through operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from paramarket_env.learning.networks.units import Units, fixed

Name = int | str
"""The name of an axis in an operation."""

N = TypeVar("N", int, Name)

Piece = tuple[tuple[Name, ...], Tensor]
"""Some axes and the units along them, int64 with one dimension for each of these axes."""

Labels = tuple[tuple[tuple[int, ...], Tensor], ...]
"""The units that a tensor holds, in pieces whose axes are named by their indices. An axis without a piece is fixed.

Axes share a piece if the order of one depends on the index of the other: those of heads and of the units in each head.
"""


@dataclass(frozen=True)
class Operand:
    """A tensor of an operation whose axes have names. Axes of the same name are matched."""

    shape: tuple[int, ...]
    """Axes along which the tensor is constant count as axes of size 1."""
    labels: Labels
    names: tuple[Name, ...]

    def pieces(self) -> list[Piece]:
        """The units of all axes. An axis of size 1 is broadcast and has none. Other axes without labels are fixed."""
        pieces: list[Piece] = [(tuple(self.names[axis] for axis in axes), units) for axes, units in self.labels]
        labelled = {axis for axes, _ in self.labels for axis in axes}
        for axis, (name, size) in enumerate(zip(self.names, self.shape, strict=True)):
            if axis not in labelled and size > 1:
                pieces.append(((name,), fixed(size)))
        return pieces


def combine(units: Units, operands: Sequence[Operand], kept: Sequence[Name], fixed: str = "") -> Labels:
    """Match the operands' axes by name, as an Einstein summation does, and return the labels of the kept axes.

    The axes named in ``fixed`` do not move.
    """
    pieces = [piece for operand in operands for piece in operand.pieces()]
    labels = []
    for group in _connected(pieces):
        cover = max(group, key=lambda piece: len(piece[0]))
        names = {name for each, _ in group for name in each}
        if names == set(cover[0]) and not names & set(fixed):
            for each, held in group:
                units.tie(_restrict(units, cover, each), held)
            rest = tuple(name for name in kept if name in names)
            axes = tuple(kept.index(name) for name in rest)
            labels += [(axes, _restrict(units, cover, rest))] if rest else []
        else:
            _fix(units, group)
    return tuple(labels)


def _connected(pieces: Iterable[tuple[tuple[N, ...], Tensor]]) -> list[list[tuple[tuple[N, ...], Tensor]]]:
    """The groups of pieces that share axes, without the groups in which nothing moves."""
    groups: list[tuple[set[N], list[tuple[tuple[N, ...], Tensor]]]] = []
    for piece in pieces:
        names, members = set(piece[0]), [piece]
        for group in [group for group in groups if group[0] & names]:
            groups.remove(group)
            names, members = names | group[0], group[1] + members
        groups.append((names, members))
    return [members for _, members in groups if any(bool(held.any()) for _, held in members)]


def _fix(units: Units, pieces: Iterable[tuple[tuple[N, ...], Tensor]]) -> None:
    for _, held in pieces:
        units.fix(held)


def _restrict(units: Units, piece: Piece, names: tuple[Name, ...]) -> Tensor:
    """The units that move as a piece does along some of its axes, in the order of ``names``."""
    axes, held = piece
    order = [axes.index(name) for name in names]
    held = held.permute(order + [axis for axis in range(held.dim()) if axis not in order])
    shape = held.shape[: len(names)]
    return held if len(names) == len(axes) else units.outer(held.reshape(shape.numel(), -1)).view(shape)


def move(units: Units, labels: Labels, shape: Sequence[int], change: Callable[[Tensor], Any]) -> list[Labels]:
    """The labels after an operation that moves elements, which ``change`` does to a tensor of this shape."""
    moved = []
    for axes, held in labels:
        ordered = held.permute(sorted(range(len(axes)), key=axes.__getitem__))
        sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        changed = change(ordered.reshape(sizes).expand(*shape))
        moved.append([_varying(output) for output in ([changed] if isinstance(changed, Tensor) else changed)])
    units.cuts += [held for pieces in moved for _, held in pieces]
    return [_apart(units, pieces) for pieces in zip(*moved, strict=True)]


def _varying(values: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """The axes along which the values differ, and the values along these axes."""
    axes = []
    for axis, stride in enumerate(values.stride()):
        first = values.narrow(axis, 0, 1)
        if stride != 0 and not bool((values == first).all()):
            axes.append(axis)
        else:
            values = first
    return tuple(axes), values.reshape([values.shape[axis] for axis in axes])


def _apart(units: Units, labels: Labels) -> Labels:
    """The pieces that share no axis with another one. The others are fixed."""
    groups = _connected(labels)
    for group in groups:
        if len(group) > 1:
            _fix(units, group)
    return tuple(group[0] for group in groups if len(group) == 1)


def normalise(units: Units, operand: Operand, over: Iterable[Name], *affine: Operand) -> Labels:
    """The labels after a normalisation by statistics over some axes, and an affine map."""
    rest = [name for name in operand.names if name not in set(over)]
    shape = tuple(operand.shape[operand.names.index(name)] for name in rest)
    statistics = Operand(shape, combine(units, [operand], rest), tuple(rest))
    return combine(units, [operand, statistics, *affine], operand.names)
