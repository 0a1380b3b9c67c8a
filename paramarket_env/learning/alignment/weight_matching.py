"""Weight matching of a seller's network to a buyer's (Ainsworth et al., *Git Re-Basin*, ICLR 2023, algorithm 1).

The order of hidden units is arbitrary, so two networks that compute the same function can have different parameters.
Weight matching permutes the seller's units to maximise the inner product of its tensors with the buyer's. It is a
coordinate ascent over the permutations, and each of its steps solves a linear assignment problem. It needs no data and
never changes the function that the seller's network computes.
"""

from __future__ import annotations

from functools import cache
from itertools import count

import torch
from torch import Tensor

from paramarket_env.learning.alignment.aligner import ALIGNERS
from paramarket_env.learning.alignment.assignment import assign, teams_of
from paramarket_env.learning.alignment.inner_products import InnerProducts
from paramarket_env.learning.alignment.permutations import by_name, identity
from paramarket_env.learning.networks.network import Blocks, Network
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
"""Permutations are replaced only if the inner product grows by more than this share of it (of 1 if it is below 1)."""


def weight_matching(network: Network, buyers: Tensor, sellers: Tensor, start: Tensor | None = None) -> Tensor:
    """The permutations ``[Q, H]`` that bring the units of sellers ``[Q, P]`` into the order of their buyers ``[Q, P]``.

    The ascent begins at ``start`` ``[Q, H]`` where that is better than the identity. From the previous match of the
    same pair, one or two sweeps suffice. Each sweep visits the permutations in a random order from a fixed stream,
    which is the same for all pairs. The match of a pair therefore does not depend on the other pairs.
    """
    products = InnerProducts(network, buyers, sellers)
    first = identity(network, buyers.device).repeat(len(buyers), 1)
    if start is not None:
        first = better_of(products, start, first)
    return ascend(products, first)


def better_of(products: InnerProducts, candidate: Tensor, otherwise: Tensor) -> Tensor:
    """For each pair, the ``candidate`` where its inner product is larger, and ``otherwise`` where not: ``[Q, H]``."""
    larger = products.of_networks(candidate) > products.of_networks(otherwise)
    return torch.where(larger.unsqueeze(1), candidate, otherwise)


def ascend(products: InnerProducts, start: Tensor) -> Tensor:
    """The local optimum ``[Q, H]`` that coordinate ascent reaches from ``start`` ``[Q, H]``."""
    result, teams = start.clone(), teams_of(products.network)
    # A team must be solved again only if a permutation that acts on the same tensors has changed since.
    stale = [torch.ones(len(start), dtype=torch.bool, device=start.device) for _ in teams]
    neighbours = [_neighbours(products, team, teams) for team in teams]
    for sweep in count():
        if not any(bool(pairs.any()) for pairs in stale):
            return result
        for position in _visits(sweep, len(teams)):
            pairs = stale[position].nonzero().squeeze(1)
            if len(pairs) == 0:
                continue
            improves = _improve(products, teams[position], result, pairs)
            for other in neighbours[position]:
                stale[other][pairs] |= improves
            stale[position][pairs] = False
    raise AssertionError("unreachable: every sweep but the last increases a bounded sum")


def _improve(products: InnerProducts, team: Blocks, result: Tensor, pairs: Tensor) -> Tensor:
    """Solve a team's permutations for the ``pairs`` ``[q]``, given the others, and change ``result`` ``[Q, H]``.

    Returns the pairs whose inner product grows, bool ``[q]``. The permutations of the others stay as they are.
    """
    orders = by_name(products.network, result)  # views: assigning to them changes the result
    current = {name: order[pairs] for name, order in orders.items()}
    units = [products.of_units(name, pairs, current) for name in team.permutations]
    better = assign(team, units)
    before, after = (
        torch.stack([_total(*part) for part in zip(units, chosen, strict=True)]).sum(0)
        for chosen in ([current[name] for name in team.permutations], better)
    )
    if _meets_itself(products, team):
        # The sums above hold one side of a tensor still while the other moves, so they are no inner products.
        changed = by_name(products.network, trial := result[pairs])
        for name, order in zip(team.permutations, better, strict=True):
            changed[name].copy_(order)
        before, after = (products.of_networks(rows, pairs) for rows in (result[pairs], trial))
    improves = after - before > TOLERANCE * before.abs().clamp_min(1)
    for name, order in zip(team.permutations, better, strict=True):
        orders[name][pairs] = torch.where(improves.unsqueeze(-1), order, current[name])
    return improves


@cache
def _visits(sweep: int, teams: int) -> list[int]:
    """The order in which a sweep visits the teams."""
    key = stream(torch.tensor(0, device="cpu"), "weight matching", sweep)
    order: list[int] = permutation(key, teams).tolist()
    return order


def _neighbours(products: InnerProducts, team: Blocks, teams: list[Blocks]) -> list[int]:
    """The positions of the other teams that act on the same tensors, and of this one if it acts on a tensor twice."""
    mine = _tensors(products, team)
    others = [place for place, other in enumerate(teams) if other != team and mine & _tensors(products, other)]
    return others + [teams.index(team)] * _meets_itself(products, team)


def _tensors(products: InnerProducts, team: Blocks) -> set[str]:
    return {place.spec.name for name in team.permutations for place in products.places[name]}


def _meets_itself(products: InnerProducts, team: Blocks) -> bool:
    """Whether permutations of the team act on several axes of one tensor."""
    axes = {(place.spec.name, place.axis) for name in team.permutations for place in products.places[name]}
    return len(axes) > len(_tensors(products, team))


def _total(products: Tensor, order: Tensor) -> Tensor:
    return products.gather(2, order.unsqueeze(-1)).sum((1, 2))
