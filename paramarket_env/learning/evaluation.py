"""Loss and accuracy of many networks at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_env.learning.data import Dataset
from paramarket_env.learning.networks import Network

CHUNK_ELEMENTS = 2**22
"""Activations held at a time, about: enough to keep the device busy, few enough to stay in a processor's cache."""


def evaluate(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss (nats) and accuracy of R groups of G networks, each group on its own samples.

    ``parameters`` ``[R, G, P]``, ``samples`` int64 ``[R, n]`` -> two float64 ``[R, G]``.
    """
    widest = max(spec.shape[0] for spec in network.parameters)
    rows = max(1, CHUNK_ELEMENTS // (parameters.shape[1] * samples.shape[1] * widest))
    parts = [
        _evaluate_chunk(network, dataset, some, chosen)
        for some, chosen in zip(parameters.split(rows), samples.split(rows), strict=True)
    ]
    losses, accuracies = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(accuracies)


def _evaluate_chunk(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    labels = dataset.labels[samples].unsqueeze(1).expand(-1, parameters.shape[1], -1)
    logits = network.forward(parameters, dataset.inputs[samples])
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none").view(labels.shape)
    correct = logits.argmax(dim=2) == labels
    return losses.mean(-1, dtype=torch.float64), correct.mean(-1, dtype=torch.float64)
