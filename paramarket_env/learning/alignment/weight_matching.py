"""Weight matching of a seller's network to a buyer's (Ainsworth et al., *Git Re-Basin*, ICLR 2023, algorithm 1).

The order of hidden units is arbitrary, so two networks that compute the same function can have different parameters.
Weight matching permutes the seller's units to maximise the inner product of its tensors with the buyer's. It is a
coordinate ascent over the permutations, and each of its steps solves a linear assignment problem. It needs no data and
never changes the function that the seller's network computes.
"""

from __future__ import annotations

from functools import cache
from itertools import count

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paramarket_env.learning.alignment.aligner import ALIGNERS
from paramarket_env.learning.alignment.permutations import by_name, identity, permute
from paramarket_env.learning.networks.network import Network, ParameterSpec, permutation_sizes, split
from paramarket_env.seeding import permutation, stream
from paramarket_env.validation import configuration


@ALIGNERS.register
@configuration
class WeightMatching:
    """Git Re-Basin's weight matching (Ainsworth, Hayase and Srinivasa, ICLR 2023), warm-started."""

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor) -> Tensor:
        """See :meth:`Aligner.__call__` and :func:`weight_matching`."""
        return weight_matching(network, buyers, sellers, start)


TOLERANCE = 1e-12
"""A permutation is replaced only if the inner product grows by more than this share of it (of 1 if it is below 1)."""


def weight_matching(network: Network, buyers: Tensor, sellers: Tensor, start: Tensor | None = None) -> Tensor:
    """The permutations ``[Q, H]`` that bring the units of sellers ``[Q, P]`` into the order of their buyers ``[Q, P]``.

    The ascent begins at ``start`` ``[Q, H]`` where that is better than the identity. From the previous match of the
    same pair, one or two sweeps suffice. Each sweep visits the permutations in a random order from a fixed stream,
    which is the same for all pairs. The match of a pair therefore does not depend on the other pairs.
    """
    sizes = permutation_sizes(network)
    names = list(sizes)
    both = torch.stack([buyers, sellers]).double()
    result = identity(network, buyers.device).repeat(len(buyers), 1)
    if start is not None:
        better_start = _inner_products(both[0], permute(network, both[1], start)) > _inner_products(*both)
        result = torch.where(better_start.unsqueeze(1), start, result)
    tensors = split(network, both)
    zeros = {name: both.new_zeros(len(buyers), size, size) for name, size in sizes.items()}
    fixed_products = {name: _add_inner_products(zeros[name], network, name, tensors) for name in names}
    shared = {spec.name: tensors[spec.name] for spec in network.parameters if len(_acting_on(spec)) > 1}
    orders = by_name(network, result)  # views: assigning to them changes the result
    # A permutation must be solved again only if one that acts on the same tensors has changed since.
    stale = {name: torch.ones(len(buyers), dtype=torch.bool, device=buyers.device) for name in names}
    for sweep in count():
        if not any(bool(pairs.any()) for pairs in stale.values()):
            return result
        for position in _visits(sweep, len(names)):
            name = names[position]
            pairs = stale[name].nonzero().squeeze(1)
            if len(pairs) == 0:
                continue
            current = {other: order[pairs] for other, order in orders.items()}
            theirs = {tensor: pair[:, pairs] for tensor, pair in shared.items()}
            products = _add_inner_products(fixed_products[name][pairs], network, name, theirs, current)
            better = _assign(products)
            before = _total(products, current[name])
            improves = _total(products, better) - before > TOLERANCE * before.abs().clamp_min(1)
            orders[name][pairs] = torch.where(improves.unsqueeze(-1), better, current[name])
            for other in _neighbours(network, name):
                stale[other][pairs] |= improves
            stale[name][pairs] = False
    raise AssertionError("unreachable: every sweep but the last increases a bounded sum")


@cache
def _visits(sweep: int, permutations: int) -> list[int]:
    """The order in which a sweep visits the permutations."""
    key = stream(torch.tensor(0, device="cpu"), "weight matching", sweep)
    order: list[int] = permutation(key, permutations).tolist()
    return order


def _neighbours(network: Network, name: str) -> set[str]:
    """The other permutations that share a tensor with this one."""
    together = [_acting_on(spec) for spec in network.parameters]
    return {other for acting in together if name in acting for other in acting} - {name}


def _inner_products(buyers: Tensor, sellers: Tensor) -> Tensor:
    """The inner products ``[Q]`` of buyers and sellers ``[Q, P]``, which weight matching maximises."""
    return torch.einsum("qp,qp->q", buyers, sellers)


def _add_inner_products(
    total: Tensor, network: Network, name: str, tensors: dict[str, Tensor], current: dict[str, Tensor] | None = None
) -> Tensor:
    """``total`` ``[Q, units, units]`` plus the inner product of each unit of the buyer with each unit of the seller.

    ``tensors`` are the buyer's and the seller's, ``[2, Q, *shape]``. With ``current``, the sum is over the tensors on
    which other permutations act too, and the seller's other axes are put into the order of ``current``. Without
    ``current``, the sum is over the other tensors.
    """
    for spec in network.parameters:
        if (len(_acting_on(spec)) > 1) != (current is not None):
            continue
        for axis, acting in enumerate(spec.permutations):
            if acting != name:
                continue
            buyer, seller = tensors[spec.name]
            for other, permuting in enumerate(spec.permutations):
                if other != axis and permuting is not None and current is not None:
                    seller = _reorder(seller, other + 1, current[permuting])
            buyer, seller = (tensor.movedim(axis + 1, 1).unsqueeze(-1).flatten(2) for tensor in (buyer, seller))
            total = total + buyer @ seller.mT
    return total


def _assign(products: Tensor) -> Tensor:
    """The permutation with the largest sum in each matrix of ``[Q, units, units]``: int64 ``[Q, units]``."""
    solved = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in products.cpu().numpy()]
    return torch.from_numpy(np.stack(solved)).to(products.device)


def _total(products: Tensor, order: Tensor) -> Tensor:
    return products.gather(2, order.unsqueeze(-1)).sum((1, 2))


def _acting_on(spec: ParameterSpec) -> list[str]:
    """The permutations that act on a tensor."""
    return [name for name in spec.permutations if name is not None]


def _reorder(tensor: Tensor, axis: int, order: Tensor) -> Tensor:
    shape = [1] * tensor.dim()
    shape[0], shape[axis] = order.shape
    return torch.take_along_dim(tensor, order.view(shape), dim=axis)
