"""Small modules that use every kind of operation, with the permutations that they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paramarket_env.learning.networks.derive import Derived
from paramarket_env.learning.networks.network import Blocks


class Call(nn.Module):
    """A module that computes a function of its input and its layers."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self._forward(self, inputs)


def sizes(derived: Derived) -> dict[str, int]:
    """The number of units of each permutation."""
    segments = [segment for axes in derived.axes.values() for axis in axes for segment in axis]
    return {segment.permutation: segment.units for segment in segments if segment.permutation is not None}


def attention(self: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention by 3 heads, written out, of queries, keys and values ``[n, tokens, 12]``."""
    heads = [each.unflatten(2, (3, -1)).transpose(1, 2) for each in (query, key, value)]
    weights = (heads[0] @ heads[1].transpose(2, 3) / 2).softmax(3)
    return self.head((weights @ heads[2]).transpose(1, 2).flatten(2).mean(1))


def fused(self: Any, x: Tensor) -> Tensor:
    query, key, value = self.qkv(x).reshape(len(x), 5, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    out = functional.scaled_dot_product_attention(query, key, value)
    return self.head(out.transpose(1, 2).flatten(2).mean(1))


def split(self: Any, x: Tensor) -> Tensor:
    first, second, third = self.first(x).split([2, 2, 5], 1)
    return self.head((first + second).relu().sum(1, keepdim=True) * third)


def excite(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    gate = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    return self.head((x * gate).amax((2, 3)))


def shuffled(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.head(x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2).mean((2, 3)))


def in_place(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    x += self.second(x.relu())
    x[:, :2].mul_(2)
    return self.head(functional.hardswish(x.clone(), inplace=True))


def image_tokens(self: Any, x: Tensor) -> Tensor:
    x = self.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
    return self.head(self.encoder(x)[:, 0])


IMAGE, TOKENS, VECTOR = (2, 8, 8), (5, 4), (4,)
"""The shapes of samples."""

MODULES: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, int], tuple[Blocks, ...]]] = {
    "skip": (
        Call(
            lambda self, x: self.head(self.norm(self.first(x) + self.second(self.first(x).relu())).tanh()),
            first=nn.Linear(4, 6),
            second=nn.Linear(6, 6),
            norm=nn.LayerNorm(6),
            head=nn.Linear(6, 3),
        ),
        VECTOR,
        {"first": 6},
        (),
    ),
    "concatenation": (
        Call(
            lambda self, x: self.head(torch.cat([self.first(x), self.second(x)], 1).relu()),
            first=nn.Linear(4, 5),
            second=nn.Linear(4, 3),
            head=nn.Linear(8, 3),
        ),
        VECTOR,
        {"first": 5, "second": 3},
        (),
    ),
    "concatenation meets a plain axis": (
        Call(
            lambda self, x: self.head((torch.cat([self.first(x), self.second(x)], 1) + self.third(x)).relu()),
            first=nn.Linear(4, 5),
            second=nn.Linear(4, 3),
            third=nn.Linear(4, 8),
            head=nn.Linear(8, 3),
        ),
        VECTOR,
        {"first": 5, "second": 3},
        (),
    ),
    "concatenation with the input": (
        Call(
            lambda self, x: self.head(torch.cat([x, self.first(x).relu()], 1)),
            first=nn.Linear(4, 5),
            head=nn.Linear(9, 3),
        ),
        VECTOR,
        {"first": 5},
        (),
    ),
    "split": (
        Call(
            split,
            first=nn.Linear(4, 9),
            head=nn.Linear(5, 3),
        ),
        VECTOR,
        {"first/0": 2, "first/1": 5},
        (),
    ),
    "gated": (nn.Sequential(nn.Linear(4, 12), nn.GLU(), nn.Linear(6, 3)), VECTOR, {"0": 6}, ()),
    "slice": (
        Call(lambda self, x: self.head(self.first(x)[:, 2:6].relu()), first=nn.Linear(4, 9), head=nn.Linear(4, 3)),
        VECTOR,
        {"first": 4},
        (),
    ),
    "stacked": (
        Call(
            lambda self, x: self.head(torch.stack([self.first(x), self.second(x)], 1).softmax(2).var(1)),
            first=nn.Linear(4, 6),
            second=nn.Linear(4, 6),
            head=nn.Linear(6, 3),
        ),
        VECTOR,
        {"first": 6},
        (),
    ),
    "in place": (
        Call(in_place, first=nn.Linear(4, 6), second=nn.Linear(6, 6), head=nn.Linear(6, 3)),
        VECTOR,
        {"first/0": 2, "first/1": 4},
        (),
    ),
    "flip meets plain": (
        Call(
            lambda self, x: self.head(self.first(x) + self.first(x).flip(1)),
            first=nn.Linear(4, 6),
            head=nn.Linear(6, 3),
        ),
        VECTOR,
        {},
        (),
    ),
    "parametric activation": (
        nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 3)),
        VECTOR,
        {"0": 6, "2": 5},
        (),
    ),
    "embedding": (
        Call(
            lambda self, x: self.head(self.hidden(self.table(x.long()).flatten(1)).relu()),
            table=nn.Embedding(9, 6),
            hidden=nn.Linear(24, 7),
            head=nn.Linear(7, 3),
        ),
        VECTOR,
        {"table": 6, "hidden": 7},
        (),
    ),
    "squeeze and excitation": (
        Call(excite, first=nn.Conv2d(2, 6, 3), down=nn.Conv2d(6, 4, 1), up=nn.Conv2d(4, 6, 1), head=nn.Linear(6, 3)),
        IMAGE,
        {"first": 6, "down": 4},
        (),
    ),
    "depthwise": (
        nn.Sequential(
            nn.Conv2d(2, 6, 1),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 5, 1),
            nn.Flatten(),
            nn.Linear(180, 3),
        ),
        IMAGE,
        {"0": 6, "3": 5},
        (),
    ),
    "depth multiplier": (
        nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
        IMAGE,
        {"0/0": 3, "0/1": 3},
        (),
    ),
    "grouped": (
        nn.Sequential(
            nn.Conv2d(2, 6, 1),
            nn.Conv2d(6, 9, 3, groups=3),
            nn.ReLU(),
            nn.Conv2d(9, 4, 6),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        IMAGE,
        {"0": 3, "1": 9, "3": 4},
        (Blocks(3, ("0", "1")),),
    ),
    "group normalisation": (
        nn.Sequential(
            nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(6, 3)
        ),
        IMAGE,
        {"0": 6},
        (Blocks(3, ("0",)),),
    ),
    "groups that contradict": (
        nn.Sequential(nn.Conv2d(2, 6, 1), nn.GroupNorm(2, 6), nn.GroupNorm(3, 6), nn.Flatten(), nn.Linear(384, 3)),
        IMAGE,
        {},
        (),
    ),
    "other normalisations": (
        nn.Sequential(
            nn.Conv2d(2, 6, 1),
            nn.InstanceNorm2d(6, affine=True),
            nn.LayerNorm((6, 8, 8)),
            nn.Flatten(),
            nn.Linear(384, 3),
        ),
        IMAGE,
        {"0": 6},
        (),
    ),
    "space": (
        nn.Sequential(
            nn.ZeroPad2d(1),
            nn.Conv2d(2, 6, 3),
            nn.Upsample(scale_factor=2),
            nn.ReflectionPad2d(1),
            nn.ConvTranspose2d(6, 5, 2),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(20, 3),
        ),
        IMAGE,
        {"1": 6, "4": 5},
        (),
    ),
    "one dimension": (
        nn.Sequential(nn.Conv1d(5, 6, 2), nn.MaxPool1d(2), nn.Conv1d(6, 4, 1), nn.Flatten(), nn.Linear(4, 3)),
        TOKENS,
        {"0": 6, "2": 4},
        (),
    ),
    "channel shuffle": (Call(shuffled, first=nn.Conv2d(2, 6, 1), head=nn.Linear(6, 3)), IMAGE, {}, ()),
    "mixer": (
        Call(
            lambda self, x: self.head((self.embed(x) + self.back(self.tokens(self.embed(x).mT).relu()).mT).mean(1)),
            embed=nn.Linear(4, 6),
            tokens=nn.Linear(5, 7),
            back=nn.Linear(7, 5),
            head=nn.Linear(6, 3),
        ),
        TOKENS,
        {"embed": 6, "tokens": 7},
        (),
    ),
    "sums of products": (
        Call(
            lambda self, x: self.head(torch.einsum("nti,nti->ni", self.first(x), self.second(x))),
            first=nn.Linear(4, 6),
            second=nn.Linear(4, 6),
            head=nn.Linear(6, 3),
        ),
        TOKENS,
        {"first": 6},
        (),
    ),
    "attention": (
        Call(
            lambda self, x: attention(self, self.query(x), self.key(x), self.value(x)),
            query=nn.Linear(4, 12),
            key=nn.Linear(4, 12),
            value=nn.Linear(4, 12),
            head=nn.Linear(12, 3),
        ),
        TOKENS,
        {"query": 12, "value": 12},
        (Blocks(3, ("query", "value")),),
    ),
    "attention with values of another size": (
        Call(
            lambda self, x: attention(self, self.query(x), self.key(x), self.value(x)),
            query=nn.Linear(4, 12),
            key=nn.Linear(4, 12),
            value=nn.Linear(4, 6),
            head=nn.Linear(6, 3),
        ),
        TOKENS,
        {"query": 12, "value": 6},
        (Blocks(3, ("query", "value")),),
    ),
    "attention with a scale for each head": (
        Call(
            lambda self, x: attention(
                self, (self.query(x).unflatten(2, (3, 4)) * self.scale).flatten(2), self.key(x), self.value(x)
            ),
            query=nn.Linear(4, 12),
            key=nn.Linear(4, 12),
            value=nn.Linear(4, 12),
            scale=nn.Parameter(torch.empty(3, 1)),
            head=nn.Linear(12, 3),
        ),
        TOKENS,
        {"scale": 3, "query": 12, "value": 12},
        (Blocks(3, ("scale", "query", "value")),),
    ),
    "fused attention": (
        Call(fused, qkv=nn.Linear(4, 36), head=nn.Linear(12, 3)),
        TOKENS,
        {"qkv/0": 12, "qkv/1": 12},
        (Blocks(3, ("qkv/0", "qkv/1")),),
    ),
    "normalised queries": (
        Call(
            lambda self, x: attention(
                self, self.norm(self.query(x).unflatten(2, (3, 4))).flatten(2), self.key(x), self.value(x)
            ),
            query=nn.Linear(4, 12),
            key=nn.Linear(4, 12),
            value=nn.Linear(4, 12),
            norm=nn.LayerNorm(4),
            head=nn.Linear(12, 3),
        ),
        TOKENS,
        {"query": 4, "value/0": 4, "value/1": 4, "value/2": 4},
        (),
    ),
    "transformer": (
        Call(
            lambda self, x: self.head(self.encoder(self.embed(x)).mean(1)),
            embed=nn.Linear(4, 8),
            encoder=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        TOKENS,
        {"embed": 8, "encoder.self_attn/0": 8, "encoder.self_attn/1": 8, "encoder.linear1": 16},
        (Blocks(2, ("encoder.self_attn/0", "encoder.self_attn/1")),),
    ),
    "vision transformer": (
        Call(
            image_tokens,
            patches=nn.Conv2d(2, 8, 4, 4),
            token=nn.Parameter(torch.empty(1, 1, 8)),
            places=nn.Parameter(torch.empty(5, 8)),
            encoder=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu"),
            head=nn.Linear(8, 3),
        ),
        IMAGE,
        {"patches": 8, "encoder.self_attn/0": 8, "encoder.self_attn/1": 8, "encoder.linear1": 16},
        (Blocks(2, ("encoder.self_attn/0", "encoder.self_attn/1")),),
    ),
}
"""Each module with the shape of a sample, the number of units of each permutation, and the blocks."""
