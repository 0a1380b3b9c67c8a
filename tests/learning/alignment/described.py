"""Networks that are only described: their tensors and the permutations that act on them, without a forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.alignment import draw_permutations as permutations_from
from paramarket_env.learning.networks.network import (
    Blocks,
    ParameterSpec,
    Segment,
    initial_parameters,
)
from paramarket_env.seeding import stream

Named = tuple[str | None, int] | tuple[str | None, int, int]


@dataclass(eq=False)
class Described:
    """All of a network that alignment needs to know."""

    parameters: tuple[ParameterSpec, ...]
    blocks: tuple[Blocks, ...] = ()
    stem_size: int = 0
    widest: int = 1


def tensor(name: str, *axes: int | Named | list[Named]) -> ParameterSpec:
    """A tensor whose axes are fixed (a size), permuted (a name, a size and perhaps a repeat), or made of segments."""
    segments = []
    for axis in axes:
        parts = [(None, axis)] if isinstance(axis, int) else axis if isinstance(axis, list) else [axis]
        segments.append(tuple(Segment(*part) for part in parts))
    shape = tuple(sum(segment.size for segment in axis) for axis in segments)
    return ParameterSpec(name, shape, name, tuple(segments), 1 / math.sqrt(math.prod(shape[1:])))


def residual_blocks(width: int = 16, inner: int = 32, depth: int = 3) -> Described:
    """Blocks that add to one residual stream, as in the issue 8 of git-re-basin."""
    stream_units = ("stream", width)
    tensors = [tensor("in", stream_units, 16)]
    for block in range(depth):
        units = (f"inner{block}", inner)
        tensors += [tensor(f"up{block}", units, stream_units), tensor(f"down{block}", stream_units, units)]
    return Described((*tensors, tensor("out", 10, stream_units)))


def recurrent(width: int = 16, depth: int = 2) -> Described:
    """Layers from a residual stream into itself: one permutation acts on both axes of a tensor."""
    units = ("stream", width)
    square = [tensor(f"square{layer}", units, units) for layer in range(depth)]
    return Described((tensor("in", units, 16), *square, tensor("out", 10, units)))


def convolutional() -> Described:
    """Two convolutions, the second on a concatenation, whose channels are flattened before the last layer."""
    return Described(
        (
            tensor("a", ("a", 6), 3, 3, 3),
            tensor("bias", ("a", 6)),
            tensor("b", ("b", 5), [("a", 6), (None, 3)], 3, 3),
            tensor("out", 10, [("b", 5, 4), ("a", 6, 4)]),
        )
    )


def attention(width: int = 12, heads: int = 3, depth: int = 2) -> Described:
    """Layers of attention, whose queries, keys and values are one tensor, on a residual stream."""
    units = ("stream", width)
    tensors, blocks = [tensor("in", units, 16)], []
    for layer in range(depth):
        qk, v = (f"qk{layer}", width), (f"v{layer}", width)
        tensors += [tensor(f"qkv{layer}", [qk, qk, v], units), tensor(f"bias{layer}", [qk, qk, v])]
        tensors += [tensor(f"mix{layer}", units, v)]
        blocks.append(Blocks(heads, (qk[0], v[0])))
    return Described((*tensors, tensor("out", 10, units)), tuple(blocks))


NETWORKS = {
    "residual": residual_blocks(),
    "recurrent": recurrent(),
    "convolutional": convolutional(),
    "attention": attention(),
}


def draw(network: Described, count: int, seed: int = 0) -> Tensor:
    return initial_parameters(network, stream(torch.tensor(seed), "network", torch.arange(count)))


def no_samples() -> Tensor:
    """The samples for an aligner that needs none."""
    raise AssertionError


def draw_permutations(network: Described, count: int, seed: int = 0) -> Tensor:
    """Random permutations that keep blocks together, int64 ``[count, H]``."""
    return permutations_from(network, stream(torch.tensor(seed), "planted", torch.arange(count)))
