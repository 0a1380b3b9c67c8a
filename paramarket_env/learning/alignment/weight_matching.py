"""Weight matching of a seller's network to a buyer's (Ainsworth et al., *Git Re-Basin*, ICLR 2023, algorithm 1).

The order of hidden units is arbitrary, so two networks that compute the same function can have different parameters.
Weight matching permutes the seller's units to maximise the inner product of its tensors with the buyer's. It is a
coordinate ascent over the permutations, and each of its steps solves a linear assignment problem. It needs no data and
never changes the function that the seller's network computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from paramarket_env.learning.alignment.aligner import ALIGNERS, Samples
from paramarket_env.learning.alignment.assignment import assign, teams_of
from paramarket_env.learning.alignment.inner_products import ALL, InnerProducts, Some, places
from paramarket_env.learning.alignment.permutations import columns_of, identity
from paramarket_env.learning.kernels import triton_shapes
from paramarket_env.learning.kernels.selection import kernels, serving
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import Blocks, Network
from paramarket_env.seeding import permutation, stream
from paramarket_env.validation import configuration


@ALIGNERS.register
@configuration
class WeightMatching:
    """Git Re-Basin's weight matching (Ainsworth, Hayase and Srinivasa, ICLR 2023), warm-started."""

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor, samples: Samples) -> Tensor:
        """See :meth:`Aligner.__call__` and :func:`weight_matching`."""
        return weight_matching(network, buyers, sellers, start)


TOLERANCE = 1e-12
"""Permutations are replaced only if the inner product grows by more than this share of it (of 1 if it is below 1)."""


FEW_SWEEPS, MANY_SWEEPS = 24, 64
"""The largest number of sweeps of an ascent with at most two steps, and of one with more, on every device.

On a GPU all of them are made, since the host decides nothing. Pairs of untrained networks, of trained ones and with
planted permutations needed at most 16 sweeps with two steps (of 7,000 pairs) and 30 with more (of 2,000 pairs).
"""


WIDEST = {"compiled": 256, "triton": triton_shapes.WIDEST}
"""The widest layer with which kernels match networks. On a CPU, torch is faster where layers are wider."""


def weight_matching(network: Network, buyers: Tensor, sellers: Tensor, start: Tensor | None = None) -> Tensor:
    """The permutations ``[Q, H]`` that bring the units of sellers ``[Q, P]`` into the order of their buyers ``[Q, P]``.

    The ascent begins at ``start`` ``[Q, H]`` where that is better than the identity. From the previous match of the
    same pair, one or two sweeps suffice. Each sweep visits the permutations in a random order from a fixed stream,
    which is the same for all pairs. The match of a pair therefore does not depend on the other pairs.
    """
    start = None if start is None else start.long()
    if (served := serving_matches(network, buyers)) != "torch":
        assert isinstance(network, MLPNetwork)
        begin = identity(network, buyers.device).repeat(len(buyers), 1) if start is None else start.contiguous()
        visits = _all_visits(len(network.widths) - 2, buyers.device)
        matched: Tensor = kernels(served).match(network.widths, buyers, sellers.contiguous(), begin, visits, TOLERANCE)
        return matched
    products = InnerProducts(network, buyers, sellers)
    return ascend(products, beginning(products, start))


def serving_matches(network: Network, buyers: Tensor) -> str:
    """The back end that matches these networks: ``compiled``, ``triton`` or ``torch``; see ``WIDEST``."""
    if type(network) is not MLPNetwork or len(network.widths) == 2:
        return "torch"
    name = serving(buyers)
    return name if max(network.widths[1:]) <= WIDEST.get(name, 0) else "torch"


def beginning(products: InnerProducts, start: Tensor | None) -> Tensor:
    """``start`` ``[Q, H]`` for each pair for which it is better than the identity, otherwise the identity."""
    unchanged = identity(products.network, products.device).repeat(len(products), 1)
    if start is None:
        return unchanged
    better = products.of_networks(start) > products.unchanged
    return torch.where(better.unsqueeze(1), start, unchanged)


def better_of(products: InnerProducts, candidate: Tensor, otherwise: Tensor) -> Tensor:
    """For each pair, the ``candidate`` where its inner product is larger, and ``otherwise`` where not: ``[Q, H]``."""
    larger = products.of_networks(candidate) > products.of_networks(otherwise)
    return torch.where(larger.unsqueeze(1), candidate, otherwise)


def ascend(products: InnerProducts, start: Tensor) -> Tensor:
    """The local optimum ``[Q, H]`` that coordinate ascent reaches from ``start`` ``[Q, H]``.

    The number of sweeps is bounded; see ``MANY_SWEEPS``.
    """
    result, steps = start.clone(), _steps(products.network)
    # A step must be taken again only if a permutation that acts on the same tensors has changed since.
    stale = torch.ones(len(steps), len(start), dtype=torch.bool, device=start.device)
    for sweep in range(_most_sweeps(len(steps))):
        if waits(stale) and not bool(stale.any()):
            break
        for position in _visits(sweep, len(steps)):
            pairs = worth(stale[position])
            if pairs is not None:
                _improve(products, steps[position], result, stale, pairs)
    return result


def waits(tensor: Tensor) -> bool:
    """Whether the host may wait for a decision on the device, to save work. On a GPU, the wait would cost more."""
    return not tensor.is_cuda


def worth(active: Tensor) -> Some | None:
    """The pairs to work on, of which those in ``active``, bool ``[Q]``, matter. None if there are none."""
    if not waits(active):
        return ALL
    pairs = active.nonzero().squeeze(1)
    if len(pairs) == 0:
        return None
    return ALL if len(pairs) == len(active) else pairs


@dataclass(frozen=True)
class _Step:
    """A step of the ascent, which solves the permutations of one team."""

    team: Blocks
    columns: list[slice]
    """The columns of the team's permutations in ``[Q, H]``."""
    position: int
    neighbours: list[int]
    """The positions of the steps whose permutations act on the same tensors."""
    linear: bool
    """Whether the team acts on one axis of each tensor at most, so that the inner product is linear in it."""


@lru_cache(maxsize=16)
def _steps(network: Network) -> list[_Step]:
    """The steps of a sweep. A step whose team meets itself on a tensor is a neighbour of its own."""
    teams, acting = teams_of(network), places(network)
    axes = [{(place.spec.name, place.axis) for name in team.permutations for place in acting[name]} for team in teams]
    tensors = [{name for name, _ in own} for own in axes]
    steps = []
    for number, team in enumerate(teams):
        linear = len(axes[number]) == len(tensors[number])
        sharing = [other for other, theirs in enumerate(tensors) if theirs & tensors[number]]
        columns = [columns_of(network)[name] for name in team.permutations]
        neighbours = [other for other in sharing if other != number or not linear]
        steps.append(_Step(team, columns, number, neighbours, linear))
    return steps


def _improve(products: InnerProducts, step: _Step, result: Tensor, stale: Tensor, pairs: Some) -> None:
    """Take a step for those of the ``pairs`` for which it is stale, and change their ``result``, int64 ``[Q, H]``.

    ``stale``, bool ``[steps, Q]``, is brought up to date.
    """
    wanted, current = stale[step.position, pairs].clone(), result[pairs]
    units = [products.of_units(name, current, pairs) for name in step.team.permutations]
    orders = assign(step.team, units, wanted)
    better = current.clone()
    for columns, order in zip(step.columns, orders, strict=True):
        better[:, columns] = order
    if step.linear:
        before, after = (_total(units, step, chosen) for chosen in (current, better))
    else:
        # The products of units hold one axis of a tensor still while the other moves.
        before, after = (products.of_networks(chosen, pairs) for chosen in (current, better))
    improves = wanted & (after - before > TOLERANCE * before.abs().clamp_min(1))
    result[pairs] = torch.where(improves.unsqueeze(1), better, current)
    stale[step.position, pairs] = False
    for other in step.neighbours:
        stale[other, pairs] |= improves


def _most_sweeps(steps: int) -> int:
    return FEW_SWEEPS if steps <= 2 else MANY_SWEEPS


@cache
def _all_visits(steps: int, device: torch.device) -> Tensor:
    """The order in which each sweep takes the steps, int64 ``[sweeps, steps]``."""
    return torch.tensor([_visits(sweep, steps) for sweep in range(_most_sweeps(steps))], device=device)


@cache
def _visits(sweep: int, steps: int) -> list[int]:
    """The order in which a sweep takes the steps."""
    key = stream(torch.tensor(0, device="cpu"), "weight matching", sweep)
    order: list[int] = permutation(key, steps).tolist()
    return order


def _total(products: list[Tensor], step: _Step, permutations: Tensor) -> Tensor:
    """The sum of the inner products of the units that a step's permutations bring together, ``[q]``."""
    first, *others = (
        matrix.gather(2, permutations[:, columns].unsqueeze(-1)).sum((1, 2))
        for matrix, columns in zip(products, step.columns, strict=True)
    )
    return sum(others, first)
