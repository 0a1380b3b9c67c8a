"""Curves over the merge weight: loss and accuracy on the line from a buyer's network to an aligned seller's.

Between two networks that have grown apart the loss rises, which is called a barrier. Alignment lowers it (Ainsworth,
Hayase and Srinivasa, *Git Re-Basin*, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import accuracies, losses_and_confusions
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.merging import interpolate
from paramarket_env.learning.networks.network import Network, parameter_count
from paramarket_env.learning.statistics import with_statistics


@dataclass(frozen=True)
class Lines:
    """Q lines, each from a buyer's network to a seller's."""

    buyers: Tensor
    """float32 ``[Q, P]``."""
    sellers: Tensor
    """float32 ``[Q, P]``, aligned to the buyers."""
    masks: Tensor
    """bool ``[Q, P]``: the parameter set that is merged. Elsewhere a merge equals the buyer."""
    samples: Tensor
    """int64 ``[Q, n]``: the samples on which the merges are evaluated."""
    own: Tensor
    """int64 ``[Q, s]``: the buyer's samples on which the running statistics of merges are estimated."""

    def split(self, size: int) -> Iterator[Lines]:
        """Yield the lines in chunks of at most ``size``."""
        for start in range(0, len(self.buyers), size):
            yield Lines(*(tensor[start : start + size] for tensor in vars(self).values()))


def merge_curves(network: Network, dataset: Dataset, lines: Lines, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss in nats and accuracy of linear merges with W ``weights``, float32 ``[W]``: float64 ``[Q, W]`` each."""
    size = max(1, chunk_elements(weights.device) // (len(weights) * parameter_count(network)))
    curves = [_curves(network, dataset, some, weights) for some in lines.split(size)]
    loss, accuracy = zip(*curves, strict=True)
    return torch.cat(loss), torch.cat(accuracy)


def _curves(network: Network, dataset: Dataset, lines: Lines, weights: Tensor) -> tuple[Tensor, Tensor]:
    on_set = weights.unsqueeze(1) * lines.masks.unsqueeze(1)
    merged = interpolate(lines.buyers.unsqueeze(1), lines.sellers.unsqueeze(1), on_set)
    merged = with_statistics(network, dataset, merged, lines.own)
    loss, confusions = losses_and_confusions(network, dataset, merged, lines.samples)
    return loss, accuracies(confusions)
