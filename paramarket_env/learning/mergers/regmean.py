"""Least squares for each layer in closed form."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.activations import (
    SAMPLES,
    affine,
    entering,
    require_affine_layers,
    solve,
    with_affine,
    words_of_layers,
)
from paramarket_env.learning.merging import MERGERS, MergeInputs, Merger, Weights, require_increasing
from paramarket_env.learning.networks.network import Network
from paramarket_env.validation import configuration

RIDGE = 1e-6
"""The share of the mean square of a layer's inputs that is added to each, so that inputs that are always 0 can be."""


@configuration
class RegMean(Merger):
    """The layer whose outputs are nearest to those of both networks' layers, each on its own inputs.

    Every linear and convolutional layer is fitted by least squares on the broker's data. Other tensors are averaged.

    Source: Jin et al., *Dataless knowledge fusion by merging weights of language models*, ICLR 2023 (arXiv 2212.09849).
    Cost: a forward pass per network on 256 samples, and a system of equations per layer and weight.
    """

    weights: Weights = (0.25, 0.5, 0.75)
    """Merge weights, increasing: the share of the seller's outputs in the sum of squares."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.9
    """The factor of the inputs' products with each other, as in the paper. At 0 inputs count as uncorrelated."""

    def __post_init__(self) -> None:
        require_increasing("regmean.weights", self.weights)

    def require_serves(self, network: Network) -> None:
        """See :meth:`Merger.require_serves`."""
        require_affine_layers("broker.merger", self, network)

    def words(self, network: Network, samples: int) -> int:
        """See :meth:`Merger.words`. The systems of equations are solved in float64."""
        return super().words(network, samples) + words_of_layers(network)

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        network, samples = inputs.network, inputs.dataset.take(inputs.samples[:, :SAMPLES])
        mine, theirs = (entering(network, each, samples, self._products) for each in (inputs.buyers, inputs.sellers))
        merged = []
        for weight in self.weights:
            average = torch.lerp(inputs.buyers, inputs.sellers, weight)
            fitted = {}
            for layer in mine:
                difference = affine(network, inputs.buyers - inputs.sellers, layer).double()
                both = torch.lerp(mine[layer], theirs[layer], weight)
                # The least-squares layer minus the average, as its normal equations give it.
                change = solve(both, (mine[layer] - theirs[layer]) @ difference.mT, RIDGE).mT
                fitted[layer] = affine(network, average, layer) + weight * (1 - weight) * change
            merged.append(with_affine(network, average, fitted))
        return torch.stack(merged, dim=1)

    def _products(self, columns: Tensor) -> Tensor:
        """The mean products of a layer's inputs with each other, float64 ``[inputs, inputs]``."""
        columns = columns.double()
        products = columns @ columns.T / columns.shape[1]
        return torch.lerp(products.diag().diag(), products, self.shrink)


MERGERS.register(RegMean, "regmean")
