"""Layers that are fitted, one after another, to reproduce the activations of both networks."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.activations import (
    SAMPLES,
    AffineLayer,
    affine,
    affine_layers,
    entering,
    require_affine_layers,
    solve,
    with_affine,
    words_of_layers,
)
from paramarket_env.learning.heads import head
from paramarket_env.learning.merging import MERGERS, MergeInputs, Merger, Weights, require_increasing
from paramarket_env.learning.networks.network import Network, has_statistics
from paramarket_env.validation import configuration, require


@MERGERS.register
@configuration
class Pleas(Merger):
    """The network whose layers' outputs are nearest to the average of both networks' outputs.

    The layers are fitted by least squares, one after another, each on what the merged network's earlier layers pass on.
    The output of the last layer becomes the average of both networks' logits, as in an ensemble. A hidden unit whose
    activations correlate too little with those of the seller's unit is not averaged: it stays the buyer's. Other
    tensors are averaged.

    Source: the permutations and least squares of Nasery et al., *PLeaS*, CVPR 2025 (arXiv 2407.02447), and the partial
    merging of Stoica et al., *ZipIt!*, ICLR 2024 (arXiv 2305.03053). Both widen the network by the units that do not
    match. The networks of a market have one width, so here the seller's are left out. Cost: for each layer, a forward
    pass of both networks and, for each weight, one of the merged network and a system of equations, on 256 samples. It
    cannot serve networks with batch normalisation.
    """

    weights: Weights = (0.25, 0.5, 0.75)
    """Merge weights, increasing: the share of the seller in the average of outputs."""
    least_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Units with a lower correlation are not averaged. At -1 all are."""
    ridge: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    """The weight of the distance from the averaged layer, as a share of the mean square of the layer's inputs."""

    def __post_init__(self) -> None:
        require_increasing("pleas.weights", self.weights)

    def require_serves(self, network: Network) -> None:
        """See :meth:`Merger.require_serves`."""
        require(not has_statistics(network), "broker.merger", self, "another one, since the network normalises batches")
        require_affine_layers("broker.merger", self, network)

    def words(self, network: Network, samples: int) -> int:
        """See :meth:`Merger.words`. One layer of one weight is fitted at a time."""
        return super().words(network, samples) + words_of_layers(network)

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        samples = inputs.dataset.take(inputs.samples[:, :SAMPLES])
        averages = [torch.lerp(inputs.buyers, inputs.sellers, weight) for weight in self.weights]
        merged = [inputs.within(average.unsqueeze(1)).squeeze(1) for average in averages]
        for layer in affine_layers(inputs.network):
            mine, theirs = (_outputs(inputs.network, each, layer, samples) for each in (inputs.buyers, inputs.sellers))
            apart = self._apart(inputs.network, layer, mine, theirs)
            for number, weight in enumerate(self.weights):
                target = torch.where(apart, mine, torch.lerp(mine, theirs, weight))
                merged[number] = self._fitted(inputs, merged[number], layer, samples, target, apart)
        return torch.stack(merged, dim=1)

    def _apart(self, network: Network, layer: AffineLayer, buyer: Tensor, seller: Tensor) -> Tensor:
        """Whether the units of a layer are too different to be averaged, bool ``[Q, units, 1]``.

        ``buyer`` and ``seller`` are the layer's outputs, ``[Q, units, columns]``. Logits are always averaged.
        """
        if network.parameters[layer.weight].layer == head(network):
            return torch.zeros_like(buyer[..., :1], dtype=torch.bool)
        buyer, seller = (outputs - outputs.mean(2, keepdim=True) for outputs in (buyer, seller))
        correlation = torch.cosine_similarity(buyer, seller, dim=2)
        return (correlation < self.least_correlation).unsqueeze(2)

    def _fitted(
        self, inputs: MergeInputs, merged: Tensor, layer: AffineLayer, samples: Tensor, target: Tensor, apart: Tensor
    ) -> Tensor:
        """The networks ``merged`` ``[Q, P]`` with a layer whose outputs are near to the ``target``."""
        network = inputs.network
        columns = entering(network, merged, samples, torch.clone, only=layer)[layer].double()
        near = torch.where(apart, affine(network, inputs.buyers, layer), affine(network, merged, layer)).double()
        count = columns.shape[2]
        products, missed = columns @ columns.mT / count, (target - near @ columns) @ columns.mT / count
        fitted = near + solve(products, missed.mT, self.ridge).mT
        return inputs.within(with_affine(network, merged, {layer: fitted}).unsqueeze(1)).squeeze(1)


def _outputs(network: Network, parameters: Tensor, layer: AffineLayer, samples: Tensor) -> Tensor:
    """The outputs of a layer of networks ``[Q, P]`` on their own samples, float64 ``[Q, units, columns]``."""
    columns = entering(network, parameters, samples, torch.clone, only=layer)[layer]
    return affine(network, parameters, layer).double() @ columns.double()
