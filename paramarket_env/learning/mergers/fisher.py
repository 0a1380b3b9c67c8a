"""Averages weighted by the Fisher information."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.learning.activations import SAMPLES
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.merging import GRID, MERGERS, MergeInputs, Merger, Weights, require_increasing
from paramarket_env.learning.networks.network import Network, has_statistics, parameter_count
from paramarket_env.validation import configuration, require

FLOOR = 1e-6
"""The least Fisher information of a parameter, as in the authors' code. Parameters that do not matter are averaged."""


@MERGERS.register
@configuration
class Fisher(Merger):
    """The average weighted by the diagonal of each network's Fisher information on the broker's data.

    Source: Matena and Raffel, *Merging models with Fisher-weighted averaging*, NeurIPS 2022 (arXiv 2111.09832). Cost:
    a backward pass per network, class and sample, on 256 samples. It cannot serve networks with batch normalisation,
    whose output for one sample depends on others in training.
    """

    weights: Weights = GRID
    """Merge weights, increasing: the share of the seller."""

    def __post_init__(self) -> None:
        require_increasing("fisher.weights", self.weights)

    def require_serves(self, network: Network) -> None:
        """See :meth:`Merger.require_serves`."""
        require(not has_statistics(network), "broker.merger", self, "another one, since the network normalises batches")

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        weights = torch.tensor(self.weights, device=inputs.buyers.device).unsqueeze(1)
        network, samples = inputs.network, inputs.samples[:, :SAMPLES]
        both = [
            (FLOOR + fisher_information(network, inputs.dataset, parameters, samples)).unsqueeze(1)
            for parameters in (inputs.buyers, inputs.sellers)
        ]
        of_seller = weights * both[1]
        share = of_seller / ((1 - weights) * both[0] + of_seller)
        return torch.lerp(inputs.buyers.unsqueeze(1), inputs.sellers.unsqueeze(1), share)


def fisher_information(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    """The diagonals ``[R, P]`` for networks ``[R, P]`` on their own samples, int64 ``[R, n]``.

    They are the mean over samples of the expected squared gradient of the log-likelihood, with the label drawn from the
    network's own probabilities. The expectation is exact.
    """
    rows, (networks, count) = max(1, chunk_elements(samples.device) // parameter_count(network)), samples.shape
    diagonals = torch.zeros_like(parameters)
    for start in range(0, networks * count, rows):
        # Each sample is the minibatch of a copy of its network.
        chosen = torch.arange(start, min(start + rows, networks * count), device=samples.device)
        owner, inputs = chosen // count, dataset.take(samples.flatten()[chosen].unsqueeze(1))
        diagonals.index_add_(0, owner, _expected_squares(network, parameters[owner], inputs, dataset.classes))
    return diagonals / count


def _expected_squares(network: Network, parameters: Tensor, inputs: Tensor, classes: int) -> Tensor:
    """The expected squared gradients ``[R, P]`` of networks ``[R, P]``, each on one sample ``[R, 1, *features]``."""
    total = torch.zeros_like(parameters)
    for label in range(classes):

        def gradient(logits: Tensor, label: int = label) -> Tensor:
            shares = logits.softmax(1)
            target = torch.arange(classes, device=logits.device).view(1, -1, 1) == label
            # The square root makes the squared gradient that of the label times its probability.
            return (shares - target.to(shares.dtype)) * shares[:, label].sqrt().unsqueeze(1)

        total += torch.cat(list(network.gradients(parameters, inputs, gradient)), dim=1).square()
    return total
