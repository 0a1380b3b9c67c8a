"""Networks whose parameters are one flat vector, so that a market's agents are one tensor ``[M, N, P]``.

A network says how the vector is cut into named tensors, how to compute with many vectors at once, and, as data, which
axis of which tensor each permutation of hidden units acts on. Optimizers, merging and alignment then need no
knowledge of the architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from paramarket_env.config import NetworkConfig, lookup
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


Slope = Callable[[Tensor], Tensor]
"""The gradient of the losses in the logits, both float32 ``[R, classes, n]``."""


Gradients = Sequence[Tensor]
"""Those of the named tensors, in their order, float32 ``[R, size]`` each: as one, the gradient of ``[R, P]``."""


class Network(Protocol):
    """An architecture: what an aligner, a merger, a trainer and an evaluator need to know of it.

    Its *stem* is the first layer before its nonlinearity, which is linear in the parameters: the stem of a merged
    network is the merge of the stems. Its *head* is all the rest.
    """

    parameters: tuple[ParameterSpec, ...]
    """Those of the stem first. Axis 0 of all of these is the stem's units."""
    stem_size: int
    """How many numbers of the flat vector, the first ones, are the stem's."""

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """The stems of G networks that look at the same samples, for R groups of such networks.

        ``parameters`` ``[R, G, P]``, ``inputs`` float32 ``[R, n, *features]`` -> ``[R, G, units, n]``.
        """

    def head(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """Logits ``[R, G, classes, n]``, from the other parameters ``[R, G, P - stem_size]`` and the stems."""

    def gradients(self, parameters: Tensor, inputs: Tensor, slope: Slope) -> Gradients:
        """The gradients of R networks ``[R, P]``, each on its own samples ``[R, n, *features]``."""

    def module(self, parameters: Tensor) -> nn.Module:
        """An ordinary ``torch.nn.Module`` with a copy of these parameters ``[P]``."""


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


class MLP:
    """Linear layers with ReLU between them, written batched; torch's default initialisation.

    The paper's network for vectors is ``hidden=(h, h, h, h // 2)``.
    """

    def __init__(self, features: tuple[int, ...], classes: int, hidden: tuple[int, ...]) -> None:
        self.widths = (math.prod(features), *hidden, classes)
        specs = []
        for layer, (inputs, outputs) in enumerate(pairwise(self.widths)):
            units_in = f"hidden{layer}" if layer > 0 else None
            units_out = f"hidden{layer + 1}" if layer < len(hidden) else None
            # nn.Linear draws weight and bias alike from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
            bound = 1 / math.sqrt(inputs)
            name = f"layer{layer + 1}"
            specs.append(ParameterSpec(f"{name}.weight", (outputs, inputs), name, (units_out, units_in), bound))
            specs.append(ParameterSpec(f"{name}.bias", (outputs,), name, (units_out,), bound))
        self.parameters = tuple(specs)
        self.stem_size = specs[0].size + specs[1].size

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.stem`."""
        groups, same, _ = parameters.shape
        width = self.widths[1]
        weight, bias = parameters[..., : self.stem_size].split([self.stem_size - width, width], dim=-1)
        samples = inputs.flatten(2)
        # The networks of a group share their samples: their first layers are one wide layer.
        weight = weight.reshape(groups, same * width, samples.shape[2])
        wide = torch.baddbmm(bias.reshape(groups, same * width, 1), weight, samples.mT)
        return wide.view(groups, same, width, samples.shape[1])

    def head(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """See :meth:`Network.head`."""
        hidden = stem.flatten(0, 1)
        for layer, (weight, bias) in enumerate(self._layers(parameters.flatten(0, 1), first=1)):
            hidden = torch.baddbmm(bias, weight, hidden.relu() if layer == 0 else hidden.relu_())
        return hidden.view(*stem.shape[:2], *hidden.shape[1:])

    def gradients(self, parameters: Tensor, inputs: Tensor, slope: Slope) -> Gradients:
        """See :meth:`Network.gradients`. Backpropagation written out: autograd takes half as long again."""
        layers = self._layers(parameters)
        entering, out = [], inputs.flatten(2).mT
        for layer, (weight, bias) in enumerate(layers):
            entering.append(out if layer == 0 else out.relu_())
            out = torch.baddbmm(bias, weight, entering[-1])
        back = slope(out)
        parts: list[Tensor] = []
        for layer in reversed(range(len(layers))):
            parts = [torch.bmm(back, entering[layer].mT).flatten(1), back.sum(2), *parts]
            if layer > 0:
                back = torch.bmm(layers[layer][0].mT, back)
                back = torch.ops.aten.threshold_backward(back, entering[layer], 0)
        return parts

    def _layers(self, parameters: Tensor, first: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Weights ``[R, outputs, inputs]`` and biases ``[R, outputs, 1]`` from layer ``first`` on, as views."""
        shapes = [spec.shape for spec in self.parameters[2 * first :]]
        parts = parameters.split([math.prod(shape) for shape in shapes], dim=-1)
        tensors = [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        return [(weight, bias.unsqueeze(-1)) for weight, bias in zip(tensors[::2], tensors[1::2], strict=True)]

    def module(self, parameters: Tensor) -> nn.Module:
        """See :meth:`Network.module`."""
        layers: list[nn.Module] = [nn.Flatten()]
        weights, biases = (list(split(self, parameters.detach().clone()).values())[kind::2] for kind in (0, 1))
        for weight, bias in zip(weights, biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])


NetworkFactory = Callable[[tuple[int, ...], int, tuple[int, ...]], Network]

NETWORKS: dict[str, NetworkFactory] = {"mlp": MLP}


def build_network(config: NetworkConfig, features: tuple[int, ...], classes: int) -> Network:
    """The network of a configuration for samples of shape ``features`` and so many classes."""
    factory: NetworkFactory = lookup(NETWORKS, config.architecture, "network architecture")
    return factory(features, classes, config.hidden)
