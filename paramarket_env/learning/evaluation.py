"""Loss and confusion matrices of many networks at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.kernels import compiled
from paramarket_env.learning.kernels.selection import kernels, serving
from paramarket_env.learning.kernels.triton_shapes import fits_trials
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import Network, stem_units


def stems(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    """The stems of R groups of G networks, each group on its own samples: float32 ``[R, G, units, n]``.

    ``parameters`` is ``[R, G, P]``, and ``samples`` is int64 ``[R, n]``.
    """
    if type(network) is MLPNetwork and serving(parameters) == "compiled":
        return compiled.stems(network.widths, parameters, dataset.inputs, samples.contiguous())
    return network.stem(parameters, dataset.take(samples))


def serving_trials(network: Network, parameters: Tensor) -> str:
    """The back end for the losses of networks behind their stems; see :func:`.selection.serving`."""
    if type(network) is MLPNetwork:  # a subclass may compute something else
        return serving(parameters, fits=fits_trials(network.widths))
    return "torch"


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, ``[R, G, n]``, of ``logits`` ``[R, G, classes, n]`` and ``labels`` int64 ``[R, n]``."""
    labels = labels.unsqueeze(1).expand(-1, logits.shape[1], -1)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1), reduction="none").view(labels.shape)


def losses(network: Network, parameters: Tensor, stem: Tensor, labels: Tensor) -> Tensor:
    """Mean loss in nats, float64 ``[R, G]``, of networks ``[R, G, P]``, given their stems ``[R, G, units, n]``.

    ``labels`` is int64 ``[R, n]``.
    """
    served = serving_trials(network, parameters)
    if isinstance(network, MLPNetwork) and served != "torch":
        means: Tensor = kernels(served).losses(network.widths, parameters, stem, labels)
        return means
    parts = _logits(network, parameters, stem, labels)
    return torch.cat([sample_losses(*part).mean(-1, dtype=torch.float64) for part in parts])


def losses_and_confusions(
    network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean loss in nats, float64 ``[R, G]``, and confusion matrices, int64 ``[R, G, classes, classes]``.

    A matrix counts the samples by their class (row) and by the class with the largest logit (column). The arguments
    are those of :func:`stems`.
    """
    rows = groups_at_once(network, dataset, parameters, samples)
    parts = zip(parameters.split(rows), samples.split(rows), strict=True)
    loss, confusion = zip(*(_loss_and_confusion(network, dataset, *part) for part in parts), strict=True)
    return torch.cat(loss), torch.cat(confusion)


def accuracies(confusions: Tensor) -> Tensor:
    """The share of samples on the diagonal of each matrix, ``[..., classes, classes]``: float64 ``[...]``."""
    correct = confusions.diagonal(dim1=-2, dim2=-1).sum(-1)
    return correct.double() / confusions.sum((-2, -1))


def groups_at_once(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> int:
    """The number of groups to evaluate at a time, so that their stems and inputs stay in the cache.

    The arguments are those of :func:`stems`.
    """
    held = max(parameters.shape[1] * stem_units(network), dataset.size)
    return max(1, 4 * chunk_elements(samples.device) // (held * samples.shape[1]))


def _loss_and_confusion(
    network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    stem, labels = stems(network, dataset, parameters, samples), dataset.labels[samples]
    parts = [
        (sample_losses(logits, truth).mean(-1, dtype=torch.float64), _confusions(logits, truth))
        for logits, truth in _logits(network, parameters, stem, labels)
    ]
    loss, confusion = zip(*parts, strict=True)
    return torch.cat(loss), torch.cat(confusion)


def _logits(network: Network, parameters: Tensor, stem: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits ``[r, G, classes, n]`` and labels ``[r, n]`` of a few groups at a time."""
    bodies = parameters[..., network.stem_size :]
    rows = max(1, chunk_elements(stem.device) // stem[0].numel())
    for body, entering, truth in zip(bodies.split(rows), stem.split(rows), labels.split(rows), strict=True):
        yield network.body(body, entering), truth


def _confusions(logits: Tensor, labels: Tensor) -> Tensor:
    """The confusion matrices, int64 ``[r, G, classes, classes]``; see :func:`sample_losses` for the arguments."""
    classes = logits.shape[2]
    entry = labels.unsqueeze(1) * classes + logits.argmax(dim=2)
    counts = entry.new_zeros(*entry.shape[:2], classes**2).scatter_add_(2, entry, torch.ones_like(entry))
    return counts.view(*entry.shape[:2], classes, classes)
