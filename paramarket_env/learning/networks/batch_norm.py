"""Batch normalisation in modules. Its running statistics are part of a network, as its parameters are."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paramarket_env.validation import require

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""The layers that a market can use."""

STATISTICS = ("running_mean", "running_var")
"""The names of the running statistics of a layer. It has none if it always uses those of its minibatch."""

COUNTER = "num_batches_tracked"
"""The name of the buffer in which a layer counts minibatches."""


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The layers of batch normalisation by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}


def buffers_of_batch_norms(module: nn.Module, kinds: tuple[str, ...] = STATISTICS) -> dict[str, Tensor]:
    """The buffers of these kinds in layers of batch normalisation, by name as in ``named_buffers()``."""
    names = {f"{name}.{kind}".removeprefix(".") for name in batch_norms(module) for kind in kinds}
    return {name: buffer for name, buffer in module.named_buffers() if name in names}


def require_running_statistics(module: nn.Module, features: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for a layer of batch normalisation whose running statistics cannot be estimated."""
    copied, calls = copy.deepcopy(module), Counter[str]()
    allowed = (
        "an nn.BatchNorm1d, nn.BatchNorm2d or nn.BatchNorm3d with running statistics, or another layer, "
        "such as nn.GroupNorm"
    )
    for name, layer in batch_norms(copied).items():
        require(type(layer) in KINDS and layer.running_mean is not None, f"network's layer {name!r}", layer, allowed)
        layer.register_forward_hook(lambda *_, name=name: calls.update([name]))
    if batch_norms(copied):
        copied(torch.zeros(2, *features, dtype=torch.float32, device="cpu"))
    for name, number in calls.items():
        allowed = "1, since a layer of batch normalisation has the statistics of one place"
        require(number == 1, f"number of calls of the network's layer {name!r}", number, allowed)


def in_training(module: nn.Module) -> nn.Module:
    """A copy of a module in ``eval`` mode whose batch normalisations alone are in ``train`` mode.

    They use the statistics of the samples and leave them in their buffers.
    """
    copied = copy.deepcopy(module)
    for layer in batch_norms(copied).values():
        layer.train()
        layer.momentum, layer.num_batches_tracked = 1.0, None
    return copied
