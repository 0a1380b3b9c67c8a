"""A small vision transformer."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from paramarket_env.learning.networks.convolutional import image
from paramarket_env.learning.networks.modules import ModuleArchitecture
from paramarket_env.learning.networks.network import ARCHITECTURES, Width
from paramarket_env.validation import configuration, require


@configuration
class ViT(ModuleArchitecture):
    """A vision transformer (Dosovitskiy et al. 2021) that normalises first and takes the mean over all patches.

    The hidden layer of each block's perceptron is twice as wide as the tokens.
    """

    patch: Width = 4
    """Side of a patch in pixels."""
    dim: Width = 32
    """Width of the tokens."""
    depth: Annotated[int, Field(ge=1, le=100)] = 2
    """Number of blocks."""
    heads: Width = 4
    """Number of attention heads of a block."""

    def __post_init__(self) -> None:
        require(self.dim % self.heads == 0, "vit.dim", self.dim, f"a multiple of the {self.heads} heads")

    def build(self, features: tuple[int, ...], classes: int) -> nn.Module:
        """See :meth:`ModuleArchitecture.build`. The sides of the images are multiples of a patch's."""
        channels, height, width = image("vit", features)
        whole = height % self.patch == 0 and width % self.patch == 0
        require(whole, "vit.patch", self.patch, f"a divisor of the sides of the images, {height} and {width}")
        tokens = (height // self.patch) * (width // self.patch)
        layers: dict[str, nn.Module] = {"embedding": PatchEmbedding(channels, self.patch, tokens, self.dim)}
        layers |= {f"block{number}": Block(self.dim, self.heads) for number in range(1, self.depth + 1)}
        layers |= {"norm": nn.LayerNorm(self.dim), "mean": TokenMean(), "head": nn.Linear(self.dim, classes)}
        return nn.Sequential(OrderedDict(layers))


ARCHITECTURES.register(ViT, "vit")


class PatchEmbedding(nn.Module):
    """A linear map of each patch, plus a learned vector for its position."""

    def __init__(self, channels: int, patch: int, tokens: int, dim: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.position = nn.Embedding(tokens, dim)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[n, channels, height, width]`` to tokens ``[n, tokens, dim]``."""
        tokens: Tensor = self.patches(images).flatten(2).transpose(1, 2)
        return tokens + self.position.weight


class Block(nn.Module):
    """Attention, then a perceptron with one hidden layer; each is added to its input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[n, tokens, dim]`` to tokens."""
        tokens = tokens + self.attention(self.norm1(tokens))
        change: Tensor = self.down(F.gelu(self.up(self.norm2(tokens))))
        return tokens + change


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[n, tokens, dim]`` to tokens."""
        parts = self.qkv(tokens).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        mixed = scores.softmax(3) @ value
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class TokenMean(nn.Module):
    """The mean over all tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``[n, tokens, dim]`` to ``[n, dim]``."""
        return tokens.mean(1)
