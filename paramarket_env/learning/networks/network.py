"""Networks whose parameters are one flat vector, so that a market's agents are one tensor ``[M, N, P]``.

A network says how the vector is cut into named tensors, how to compute with many vectors at once, and, as data, which
axis of which tensor each permutation of hidden units acts on. Optimizers, merging and alignment then need no
knowledge of the architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from paramarket_env.plugins import Registry
from paramarket_env.seeding import uniform


@dataclass(frozen=True)
class ParameterSpec:
    """One named tensor of the flat vector."""

    name: str
    shape: tuple[int, ...]
    layer: str
    """The layer that it belongs to: parameter sets are made of layers."""
    permutations: tuple[str | None, ...]
    """For each axis, the name of the permutation of hidden units that acts on it, if any (Ainsworth et al. 2023)."""
    bound: float
    """Initial values are uniform within [centre - bound, centre + bound]."""
    centre: float = 0.0
    """0 for weights and biases; 1, with bound 0, for the scale of a normalisation."""

    @property
    def size(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)


LogitGradient = Callable[[Tensor], Tensor]
"""The gradient of the losses in the logits, both float32 ``[R, classes, n]``."""


Gradients = Sequence[Tensor]
"""Those of the named tensors, in their order, float32 ``[R, size]`` each: as one, the gradient of ``[R, P]``."""


class Network(Protocol):
    """An architecture: what an aligner, a merger, a trainer and an evaluator need to know of it.

    Its *stem* is the first layer before its nonlinearity, which is linear in the parameters: the stem of a merged
    network is the merge of the stems. Its *body* is all the rest.
    """

    parameters: tuple[ParameterSpec, ...]
    """Those of the stem first. Axis 0 of all of these is the stem's units."""
    stem_size: int
    """How many numbers of the flat vector, the first ones, are the stem's."""

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """The stems of G networks that look at the same samples, for R groups of such networks.

        ``parameters`` ``[R, G, P]``, ``inputs`` float32 ``[R, n, *features]`` -> ``[R, G, units, n]``.
        """

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """Logits ``[R, G, classes, n]``, from the other parameters ``[R, G, P - stem_size]`` and the stems."""

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        """The gradients of R networks ``[R, P]``, each on its own samples ``[R, n, *features]``."""

    def module(self, parameters: Tensor) -> nn.Module:
        """An ordinary ``torch.nn.Module`` with a copy of these parameters ``[P]``."""


@runtime_checkable
class Architecture(Protocol):
    """An architecture as a configuration names it: a plug-in that makes the network of a dataset."""

    def __call__(self, features: tuple[int, ...], classes: int) -> Network:
        """The network for samples of shape ``features`` and so many classes."""


ARCHITECTURES: Registry[Architecture] = Registry("network", Architecture)


def parameter_count(network: Network) -> int:
    """P, the length of the flat vector."""
    return sum(spec.size for spec in network.parameters)


def offsets(network: Network) -> list[int]:
    """Where each tensor begins in the flat vector."""
    return [0, *accumulate(spec.size for spec in network.parameters)][:-1]


def split(network: Network, parameters: Tensor) -> dict[str, Tensor]:
    """Views of the named tensors, each ``[..., *shape]``, of flat vectors ``[..., P]``."""
    parts = parameters.split([spec.size for spec in network.parameters], dim=-1)
    batch = parameters.shape[:-1]
    return {spec.name: part.view(*batch, *spec.shape) for spec, part in zip(network.parameters, parts, strict=True)}


def permutation_sizes(network: Network) -> dict[str, int]:
    """The permutations of hidden units and how many units each one orders."""
    return {
        name: size
        for spec in network.parameters
        for name, size in zip(spec.permutations, spec.shape, strict=True)
        if name is not None
    }


def initial_parameters(network: Network, keys: Tensor) -> Tensor:
    """Fresh parameters, float32 ``[*keys.shape, P]``, one network for each key of ``seeding.stream``."""
    sizes = torch.tensor([spec.size for spec in network.parameters])
    ranges = torch.tensor([(spec.centre, spec.bound) for spec in network.parameters], dtype=torch.float64)
    centre, bound = ranges.repeat_interleave(sizes, dim=0).to(keys.device).unbind(1)
    return (centre + (2 * uniform(keys, len(bound)) - 1) * bound).to(torch.float32)
