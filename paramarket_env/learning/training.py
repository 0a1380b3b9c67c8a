"""Local training of many networks at once: minibatches, optimizers and passes over endowments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.kernels import compiled
from paramarket_env.learning.kernels.selection import backend, kernels, serving
from paramarket_env.learning.kernels.triton_shapes import fits_training
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import Gradients, Network, has_statistics
from paramarket_env.plugins import Registry
from paramarket_env.seeding import bits
from paramarket_env.validation import configuration, require

LARGEST = 2**20
"""Parameters of the largest network whose kernels are used in training: torch's large products are as fast on a CPU."""

OptimizerState = dict[str, Tensor]
"""Tensors ``[R, ...]``, one row per network. A fresh optimizer's are all zeros."""


@runtime_checkable
class Optimizer(Protocol):
    """A plug-in that updates rows of flat parameters in place, each row with its own state."""

    def fresh(self, parameters: Tensor) -> OptimizerState:
        """The state before the first step for parameters ``[..., P]``: zeros."""

    def step(self, parameters: Tensor, gradients: Gradients, state: OptimizerState) -> None:
        """Take one step with the rows ``[R, P]``; parameters and state change in place."""


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", Optimizer)

LearningRate = Annotated[float, Field(gt=0, le=1e30)]


@OPTIMIZERS.register
@configuration
class SGD:
    """Stochastic gradient descent with momentum, as in ``torch.optim.SGD``."""

    lr: LearningRate = 0.05
    """Learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum coefficient."""

    def fresh(self, parameters: Tensor) -> OptimizerState:
        """See :meth:`Optimizer.fresh`."""
        return {"velocity": torch.zeros_like(parameters)} if self.momentum else {}

    def step(self, parameters: Tensor, gradients: Gradients, state: OptimizerState) -> None:
        """See :meth:`Optimizer.step`."""
        if self.momentum:
            velocity = state["velocity"].mul_(self.momentum).add_(torch.cat(list(gradients), dim=1))
            gradients = [velocity]
        parts = parameters.split([gradient.shape[1] for gradient in gradients], dim=1)
        for part, gradient in zip(parts, gradients, strict=True):
            part.sub_(gradient, alpha=self.lr)


@OPTIMIZERS.register
@configuration
class Adam:
    """Adam (Kingma and Ba 2015) with torch's defaults, as in ``torch.optim.Adam``."""

    beta1: ClassVar[float] = 0.9
    beta2: ClassVar[float] = 0.999
    epsilon: ClassVar[float] = 1e-8

    lr: LearningRate = 0.001
    """Learning rate."""

    def fresh(self, parameters: Tensor) -> OptimizerState:
        """See :meth:`Optimizer.fresh`."""
        steps = parameters.new_zeros(parameters.shape[:-1], dtype=torch.float64)
        return {"mean": torch.zeros_like(parameters), "square": torch.zeros_like(parameters), "steps": steps}

    def step(self, parameters: Tensor, gradients: Gradients, state: OptimizerState) -> None:
        """See :meth:`Optimizer.step`."""
        gradient = torch.cat(list(gradients), dim=1)
        steps = state["steps"].add_(1).unsqueeze(-1)
        mean = state["mean"].lerp_(gradient, 1 - self.beta1)
        square = state["square"].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        rate = (self.lr / (1 - self.beta1**steps)).to(mean.dtype)
        scale = (square / (1 - self.beta2**steps).to(mean.dtype)).sqrt_().add_(self.epsilon)
        parameters.sub_(mean / scale * rate)


@dataclass(frozen=True)
class Training:
    """The training settings of an agent; see :class:`paramarket_env.config.TrainingConfig`."""

    optimizer: Optimizer
    batch_size: int
    passes: int
    local_steps: int | None


def fresh_state(optimizers: Sequence[Optimizer], parameters: Tensor) -> OptimizerState:
    """The state before the first step for parameters ``[..., P]``, with all tensors that one of the optimizers keeps.

    Raises ``ValueError`` if two optimizers keep tensors of one name but of different shapes or dtypes.
    """
    state: OptimizerState = {}
    for optimizer in optimizers:
        for name, tensor in optimizer.fresh(parameters).items():
            known = state.setdefault(name, tensor)
            alike = (known.shape, known.dtype) == (tensor.shape, tensor.dtype)
            allowed = f"one that keeps {name!r} as the others do: {known.dtype} {list(known.shape)}"
            require(alike, "training.optimizer", optimizer, allowed)
    return state


def shuffled(endowments: Tensor, sizes: Tensor, keys: Tensor) -> Tensor:
    """Each row's samples in a random order, then -1: int64 ``[R, T]``, where T is the largest of the ``sizes`` ``[R]``.

    Each row's order depends only on its key in ``keys`` ``[R]``.
    """
    columns = int(sizes.max())
    if backend(endowments.device) == "compiled":
        return compiled.shuffled(endowments.contiguous(), columns, keys.contiguous())
    endowments = endowments[:, :columns]
    order = bits(keys, endowments.shape[1]).masked_fill_(endowments < 0, torch.iinfo(torch.int64).max)
    return endowments.gather(1, order.argsort(dim=1, stable=True))


def train(
    network: Network,
    training: Training,
    dataset: Dataset,
    parameters: Tensor,
    state: OptimizerState,
    samples: Tensor,
    sizes: Tensor,
    keys: Tensor,
) -> None:
    """Train R networks in place for one pass, each over its own samples, for at most ``local_steps`` minibatches.

    ``parameters`` is ``[R, P]``, and ``state`` holds the optimizer's state of the same rows. ``samples``, int64
    ``[R, T]``, are in the order of the pass, then -1; ``sizes``, int64 ``[R]``, are their numbers. Rows must be sorted
    by size, largest first: the networks that still have minibatches are then a prefix, and only they take part in a
    step. The last minibatch can be short; its loss is the mean over the samples that it has. Batch normalisation sees
    a full minibatch also then: samples from the beginning of the pass fill it up. Samples are augmented if the dataset
    says so, by random numbers that follow from the key of each network's pass in ``keys``, int64 ``[R]``.
    """
    batch_size = training.batch_size
    samples = samples[:, : batch_size * (training.local_steps or samples.shape[1])]
    formula = _formula(training.optimizer)
    unserved = {
        f"the optimizer {training.optimizer!r}": formula is None,
        "augmented samples": dataset.augmentation is not None,
        f"networks of more than {LARGEST} parameters": parameters.shape[1] > LARGEST,
    }
    if type(network) is MLPNetwork:
        fits = formula is not None and fits_training(network.widths, batch_size, len(formula.STATES[formula.kind]))
        served = serving(parameters, unserved, fits=fits)
        if served != "torch":
            data = (dataset.inputs, dataset.labels, samples.contiguous(), sizes)
            kernels(served).train(network.widths, parameters, *data, batch_size, formula, state)
            return
    if has_statistics(network):
        samples = F.pad(samples, (0, -samples.shape[1] % batch_size), value=-1)
    starts = torch.arange(0, samples.shape[1], batch_size, device=samples.device)
    taking_part = (sizes > starts.unsqueeze(1)).sum(1).tolist()
    index = _filled(samples, sizes) if has_statistics(network) else samples.clamp_min(0)
    labels = dataset.labels[index]
    weights = _weights(samples, sizes, batch_size)
    for number, (rows, start) in enumerate(zip(taking_part, starts.tolist(), strict=True)):
        if rows == 0:
            break
        columns = slice(start, start + batch_size)
        inputs = dataset.augmented(index[:rows, columns], keys[:rows], number)
        logit_gradient = partial(
            cross_entropy_gradient, labels=labels[:rows, None, columns], weights=weights[:rows, None, columns]
        )
        gradients = network.gradients(parameters[:rows], inputs, logit_gradient)
        training.optimizer.step(parameters[:rows], gradients, {name: tensor[:rows] for name, tensor in state.items()})


def _formula(optimizer: Optimizer) -> compiled.Optimizer | None:
    """The optimizer as the kernels know it; None if they do not."""
    # A subclass may take other steps.
    if type(optimizer) is SGD:
        kind = compiled.Optimizer.MOMENTUM if optimizer.momentum else compiled.Optimizer.SGD
        return compiled.Optimizer(kind, rate=optimizer.lr, momentum=optimizer.momentum)
    if type(optimizer) is Adam:
        betas = {"beta1": Adam.beta1, "beta2": Adam.beta2}
        return compiled.Optimizer(compiled.Optimizer.ADAM, rate=optimizer.lr, epsilon=Adam.epsilon, **betas)
    return None


def _filled(samples: Tensor, sizes: Tensor) -> Tensor:
    """The samples ``[R, T]`` of passes with these ``sizes`` ``[R]``, which begin again where there is no sample."""
    place = torch.arange(samples.shape[1], device=samples.device)
    return samples.gather(1, place % sizes.unsqueeze(1))


def _weights(samples: Tensor, sizes: Tensor, batch: int) -> Tensor:
    """The weight of each sample's loss in the mean of its minibatch, float32 ``[R, T]``; 0 where there is no sample."""
    place = torch.arange(samples.shape[1], device=samples.device)
    in_batch = (sizes.unsqueeze(1) - place // batch * batch).clamp(1, batch)
    return (samples >= 0).to(torch.float32) / in_batch


def cross_entropy_gradient(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The gradient ``[R, classes, n]`` of the weighted cross-entropy with respect to the logits ``[R, classes, n]``.

    It is the softmax minus the one-hot label, times the weight. ``labels`` and ``weights`` are ``[R, 1, n]``.
    """
    return logits.softmax(1).mul_(weights).scatter_add_(1, labels, -weights)
