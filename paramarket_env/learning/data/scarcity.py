"""Scarce classes: those of which an agent has few training samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paramarket_env.learning.data.endowments import Partition, SplitSizes, splits
from paramarket_env.learning.data.tasks import Tasks
from paramarket_env.learning.memory import chunk_elements


def class_sizes(tasks: Tasks, partition: Partition) -> Tensor:
    """The number of training samples of each class that each agent holds, int64 ``[M, N, classes]``."""
    held = partition.endowments >= 0
    return _counts(tasks.dataset.labels[partition.endowments.clamp_min(0)], held.long(), tasks.dataset.classes)


def scarce_classes(tasks: Tasks, sizes: Sequence[SplitSizes], seeds: Tensor, held: Tensor) -> Tensor:
    """Whether each class is scarce to each agent, bool ``[M, N, classes]``.

    A class is scarce to an agent whose share of the class's training samples is smaller than its share of all training
    samples of its task. ``held`` is that of :func:`class_sizes`, ``seeds`` (int64 ``[M]``) are those of the markets,
    and ``sizes`` are the split sizes of each task.
    """
    rows = max(1, chunk_elements(seeds.device) // len(tasks.dataset.labels))
    pools = torch.cat([_training_classes(tasks, sizes, some) for some in seeds.split(rows)])[:, tasks.of_agent]
    return held * pools.sum(-1, keepdim=True) < pools * held.sum(-1, keepdim=True)


def _training_classes(tasks: Tasks, sizes: Sequence[SplitSizes], seeds: Tensor) -> Tensor:
    """The number of samples of each class in the training split of each of T tasks, int64 ``[M, T, classes]``."""
    train = [part.labels[splits(part, size, seeds)[0]] for part, size in zip(tasks.parts, sizes, strict=True)]
    return torch.stack([_counts(labels, torch.ones_like(labels), tasks.dataset.classes) for labels in train], dim=1)


def _counts(labels: Tensor, weights: Tensor, classes: int) -> Tensor:
    """The sum of the weights of each class, ``[..., classes]``, of ``labels`` and ``weights`` ``[..., n]``."""
    return weights.new_zeros(*labels.shape[:-1], classes).scatter_add_(-1, labels, weights)
