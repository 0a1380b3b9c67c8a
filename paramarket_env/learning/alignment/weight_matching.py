"""Align a seller's network to a buyer's: weight matching (Ainsworth et al., *Git Re-Basin*, ICLR 2023, algorithm 1).

Hidden units have no order of their own, so two networks that compute alike may look unlike. Weight matching permutes
the seller's units so that its tensors have the largest inner product with the buyer's, by coordinate ascent over the
permutations, each step a linear assignment. It needs no data and never changes the function the seller computes.
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
"""A permutation is replaced only by one whose inner product is larger by more than this share of it (of 1, if less)."""


def weight_matching(network: Network, buyers: Tensor, sellers: Tensor, start: Tensor | None = None) -> Tensor:
    """The permutations ``[Q, H]`` that bring each seller's units into its buyer's order; both ``[Q, P]``.

    The ascent begins at ``start`` ``[Q, H]`` where that is better than the identity: from the last match of the same
    pair, a sweep or two suffice. The permutations are visited in a random order, drawn from a fixed stream for each
    sweep, the same for all pairs: a pair is matched alike alone and beside others.
    """
    sizes = permutation_sizes(network)
    names = list(sizes)
    both = torch.stack([buyers, sellers]).double()
    result = identity(network, buyers.device).repeat(len(buyers), 1)
    if start is not None:
        warmer = _likeness(both[0], permute(network, both[1], start)) > _likeness(*both)
        result = torch.where(warmer.unsqueeze(1), start, result)
    tensors = split(network, both)
    nothing = {name: both.new_zeros(len(buyers), size, size) for name, size in sizes.items()}
    fixed_products = {name: _add_inner_products(nothing[name], network, name, tensors) for name in names}
    shared = {spec.name: tensors[spec.name] for spec in network.parameters if len(_acting_on(spec)) > 1}
    orders = by_name(network, result)  # views: what is written there is written into the result
    # A permutation has to be looked at again only if one that acts on the same tensors has changed since.
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
            gain = _total(products, better) - before > TOLERANCE * before.abs().clamp_min(1)
            orders[name][pairs] = torch.where(gain.unsqueeze(-1), better, current[name])
            for other in _neighbours(network, name):
                stale[other][pairs] |= gain
            stale[name][pairs] = False
    raise AssertionError("unreachable: each sweep improves a bounded sum or ends")


@cache
def _visits(sweep: int, permutations: int) -> list[int]:
    """The order in which a sweep visits the permutations."""
    order: list[int] = permutation(stream(torch.tensor(0), "weight matching", sweep), permutations).tolist()
    return order


def _neighbours(network: Network, name: str) -> set[str]:
    """The other permutations that act on a tensor that this one acts on."""
    together = [_acting_on(spec) for spec in network.parameters]
    return {other for acting in together if name in acting for other in acting} - {name}


def _likeness(buyers: Tensor, sellers: Tensor) -> Tensor:
    """The inner product of each buyer and its seller ``[Q, P]``, ``[Q]``: what weight matching makes large."""
    return torch.einsum("qp,qp->q", buyers, sellers)


def _add_inner_products(
    total: Tensor, network: Network, name: str, tensors: dict[str, Tensor], current: dict[str, Tensor] | None = None
) -> Tensor:
    """``total`` ``[Q, n, n]`` and the inner products of the buyer's unit i and the seller's unit j: how alike they are.

    ``tensors`` are the buyer's and the seller's, ``[2, Q, *shape]``. With ``current``, it is summed over those that
    other permutations act on, too: the seller's other axes stand in that order. Without it, over all others.
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
            mine, theirs = (tensor.movedim(axis + 1, 1).unsqueeze(-1).flatten(2) for tensor in (buyer, seller))
            total = total + mine @ theirs.mT
    return total


def _assign(products: Tensor) -> Tensor:
    """The permutation of each ``[n, n]`` matrix with the largest sum, int64 ``[Q, n]``."""
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
