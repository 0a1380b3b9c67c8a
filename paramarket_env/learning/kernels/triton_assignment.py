"""Exact linear assignment of many matrices at once in Triton, one program for each matrix."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def assign(products: Tensor, wanted: Tensor) -> Tensor:
    """The permutation with the largest sum in each matrix, int64 ``[Q, n]``, of ``products`` float64 ``[Q, n, n]``.

    Matrices that are not ``wanted``, bool ``[Q]``, get the identity. Products that are not finite count as 0.
    """
    out = torch.empty(products.shape[:2], dtype=torch.int64, device=products.device)
    if out.numel():
        size = products.shape[1]
        padded = triton.next_power_of_2(size)
        warps = max(1, min(padded // 128, 16))
        with torch.cuda.device_of(products):  # Triton launches on the current device
            _assign[(len(out),)](products.contiguous(), wanted, out, size, N=padded, num_warps=warps)
    return out


@triton.jit
def _assign(products: tl.tensor, wanted: tl.tensor, out: tl.tensor, n: tl.tensor, N: tl.constexpr) -> None:
    number = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, N)
    rows = tl.where(tl.load(wanted + number), n, 0)
    column_of = solve(products + number * n * n, n, rows, N)
    tl.store(out + number * n + lanes, tl.where(rows > 0, column_of, lanes).to(tl.int64), mask=lanes < n)


@triton.jit
def solve(base: tl.tensor, n: tl.tensor, rows: tl.tensor, N: tl.constexpr) -> tl.tensor:
    """The column of each row in the matrix ``[n, n]`` at ``base`` that give the largest sum, int32 ``[N]``.

    Shortest augmenting paths (Crouse 2016, as in SciPy) on the negated products. Columns are a vector of N lanes. Only
    the first ``rows`` rows, none or all, are assigned. Each loop is bounded, so that no input can hang the device.
    """
    lanes = tl.arange(0, N)
    real = lanes < n
    row_dual = tl.zeros([N], tl.float64)
    column_dual = tl.zeros([N], tl.float64)
    column_of = tl.full([N], -1, tl.int32)
    row_of = tl.full([N], -1, tl.int32)
    for first in range(rows):
        # Grow a tree of shortest paths from the row ``first`` until it reaches a column that no row has.
        distance = tl.full([N], float("inf"), tl.float64)
        parent = tl.full([N], -1, tl.int32)
        in_tree = tl.zeros([N], tl.int32)
        row_in_tree = tl.zeros([N], tl.int32)
        reached = tl.sum(row_dual * 0, 0)
        row = first
        free = -1
        steps = 0
        while (free == -1) & (steps < n):
            row_in_tree = tl.where(lanes == row, 1, row_in_tree)
            cost = tl.load(base + row * n + lanes, mask=real, other=0.0)
            cost = tl.where(tl.abs(cost) < 1e305, -cost, 0.0)
            through = reached + cost - tl.sum(tl.where(lanes == row, row_dual, 0.0), 0) - column_dual
            open_columns = real & (in_tree == 0)
            shorter = open_columns & (through < distance)
            distance = tl.where(shorter, through, distance)
            parent = tl.where(shorter, row, parent)
            candidates = tl.where(open_columns, distance, float("inf"))
            reached = tl.min(candidates, 0)
            # Of the nearest columns, one that no row has comes first, and then the lowest.
            key = tl.where(open_columns & (candidates == reached), lanes + tl.where(row_of == -1, 0, N), 4 * N)
            column = tl.min(key, 0) % N
            in_tree = tl.where(lanes == column, 1, in_tree)
            owner = tl.sum(tl.where(lanes == column, row_of, 0), 0)
            free = tl.where(owner == -1, column, -1)
            row = tl.where(owner == -1, row, owner)
            steps += 1
        own_distance = tl.gather(distance, tl.maximum(column_of, 0), 0)
        raised = tl.where(row_in_tree == 1, row_dual + reached - own_distance, row_dual)
        row_dual = tl.where(lanes == first, row_dual + reached, raised)
        column_dual = tl.where(in_tree == 1, column_dual - (reached - distance), column_dual)
        # Exchange columns along the path back to the row ``first``.
        column = free
        steps = tl.where(free == -1, n, 0)
        while steps < n:
            row = tl.sum(tl.where(lanes == column, parent, 0), 0)
            row_of = tl.where(lanes == column, row, row_of)
            before = tl.sum(tl.where(lanes == row, column_of, 0), 0)
            column_of = tl.where(lanes == row, column, column_of)
            column = before
            steps = tl.where(row == first, n, steps + 1)
    return column_of
