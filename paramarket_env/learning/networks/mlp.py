"""The batched multilayer perceptron."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from paramarket_env.learning.networks.network import (
    ARCHITECTURES,
    Blocks,
    Gradients,
    LogitGradient,
    ParameterSpec,
    Segment,
    require_elements,
    split,
)
from paramarket_env.validation import Count, configuration

FEWEST_COLUMNS = 16
"""The smallest minibatch whose samples are the columns of the products.

On a CPU, products with fewer columns take longer than those with the samples as rows.
"""


@ARCHITECTURES.register
@configuration
class MLP:
    """Linear layers with ReLU between them and torch's default initialisation.

    The paper's network for vectors is ``hidden=(h, h, h, h // 2)``.
    """

    hidden: Annotated[tuple[Count, ...], Field(max_length=100)] = (32, 32)
    """Widths of the hidden layers, of which there are at most 100."""

    def __call__(self, features: tuple[int, ...], classes: int) -> MLPNetwork:
        """See :meth:`Architecture.__call__`."""
        require_elements(features)
        return MLPNetwork(features, classes, self.hidden)


class MLPNetwork:
    """A batched multilayer perceptron; see :class:`MLP`."""

    blocks: tuple[Blocks, ...] = ()

    def __init__(self, features: tuple[int, ...], classes: int, hidden: tuple[int, ...]) -> None:
        self.widths = (math.prod(features), *hidden, classes)
        specs = []
        for layer, (inputs, outputs) in enumerate(pairwise(self.widths)):
            axis_in = (Segment(f"hidden{layer}" if layer > 0 else None, inputs),)
            axis_out = (Segment(f"hidden{layer + 1}" if layer < len(hidden) else None, outputs),)
            # nn.Linear draws both weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
            bound = 1 / math.sqrt(inputs)
            name = f"layer{layer + 1}"
            specs.append(ParameterSpec(f"{name}.weight", (outputs, inputs), name, (axis_out, axis_in), bound))
            specs.append(ParameterSpec(f"{name}.bias", (outputs,), name, (axis_out,), bound))
        self.parameters = tuple(specs)
        self.stem_size = specs[0].size + specs[1].size
        self.widest, self.activations = max(self.widths[1:]), sum(self.widths)

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.stem`."""
        groups, networks, _ = parameters.shape
        width = self.widths[1]
        weight, bias = parameters[..., : self.stem_size].split([self.stem_size - width, width], dim=-1)
        samples = inputs.flatten(2)
        # The networks of a group share their samples, so their first layers can be computed as one wide layer.
        weight = weight.reshape(groups, networks * width, samples.shape[2])
        wide = torch.baddbmm(bias.reshape(groups, networks * width, 1), weight, samples.mT)
        return wide.view(groups, networks, width, samples.shape[1])

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """See :meth:`Network.body`."""
        hidden = stem.flatten(0, 1)
        for layer, (weight, bias) in enumerate(self._layers(parameters.flatten(0, 1), first=1)):
            hidden = torch.baddbmm(bias, weight, hidden.relu() if layer == 0 else hidden.relu_())
        return hidden.view(*stem.shape[:2], *hidden.shape[1:])

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        """See :meth:`Network.gradients`. Backpropagation is written out, because autograd takes 1.5 times as long."""
        layers = self._layers(parameters)
        entering, out = [], inputs.flatten(2).mT
        for layer, (weight, bias) in enumerate(layers):
            entering.append(out if layer == 0 else out.relu_())
            out = _affine(weight, entering[-1], bias)
        back = logit_gradient(out)
        parts: list[Tensor] = []
        for layer in reversed(range(len(layers))):
            parts = [torch.bmm(back, entering[layer].mT).flatten(1), back.sum(2), *parts]
            if layer > 0:
                back = _affine(layers[layer][0].mT, back)
                back = torch.ops.aten.threshold_backward(back, entering[layer], 0)
        return parts

    def with_statistics(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.with_statistics`."""
        return parameters

    def _layers(self, parameters: Tensor, first: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Views of the weights ``[R, outputs, inputs]`` and biases ``[R, outputs, 1]`` from layer ``first`` on."""
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


def _affine(weight: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """The products ``[R, outputs, n]`` of weights and columns, plus the bias; see ``FEWEST_COLUMNS``."""
    if columns.shape[2] >= FEWEST_COLUMNS:
        return torch.bmm(weight, columns) if bias is None else torch.baddbmm(bias, weight, columns)
    rows = columns.mT
    return (torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.mT, rows, weight.mT)).mT
