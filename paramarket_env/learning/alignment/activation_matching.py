"""Matching of units by the correlation of their activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_env.learning.activations import affine, entering
from paramarket_env.learning.alignment.aligner import ALIGNERS, Samples
from paramarket_env.learning.alignment.assignment import assign_all
from paramarket_env.learning.networks.network import Axis, Network, permutation_sizes
from paramarket_env.validation import configuration


@ALIGNERS.register
@configuration
class ActivationMatching:
    """The order in which units of both networks correlate most on the broker's data.

    The activations are those that linear and convolutional layers return, and those that enter them. Units that are
    seen in neither stay in their place.

    Source: Li et al., *Convergent learning*, ICLR 2016 (arXiv 1511.07543); Ainsworth et al., *Git Re-Basin*, ICLR 2023
    (arXiv 2209.04836), section 3.1. Cost: a forward pass per network on 256 samples, and an assignment per
    permutation.
    """

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor, samples: Samples) -> Tensor:
        """See :meth:`Aligner.__call__`. Running statistics are estimated on the samples."""
        if not permutation_sizes(network) or len(buyers) == 0:
            return start
        inputs = samples()
        buyers, sellers = (network.with_statistics(networks, inputs) for networks in (buyers, sellers))
        products = correlations(network, buyers, sellers, inputs)
        everyone = torch.ones_like(buyers[:, 0], dtype=torch.bool)
        return torch.cat(list(assign_all(network, products, everyone).values()), dim=1)


COLUMNS = 1024
"""The number of samples and places on which units are compared."""

Products = dict[str, Tensor]
"""For each permutation, a number for each of the buyer's units with each of the seller's: ``[Q, units, units]``."""


def correlations(network: Network, buyers: Tensor, sellers: Tensor, inputs: Tensor) -> Products:
    """The correlations of units, summed over layers, float64. Units that are not seen correlate with their own place.

    ``inputs`` is float32 ``[Q, n, *features]``.
    """
    found: Products = {}
    mine, theirs = (entering(network, networks, inputs, _some) for networks in (buyers, sellers))
    for layer in mine:
        returned, entered = network.parameters[layer.weight].axes[:2]
        _add(found, entered, mine[layer][:, :-1], theirs[layer][:, :-1])
        outputs = (affine(network, buyers, layer) @ mine[layer], affine(network, sellers, layer) @ theirs[layer])
        _add(found, returned, *outputs)
    return _in_place(network, buyers) | found


def _some(columns: Tensor) -> Tensor:
    """At most ``2 * COLUMNS`` of the columns, spread evenly."""
    return columns[:, :: max(1, columns.shape[1] // COLUMNS)]


def _in_place(network: Network, buyers: Tensor) -> Products:
    """Products that leave every unit in its place."""
    return {
        name: torch.eye(size, dtype=torch.float64, device=buyers.device).repeat(len(buyers), 1, 1)
        for name, size in permutation_sizes(network).items()
    }


def _add(found: Products, axis: Axis, mine: Tensor, theirs: Tensor) -> None:
    """Add the correlations of the units of an axis, whose values on the samples are ``[Q, elements, columns]``."""
    elements = mine.shape[1] // sum(segment.size for segment in axis)  # of a patch, for each element of the axis
    sizes = [segment.size * elements for segment in axis]
    for segment, *values in zip(axis, mine.split(sizes, dim=1), theirs.split(sizes, dim=1), strict=True):
        if segment.permutation is not None:
            first, second = (_standardised(part.reshape(len(part), segment.units, -1)) for part in values)
            found[segment.permutation] = found.get(segment.permutation, 0) + first @ second.mT


def _standardised(values: Tensor) -> Tensor:
    """The values ``[Q, units, columns]`` minus each unit's mean, with norm 1, in float64; 0 if they are all equal.

    Values that are not finite count as 0.
    """
    values = values.double().nan_to_num(0, 0, 0)
    return F.normalize(values - values.mean(2, keepdim=True), dim=2)
