"""Networks whose parameters are one flat vector, so that the networks of M markets are one tensor ``[M, N, P]``.

A network defines how the vector is cut into named tensors and how to compute with many vectors at once. It lists, as
data, the axes on which each permutation of hidden units acts. Optimizers, mergers and aligners then need no knowledge
of the architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from paramarket_env.plugins import Registry
from paramarket_env.seeding import uniform
from paramarket_env.validation import require


@dataclass(frozen=True)
class Segment:
    """A run of an axis: ``units`` consecutive parts of ``repeat`` elements each. A permutation reorders the parts."""

    permutation: str | None
    """The name of the permutation of hidden units that acts on the run; None if the run never moves."""
    units: int
    repeat: int = 1

    @property
    def size(self) -> int:
        """The number of elements of the run."""
        return self.units * self.repeat


Axis = tuple[Segment, ...]
"""The segments of an axis in order. An axis has several where a network concatenates what it computes."""


@dataclass(frozen=True)
class Blocks:
    """A restriction of permutations: their units come in ``count`` equal blocks, which move as wholes.

    All the ``permutations`` have the same order of blocks. The units within a block move freely, for each permutation
    on its own. The heads of an attention are such blocks, and so are the groups of a convolution or a normalisation.
    """

    count: int
    permutations: tuple[str, ...]


@dataclass(frozen=True)
class ParameterSpec:
    """One named tensor of the flat vector."""

    name: str
    shape: tuple[int, ...]
    layer: str
    """The layer that the tensor belongs to. Parameter sets are made of layers."""
    axes: tuple[Axis, ...]
    """For each axis, the permutations of hidden units that act on it (Ainsworth et al. 2023)."""
    bound: float
    """Initial values are uniform within [centre - bound, centre + bound]."""
    centre: float = 0.0
    """0 for weights and biases; 1, with bound 0, for the scale of a normalisation layer."""
    statistic: bool = False
    """Whether it is a running mean or variance of batch normalisation, which is estimated and never trained."""

    @property
    def size(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self.shape)


LogitGradient = Callable[[Tensor], Tensor]
"""Maps the logits to the gradient of the losses with respect to them, both float32 ``[R, classes, n]``."""


Gradients = Sequence[Tensor]
"""The gradients of the named tensors in their order, float32 ``[R, size]`` each. Concatenated they are ``[R, P]``."""


class Network(Protocol):
    """A network architecture: all that alignment, merging, training and evaluation need to know about it.

    The *stem* is the first layer before its nonlinearity. It is linear in the parameters, so the stem of a merged
    network is the merge of the stems. The *body* is everything after the stem. Without a linear first layer, the stem
    is the input, and the body is the whole network.

    A network with running statistics has no stem, since the statistics of a merged network are estimated anew.
    """

    parameters: tuple[ParameterSpec, ...]
    """The named tensors: the running statistics, the stem's, and the others.

    Axis 0 of each of the stem's tensors is the stem's units.
    """
    stem_size: int
    """The number of the stem's parameters, which come first in the flat vector. 0 if the stem is the input itself."""
    blocks: tuple[Blocks, ...]
    """The restrictions of the permutations. No permutation is in two of them."""
    widest: int
    """The largest number of elements of one sample that the body takes, or that one of its operations returns."""
    activations: int
    """The number of elements of one sample that all operations return. Training holds them until it goes back."""

    def __hash__(self) -> int:
        """Networks can be hashed, so what is derived from one can be cached."""

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """The stems ``[R, G, units, n]`` of R groups of G networks. The networks of a group share their samples.

        ``parameters`` is ``[R, G, P]``, and ``inputs`` is float32 ``[R, n, *features]``.
        """

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """The logits ``[R, G, classes, n]``, from the body's parameters ``[R, G, P - stem_size]`` and the stems.

        Callers bound the size of the stems. A body with layers that are much wider works in blocks of samples, so that
        no layer holds more than ``memory.chunk_elements`` elements.
        """

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        """The gradients of R networks ``[R, P]``, each on its own samples ``[R, n, *features]``.

        Batch normalisation uses the statistics of these samples. The gradients of running statistics are 0.
        """

    def with_statistics(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """R networks ``[R, P]``, each with the running statistics of its own samples ``[R, n, *features]``.

        Networks without running statistics are returned as they are.
        """

    def module(self, parameters: Tensor) -> nn.Module:
        """A ``torch.nn.Module`` with a copy of these parameters ``[P]``, in ``train`` mode."""


@runtime_checkable
class Architecture(Protocol):
    """A plug-in that makes the network for a dataset."""

    def __call__(self, features: tuple[int, ...], classes: int) -> Network:
        """The network for samples of shape ``features`` and this number of classes."""


ARCHITECTURES: Registry[Architecture] = Registry("network", Architecture)

Width = Annotated[int, Field(ge=1, le=2**16)]
"""A number of units, which bounds what is computed before a network is known to fit into memory."""


def require_elements(features: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for samples of a shape without elements."""
    require(0 not in features, "samples' shape", features, "one without a side of length 0")


def parameter_count(network: Network) -> int:
    """P, the length of the flat vector."""
    return sum(spec.size for spec in network.parameters)


def offsets(network: Network) -> list[int]:
    """The offset of each tensor in the flat vector."""
    return [0, *accumulate(spec.size for spec in network.parameters)][:-1]


def split(network: Network, parameters: Tensor) -> dict[str, Tensor]:
    """Views of flat vectors ``[..., P]`` as named tensors, ``[..., *shape]`` each."""
    parts = parameters.split([spec.size for spec in network.parameters], dim=-1)
    batch = parameters.shape[:-1]
    return {spec.name: part.view((*batch, *spec.shape)) for spec, part in zip(network.parameters, parts, strict=True)}


def has_statistics(network: Network) -> bool:
    """Whether a network has running statistics."""
    return network.parameters[0].statistic


def stem_units(network: Network) -> int:
    """The number of units of the stem, 0 without a stem."""
    return network.parameters[0].shape[0] if network.stem_size else 0


def permutation_sizes(network: Network) -> dict[str, int]:
    """The number of units of each permutation of hidden units, by name."""
    return units_of(spec.axes for spec in network.parameters)


def unit_dtype(network: Network) -> torch.dtype:
    """The smallest integer type that numbers the units of every permutation: int16 or int32."""
    largest = max(permutation_sizes(network).values(), default=0)
    return torch.int16 if largest <= 2**15 else torch.int32


def units_of(tensors: Iterable[tuple[Axis, ...]]) -> dict[str, int]:
    """The number of units of each permutation, by name, from the axes of each tensor."""
    return {
        segment.permutation: segment.units
        for axes in tensors
        for axis in axes
        for segment in axis
        if segment.permutation is not None
    }


def initial_parameters(network: Network, keys: Tensor) -> Tensor:
    """Initial parameters, float32 ``[*keys.shape, P]``: one network for each key of ``seeding.stream``."""
    sizes = torch.tensor([spec.size for spec in network.parameters], device=keys.device)
    ends = [(spec.centre, spec.bound) for spec in network.parameters]
    ranges = torch.tensor(ends, dtype=torch.float64, device=keys.device)
    centre, bound = ranges.repeat_interleave(sizes, dim=0).unbind(1)
    return (centre + (2 * uniform(keys, len(bound)) - 1) * bound).to(torch.float32)
