"""Matching of all permutations at once by the Frank-Wolfe algorithm (Crisostomi et al., *C2M3*, NeurIPS 2024).

Coordinate ascent fixes one permutation at a time, so it sticks in local optima where many layers share a permutation,
as those of a residual network do. The algorithm relaxes permutations to doubly stochastic matrices and moves all of
them along the gradient of the inner product. Every step solves one linear assignment for each permutation. Coordinate
ascent then finishes what the relaxation has found.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.alignment.aligner import ALIGNERS, Samples
from paramarket_env.learning.alignment.assignment import assign_all
from paramarket_env.learning.alignment.inner_products import InnerProducts
from paramarket_env.learning.alignment.weight_matching import ascend, beginning, better_of, worth
from paramarket_env.learning.networks.network import Network, permutation_sizes
from paramarket_env.validation import configuration


@ALIGNERS.register
@configuration
class FrankWolfe:
    """All permutations at once (Crisostomi et al., *C2M3*, NeurIPS 2024), for residual networks and attention."""

    iterations: Annotated[int, Field(ge=1, le=10_000)] = 20
    """The largest number of steps of the relaxation. A pair that has converged takes no further steps."""

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor, samples: Samples) -> Tensor:
        """See :meth:`Aligner.__call__`. The result is at least as good as coordinate ascent's from ``start``."""
        products = InnerProducts(network, buyers, sellers)
        if not permutation_sizes(network) or len(buyers) == 0:
            return start
        relaxed = ascend(products, _round(network, relax(products, self.iterations)))
        return better_of(products, relaxed, ascend(products, beginning(products, start)))


CONVERGED = 1e-6
"""A pair has converged if the inner product's slope along the next step is below this share of it."""

Matrices = dict[str, Tensor]
"""A doubly stochastic matrix for each permutation, float64 ``[Q, units, units]``. Rows are the buyer's units."""


def relax(products: InnerProducts, iterations: int) -> Matrices:
    """The matrices at which the inner products of Q pairs are stationary, from those that mix all units equally.

    Along a step the inner product is a quadratic polynomial, since at most two permutations act on a tensor. Its
    maximum is the length of the step.
    """
    sizes = permutation_sizes(products.network)
    matrices = {
        name: torch.full((len(products), size, size), 1 / size, dtype=torch.float64, device=products.device)
        for name, size in sizes.items()
    }
    value = products.of_matrices(matrices)
    active = torch.ones(len(products), dtype=torch.bool, device=products.device)
    for _ in range(iterations):
        pairs = worth(active)
        if pairs is None:
            break
        here = {name: matrix[pairs] for name, matrix in matrices.items()}
        gradient = {name: products.of_units_mixed(name, here, pairs) for name in sizes}
        vertex = assign_all(products.network, gradient, active[pairs])
        towards = {name: _matrix(order) - here[name] for name, order in vertex.items()}
        slope = torch.stack([(gradient[name] * towards[name]).sum((1, 2)) for name in sizes]).sum(0)
        there = products.of_networks(torch.cat(list(vertex.values()), dim=1), pairs)
        bend = there - value[pairs] - slope
        length = torch.where(active[pairs], _length(slope, bend), 0)
        for name in sizes:
            matrices[name][pairs] += length[:, None, None] * towards[name]
        value[pairs] += length * slope + length.square() * bend
        active[pairs] &= slope > CONVERGED * value[pairs].abs()
    return matrices


def _length(slope: Tensor, bend: Tensor) -> Tensor:
    """The t within [0, 1] that maximises ``t * slope + t**2 * bend``, for ``slope`` at least 0."""
    return torch.where(bend < 0, (-slope / (2 * bend)).clamp(0, 1), 1.0)


def _matrix(order: Tensor) -> Tensor:
    """The matrices of permutations ``[Q, units]``. ``one_hot`` would wait for the device."""
    return (order.unsqueeze(-1) == torch.arange(order.shape[1], device=order.device)).double()


def _round(network: Network, matrices: Matrices) -> Tensor:
    """The permutations nearest to the matrices, int64 ``[Q, H]``."""
    everyone = torch.ones_like(next(iter(matrices.values()))[:, 0, 0], dtype=torch.bool)
    return torch.cat(list(assign_all(network, matrices, everyone).values()), dim=1)
