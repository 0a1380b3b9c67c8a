"""Weight matching of MLPs in Triton: one program for each pair, from the first sweep to the last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from paramarket_env.learning.kernels.triton_assignment import solve
from paramarket_env.learning.kernels.triton_shapes import BLOCK, layout


def match(
    widths: Sequence[int], buyers: Tensor, sellers: Tensor, start: Tensor, visits: Tensor, tolerance: float
) -> Tensor:
    """The permutations, int64 ``[Q, H]``, of buyers and sellers ``[Q, P]``; see :func:`.weight_matching.ascend`.

    Each sweep visits the permutations in the order of its row in ``visits``, int64 ``[sweeps, permutations]``. A
    permutation with a product of units that is not finite stays what it is.
    """
    out, hidden = torch.empty_like(start), widths[1:-1]
    if len(out):
        largest = max(hidden)
        products = torch.empty(len(out), largest, largest, dtype=torch.float64, device=out.device)
        with torch.cuda.device_of(out):  # Triton launches on the current device
            _match[(len(out),)](
                *(tensor.contiguous() for tensor in (buyers, sellers, start, visits)),
                *(out, products, buyers.shape[1], start.shape[1], products.shape[1:].numel(), tolerance),
                **layout(widths),
                STARTS=tuple(accumulate(hidden, initial=0))[:-1],
                SWEEPS=len(visits),
                BLOCK=BLOCK,
                num_warps=max(1, triton.next_power_of_2(largest) // 32),
            )
    return out


@triton.jit
def _match(
    buyers: tl.tensor,
    sellers: tl.tensor,
    starts: tl.tensor,
    visits: tl.tensor,
    out: tl.tensor,
    products: tl.tensor,
    parameters: tl.tensor,
    units: tl.tensor,
    square: tl.tensor,
    tolerance: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    STARTS: tl.constexpr,
    SWEEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    pair = tl.program_id(0).to(tl.int64)
    ours = buyers + pair * parameters
    theirs = sellers + pair * parameters
    start = starts + pair * units
    order = out + pair * units
    _store_order(order, order, False, WIDTHS, PADDED, STARTS)
    tl.debug_barrier()
    unchanged = _likeness(ours, theirs, order, WIDTHS, PADDED, OFFSETS, STARTS, BLOCK)
    started = _likeness(ours, theirs, start, WIDTHS, PADDED, OFFSETS, STARTS, BLOCK)
    tl.debug_barrier()
    _store_order(order, start, started > unchanged, WIDTHS, PADDED, STARTS)
    tl.debug_barrier()
    # Bit j is set if the permutation of hidden layer j must be solved.
    stale = (1 << HIDDEN) - 1
    sweep = 0
    while (sweep < SWEEPS) & (stale != 0):
        for visit in range(HIDDEN):
            visited = tl.load(visits + sweep * HIDDEN + visit)
            for layer in tl.static_range(HIDDEN):
                if (visited == layer) & (((stale >> layer) & 1) == 1):
                    table = products + pair * square
                    improves = _improve(
                        ours, theirs, order, table, tolerance, layer, WIDTHS, PADDED, OFFSETS, STARTS, BLOCK
                    )
                    neighbours = ((1 << (layer + 1)) | ((1 << layer) >> 1)) & ((1 << HIDDEN) - 1)
                    stale = (stale & ~(1 << layer)) | tl.where(improves, neighbours, 0)
        sweep += 1


@triton.jit
def _store_order(
    to: tl.tensor,
    start: tl.tensor,
    starts: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    STARTS: tl.constexpr,
) -> None:
    """Store the permutations at ``start`` if the ascent ``starts`` there, and otherwise the identity."""
    for layer in tl.static_range(len(WIDTHS) - 2):
        unit = tl.arange(0, PADDED[layer + 1])
        inside = unit < WIDTHS[layer + 1]
        given = tl.load(start + STARTS[layer] + unit, mask=inside, other=0)
        tl.store(to + STARTS[layer] + unit, tl.where(starts, given, unit.to(tl.int64)), mask=inside)


@triton.jit
def _likeness(
    ours: tl.tensor,
    theirs: tl.tensor,
    order: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    STARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The inner product of two networks, float64, with the seller's units in the ``order``."""
    total = tl.zeros([], tl.float64)
    for layer in tl.static_range(len(WIDTHS) - 1):
        total += _likeness_of_layer(ours, theirs, order, layer, WIDTHS, PADDED, OFFSETS, STARTS, BLOCK)
    return total


@triton.jit
def _likeness_of_layer(
    ours: tl.tensor,
    theirs: tl.tensor,
    order: tl.tensor,
    layer: tl.constexpr,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    STARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    inputs: tl.constexpr = WIDTHS[layer]
    outputs: tl.constexpr = WIDTHS[layer + 1]
    biases: tl.constexpr = OFFSETS[layer] + inputs * outputs
    unit = tl.arange(0, PADDED[layer + 1])
    inside = unit < outputs
    moved = _moved(order, STARTS, unit, inside, layer, HIDDEN)
    mine_bias = tl.load(ours + biases + unit, mask=inside, other=0.0).to(tl.float64)
    total = tl.sum(mine_bias * tl.load(theirs + biases + moved, mask=inside, other=0.0).to(tl.float64), 0)
    for first in range(0, inputs, BLOCK):
        element = first + tl.arange(0, BLOCK)
        there = element < inputs
        source = _moved(order, STARTS, element, there, layer - 1, HIDDEN)
        mask = inside[:, None] & there[None, :]
        at = OFFSETS[layer] + unit[:, None] * inputs + element[None, :]
        of = OFFSETS[layer] + moved[:, None] * inputs + source[None, :]
        mine = tl.load(ours + at, mask=mask, other=0.0).to(tl.float64)
        total += tl.sum(tl.sum(mine * tl.load(theirs + of, mask=mask, other=0.0).to(tl.float64), 1), 0)
    return total


@triton.jit
def _moved(
    order: tl.tensor,
    STARTS: tl.constexpr,
    unit: tl.tensor,
    inside: tl.tensor,
    layer: tl.constexpr,
    HIDDEN: tl.constexpr,
) -> tl.tensor:
    """The seller's units that take the places of the units of a hidden layer. Inputs and classes do not move."""
    if (layer >= 0) & (layer < HIDDEN):
        return tl.load(order + STARTS[layer] + unit, mask=inside, other=0)
    return unit.to(tl.int64)


@triton.jit
def _improve(
    ours: tl.tensor,
    theirs: tl.tensor,
    order: tl.tensor,
    table: tl.tensor,
    tolerance: tl.tensor,
    layer: tl.constexpr,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    STARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Solve the permutation of a hidden layer, given the others. Returns whether the inner product grows."""
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    N: tl.constexpr = PADDED[layer + 1]
    n: tl.constexpr = WIDTHS[layer + 1]
    inputs: tl.constexpr = WIDTHS[layer]
    outputs: tl.constexpr = WIDTHS[layer + 2]
    unit = tl.arange(0, N)
    inside = unit < n
    biases: tl.constexpr = OFFSETS[layer] + inputs * n
    mine_bias = tl.load(ours + biases + unit, mask=inside, other=0.0).to(tl.float64)
    their_bias = tl.load(theirs + biases + unit, mask=inside, other=0.0).to(tl.float64)
    total = mine_bias[:, None] * their_bias[None, :]
    first, second = OFFSETS[layer], OFFSETS[layer + 1]
    total = _add_products(
        total, ours + first, theirs + first, order, n, inputs, inputs, 1, layer - 1, N, STARTS, HIDDEN, BLOCK
    )
    total = _add_products(
        total, ours + second, theirs + second, order, n, outputs, 1, n, layer + 1, N, STARTS, HIDDEN, BLOCK
    )
    tl.store(table + unit[:, None] * n + unit[None, :], total, mask=inside[:, None] & inside[None, :])
    tl.debug_barrier()
    better = solve(table, n, n, N).to(tl.int64)
    own = tl.load(order + STARTS[layer] + unit, mask=inside, other=0)
    before = tl.sum(tl.load(table + unit * n + own, mask=inside, other=0.0), 0)
    after = tl.sum(tl.load(table + unit * n + better, mask=inside, other=0.0), 0)
    improves = after - before > tolerance * tl.maximum(tl.abs(before), 1.0)
    tl.debug_barrier()
    tl.store(order + STARTS[layer] + unit, tl.where(improves, better, own), mask=inside)
    tl.debug_barrier()
    return improves


@triton.jit
def _add_products(
    total: tl.tensor,
    ours: tl.tensor,
    theirs: tl.tensor,
    order: tl.tensor,
    units: tl.constexpr,
    elements: tl.constexpr,
    unit_stride: tl.constexpr,
    stride: tl.constexpr,
    other: tl.constexpr,
    N: tl.constexpr,
    STARTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The sum of ``total`` and the products of units by the weights at ``ours`` and ``theirs``, float64 ``[N, N]``.

    Element e of unit i is at i * unit_stride + e * stride. The seller's elements are in the order of the layer
    ``other``.
    """
    unit = tl.arange(0, N)
    inside = unit < units
    for first in range(0, elements, BLOCK):
        element = first + tl.arange(0, BLOCK)
        there = element < elements
        source = _moved(order, STARTS, element, there, other, HIDDEN)
        at = unit[:, None] * unit_stride + element[None, :] * stride
        of = unit[None, :] * unit_stride + source[:, None] * stride
        mine = tl.load(ours + at, mask=inside[:, None] & there[None, :], other=0.0).to(tl.float64)
        their = tl.load(theirs + of, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float64)
        total += tl.dot(mine, their, out_dtype=tl.float64)
    return total
