"""Stubs for markets with a known answer: a dataset, a network and an optimizer whose losses are given in advance.

The parameters of the network are *gaps*, each the nats of loss that a skill would save. Its loss is their sum plus a
floor, on every sample. So the gains of training and of purchases are known before an episode is played.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from paramarket_env.learning.data.datasets import DATASETS, Dataset
from paramarket_env.learning.networks.network import (
    ARCHITECTURES,
    Blocks,
    Gradients,
    LogitGradient,
    ParameterSpec,
    Segment,
)
from paramarket_env.learning.training import OPTIMIZERS, OptimizerState
from paramarket_env.validation import configuration, require


@DATASETS.register
@configuration
class OneHot:
    """Samples whose input is their class: float32 ``[classes]``, 1 at the class and 0 elsewhere."""

    samples: Annotated[int, Field(ge=2, le=2**20)] = 16
    """Number of samples, whose classes take turns."""
    classes: Annotated[int, Field(ge=2, le=2**10)] = 2
    """Number of classes."""

    def __call__(self) -> Dataset:
        """Make the samples."""
        labels = torch.arange(self.samples, device="cpu") % self.classes
        return Dataset(
            torch.eye(self.classes, dtype=torch.float32, device="cpu")[labels], labels, self.classes, official_test=0
        )


Gap = Annotated[float, Field(ge=0, le=100)]


@ARCHITECTURES.register
@configuration
class KnownLoss:
    """A network whose parameters say its loss: the sum of its gaps, plus a floor. It reads ``one-hot`` samples.

    The layers ``skill_0``, ``skill_1``, ... have a gap each, and all agents begin with the same ones.
    """

    gaps: Annotated[tuple[Gap, ...], Field(min_length=1)] = (1.0,)
    """The initial gaps in nats."""
    floor: Annotated[float, Field(gt=0, le=100)] = 0.1
    """The loss without gaps in nats. A loss of 0 would need an infinite logit."""

    def __call__(self, features: tuple[int, ...], classes: int) -> KnownLossNetwork:
        """See :meth:`Architecture.__call__`."""
        require(features == (classes,), "shape of a sample", features, f"{(classes,)}, as known-loss reads one-hot")
        return KnownLossNetwork(self.gaps, self.floor, classes)


class KnownLossNetwork:
    """A network with a given loss; see :class:`KnownLoss`. It has no stem and no hidden units."""

    blocks: tuple[Blocks, ...] = ()
    stem_size = 0

    def __init__(self, gaps: Sequence[float], floor: float, classes: int) -> None:
        axes = ((Segment(None, 1),),)
        self.parameters = tuple(
            ParameterSpec(f"skill_{skill}.gap", (1,), f"skill_{skill}", axes, bound=0.0, centre=gap)
            for skill, gap in enumerate(gaps)
        )
        self.floor, self.classes = floor, classes
        self.widest, self.activations = classes, 2 * classes

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.stem`. It is a view of the inputs."""
        return inputs.mT.unsqueeze(1).expand(-1, parameters.shape[1], -1, -1)

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """See :meth:`Network.body`."""
        return stem * self._logit(parameters)[..., None, None]

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        """See :meth:`Network.gradients`. The gradient of the loss with respect to each gap is 1."""
        one_hot = inputs.mT
        back = logit_gradient(one_hot * self._logit(parameters)[:, None, None])
        slope = -1 / -torch.expm1(-self._loss(parameters))
        gradient = (back * one_hot).sum((1, 2)) * slope
        return [gradient.unsqueeze(1)] * len(self.parameters)

    def _loss(self, parameters: Tensor) -> Tensor:
        """The loss in nats ``[...]`` of networks ``[..., P]``."""
        return parameters.sum(-1) + self.floor

    def _logit(self, parameters: Tensor) -> Tensor:
        """The logit ``[...]`` of the right class with which networks ``[..., P]`` have their loss.

        The other logits are 0, so the loss is log(1 + (classes - 1) exp(-logit)).
        """
        return math.log(self.classes - 1) - torch.expm1(self._loss(parameters)).log()

    def with_statistics(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.with_statistics`."""
        return parameters

    def module(self, parameters: Tensor) -> nn.Module:
        """See :meth:`Network.module`."""
        return _Module(self, parameters.detach().clone())


class _Module(nn.Module):
    """One network as a module; see :meth:`KnownLossNetwork.module`."""

    def __init__(self, network: KnownLossNetwork, parameters: Tensor) -> None:
        super().__init__()
        self._network, self.gaps = network, nn.Parameter(parameters)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits ``[n, classes]`` for samples ``[n, classes]``."""
        return inputs * self._network._logit(self.gaps)


Move = Annotated[float, Field(ge=-100, le=100)]


@OPTIMIZERS.register
@configuration
class KnownSteps:
    """Moves each parameter by a fixed amount in each step, whatever its gradient. No parameter falls below 0."""

    moves: Annotated[tuple[Move, ...], Field(min_length=1)] = (-1.0,)
    """The move of each parameter: below 0 learns a skill of ``known-loss``, above 0 forgets it."""

    def fresh(self, parameters: Tensor) -> OptimizerState:
        """See :meth:`Optimizer.fresh`."""
        return {}

    def step(self, parameters: Tensor, gradients: Gradients, state: OptimizerState) -> None:
        """See :meth:`Optimizer.step`; raises ``ValueError`` unless each parameter has a move."""
        size = parameters.shape[1]
        require(len(self.moves) == size, "known_steps.moves", self.moves, f"{size} numbers, one for each parameter")
        parameters.add_(parameters.new_tensor(self.moves)).clamp_(min=0)
