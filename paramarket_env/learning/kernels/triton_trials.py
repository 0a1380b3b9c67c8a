"""The losses of many MLPs and of their merges in Triton: one program for each network, kept in registers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from paramarket_env.learning.kernels.triton_mlp import places, precision, relu
from paramarket_env.learning.kernels.triton_shapes import BLOCK, layout, warps


def losses(widths: Sequence[int], parameters: Tensor, stem: Tensor, labels: Tensor) -> Tensor:
    """The mean losses ``[R, G]`` of networks; see :func:`paramarket_env.learning.evaluation.losses`."""
    groups, networks, _ = parameters.shape
    group, network = (torch.arange(size, device=stem.device) for size in (groups, networks))
    each = (group.repeat_interleave(networks, output_size=groups * networks), network.repeat(groups))
    nobody = torch.empty(groups * networks, 0, dtype=torch.int64, device=stem.device)
    weights = parameters.new_empty(1, 0)
    return _launch(widths, parameters, stem, labels, (*each, each[1], nobody), weights, merged=False).view(groups, -1)


def try_merges(
    widths: Sequence[int], parameters: Tensor, stem: Tensor, labels: Tensor, pairs: Sequence[Tensor], weights: Tensor
) -> Tensor:
    """The mean losses ``[Q, W]`` of merges; see :func:`paramarket_env.learning.trials.try_merges`.

    ``pairs`` are the group, buyer and seller, int64 ``[Q]`` each, and the permutations, int64 ``[Q, H]``.
    """
    return _launch(widths, parameters, stem, labels, pairs, weights, merged=True)


def _launch(
    widths: Sequence[int],
    parameters: Tensor,
    stem: Tensor,
    labels: Tensor,
    pairs: Sequence[Tensor],
    weights: Tensor,
    *,
    merged: bool,
) -> Tensor:
    out = torch.empty(len(pairs[0]), len(weights), dtype=torch.float64, device=stem.device)
    if out.numel():
        with torch.cuda.device_of(out):  # Triton launches on the current device
            _losses[out.shape](
                *(tensor.contiguous() for tensor in (parameters, stem, labels, *pairs, weights)),
                out,
                parameters.shape[1],
                parameters.shape[2],
                pairs[3].shape[1],
                stem.shape[3],
                **layout(widths),
                MERGED=merged,
                BLOCK=BLOCK,
                PRECISION=precision(),
                num_warps=warps(widths[1:], BLOCK),
            )
    return out


@triton.jit
def _losses(
    parameters: tl.tensor,
    stem: tl.tensor,
    labels: tl.tensor,
    groups: tl.tensor,
    buyers: tl.tensor,
    sellers: tl.tensor,
    permutations: tl.tensor,
    merge_weights: tl.tensor,
    out: tl.tensor,
    networks: tl.tensor,
    stride: tl.tensor,
    permuted: tl.tensor,
    count: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    MERGED: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    LAYERS: tl.constexpr = len(WIDTHS) - 1
    pair = tl.program_id(0).to(tl.int64)
    share = merge_weights + tl.program_id(1) * stride
    group = tl.load(groups + pair)
    buyer = group * networks + tl.load(buyers + pair)
    seller = group * networks + tl.load(sellers + pair)
    moves = permutations + pair * permuted
    ours = parameters + buyer * stride
    theirs = parameters + seller * stride
    weights, biases = _bodies(ours, theirs, share, moves, WIDTHS, PADDED, OFFSETS, MERGED)
    unit = tl.arange(0, PADDED[1])
    their_unit = _order(moves, WIDTHS[1], PADDED[1], MERGED and LAYERS > 1)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        sample = first + tl.arange(0, BLOCK)
        there = sample < count
        inside = (unit < WIDTHS[1])[:, None] & there[None, :]
        own = stem + (buyer * WIDTHS[1] + unit)[:, None] * count + sample[None, :]
        values = tl.load(own, mask=inside, other=0.0)
        if MERGED:
            other = stem + (seller * WIDTHS[1] + their_unit)[:, None] * count + sample[None, :]
            values = _lerp(values, tl.load(other, mask=inside, other=0.0), share + unit[:, None] * 0, inside)
        for layer in tl.static_range(LAYERS - 1):
            values = tl.dot(weights[layer], relu(values), input_precision=PRECISION) + biases[layer][:, None]
        label = tl.load(labels + group * count + sample, mask=there, other=0)
        total += tl.where(there, _cross_entropy(values, label, WIDTHS[LAYERS], PADDED[LAYERS]), 0.0)
    tl.store(out + pair * tl.num_programs(1) + tl.program_id(1), tl.sum(total, 0) / count)


@triton.jit
def _bodies(
    ours: tl.tensor,
    theirs: tl.tensor,
    share: tl.tensor,
    moves: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    MERGED: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The weights ``[outputs, inputs]`` and the biases ``[outputs]`` of all layers but the first, merged or not.

    The arguments are addresses: of both networks, of the merge weights and of the permutations.
    """
    LAYERS: tl.constexpr = len(WIDTHS) - 1
    weights = ()
    biases = ()
    for layer in tl.static_range(1, LAYERS):
        at, inside, bias_at, bias_inside = places(0, WIDTHS, PADDED, OFFSETS, layer)
        weight = tl.load(ours + at, mask=inside, other=0.0)
        bias = tl.load(ours + bias_at, mask=bias_inside, other=0.0)
        if MERGED:
            entering = _order(moves, WIDTHS[layer], PADDED[layer], True)
            moves += WIDTHS[layer]
            units = _order(moves, WIDTHS[layer + 1], PADDED[layer + 1], layer < LAYERS - 1)
            first = theirs + OFFSETS[layer]
            other = tl.load(first + units[:, None] * WIDTHS[layer] + entering[None, :], mask=inside, other=0.0)
            weight = _lerp(weight, other, share + at, inside)
            other_bias = tl.load(first + WIDTHS[layer + 1] * WIDTHS[layer] + units, mask=bias_inside, other=0.0)
            bias = _lerp(bias, other_bias, share + bias_at, bias_inside)
        weights = weights + (weight,)
        biases = biases + (bias,)
    return weights, biases


@triton.jit
def _order(at: tl.tensor, UNITS: tl.constexpr, PADDED: tl.constexpr, MOVES: tl.constexpr) -> tl.tensor:
    """The order of a layer's units, which stay where they are unless it ``MOVES`` them."""
    unit = tl.arange(0, PADDED)
    return tl.load(at + unit, mask=unit < UNITS, other=0) if MOVES else unit.to(tl.int64)


@triton.jit
def _lerp(start: tl.tensor, end: tl.tensor, share: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """The merges as ``torch.lerp`` computes them, with the shares of the end at the addresses ``share``."""
    weight = tl.load(share, mask=inside, other=0.0)
    difference = end - start
    return tl.where(weight < 0.5, start + weight * difference, end - difference * (1 - weight))


@triton.jit
def _cross_entropy(
    logits: tl.tensor, label: tl.tensor, CLASSES: tl.constexpr, PADDED_CLASSES: tl.constexpr
) -> tl.tensor:
    """The losses ``[samples]`` in nats, float64, of logits ``[classes, samples]``."""
    classes = tl.arange(0, PADDED_CLASSES)[:, None]
    logits = tl.where(classes < CLASSES, logits, -float("inf"))
    largest = tl.max(logits, 0)
    total = tl.sum(tl.exp(logits - largest[None, :]), 0)
    own = tl.sum(tl.where(classes == label[None, :], logits, 0.0), 0)
    return (tl.log(total) - (own - largest)).to(tl.float64)
