"""Loss and accuracy of many networks at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_env.learning.data import Dataset
from paramarket_env.learning.networks import Network

CHUNK_ELEMENTS = 2**20
"""Numbers gathered or computed at a time, about: enough to keep a processor busy, few enough to stay in its cache."""


def losses(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    """Mean loss (nats) of R groups of G networks, each group on its own samples.

    ``parameters`` ``[R, G, P]``, ``samples`` int64 ``[R, n]`` -> float64 ``[R, G]``.
    """
    return torch.cat([_loss(logits, labels) for logits, labels in _chunks(network, dataset, parameters, samples)])


def losses_and_accuracies(
    network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`losses`, with the share of samples whose class has the largest logit: two float64 ``[R, G]``."""
    parts = [
        (_loss(logits, labels), (logits.argmax(dim=2) == labels).mean(-1, dtype=torch.float64))
        for logits, labels in _chunks(network, dataset, parameters, samples)
    ]
    loss, accuracy = zip(*parts, strict=True)
    return torch.cat(loss), torch.cat(accuracy)


def _chunks(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits ``[r, G, classes, n]`` and labels ``[r, G, n]`` of some groups after others."""
    same = parameters.shape[1]
    widest = max(spec.shape[0] for spec in network.parameters)
    rows = max(1, CHUNK_ELEMENTS // (samples.shape[1] * max(same * widest, math.prod(dataset.features))))
    for some, chosen in zip(parameters.split(rows), samples.split(rows), strict=True):
        labels = dataset.labels[chosen].unsqueeze(1).expand(-1, same, -1)
        yield network.forward(some, dataset.inputs[chosen]), labels


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none")
    return each.view(labels.shape).mean(-1, dtype=torch.float64)
