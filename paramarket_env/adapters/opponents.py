"""Policies in the seats that do not learn."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import TypeIs

from paramarket_env.autograd import no_grad
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, seat_of
from paramarket_env.seeding import stream
from paramarket_env.validation import integer, require

Named = str | PolicyFactory
"""A policy: a factory, or the textual form of one, such as ``"patient:7+fixed:3"``."""

Others = Named | Sequence[Named]
"""One policy, or several."""

LEARNER = -1

SEATS_MAX = 2**24
"""The largest number of seats. It limits the seating, which is made before the markets."""


@dataclass(frozen=True)
class Seating:
    """An assignment of policies and learners to seats."""

    policies: Sequence[PolicyFactory]
    seats: Tensor
    """int64 ``[M, N]``: the index of the policy that plays the seat, or ``LEARNER``."""

    @property
    def learners(self) -> Tensor:
        """bool ``[M, N]``: the seat learns."""
        return self.seats == LEARNER

    def equals(self, other: Seating) -> bool:
        """Whether the same policies and learners have the same seats."""
        return list(self.policies) == list(other.policies) and torch.equal(self.seats, other.seats)


def all_learn(num_markets: int, agents: int) -> Seating:
    """A seating in which all agents learn."""
    num_markets = _checked(num_markets, agents)
    return Seating((), torch.full((num_markets, agents), LEARNER, device="cpu"))


def _checked(num_markets: int, agents: int) -> int:
    """The number of markets; raises ``ValueError`` if it is not an integer, or for more than ``SEATS_MAX`` seats."""
    return integer("num_markets", num_markets, 1, SEATS_MAX // agents)


def _several(opponents: Others) -> TypeIs[Sequence[Named]]:
    return isinstance(opponents, Sequence) and not isinstance(opponents, str)


def _policies(opponents: Others) -> list[PolicyFactory]:
    """The factories of the given policies; raises ``ValueError`` for what is no policy."""
    return [POLICIES.check(policy) for policy in (opponents if _several(opponents) else [opponents])]


def against_each(num_markets: int, agents: int, opponents: Others, seat: int) -> Seating:
    """A seating in which the learner has the same seat in all markets.

    One policy plays all other seats, or several play one of them each, in order.
    """
    num_markets, seat = _checked(num_markets, agents), integer("seat", seat, 0, agents - 1)
    policies = _policies(opponents)
    policies *= 1 if _several(opponents) else agents - 1
    allowed = f"a policy, or one for each of the {agents - 1} other seats"
    require(len(policies) == agents - 1, "opponents", opponents, allowed)
    numbers = [*range(seat), LEARNER, *range(seat, agents - 1)]
    return Seating(policies, torch.tensor(numbers, device="cpu").expand(num_markets, -1))


def against_populations(num_markets: int, agents: int, populations: Others) -> Seating:
    """A seating in which agent m mod N learns in market m, and one of the populations plays all other seats.

    The population changes after every N markets.
    """
    num_markets = _checked(num_markets, agents)
    market = torch.arange(num_markets, device="cpu")
    policies = _policies(populations)
    seats = (market // agents % len(policies)).unsqueeze(1).repeat(1, agents)
    seats[market, market % agents] = LEARNER
    return Seating(policies, seats)


class Opponents:
    """The policies of a seating, which play their seats in a batch of markets."""

    def __init__(self, batch: MarketBatch, seating: Seating) -> None:
        self._batch = batch
        seats = seating.seats.flatten().to(batch.device)
        self.learners = (seats == LEARNER).nonzero().squeeze(1)
        """int64 ``[rows]``: the seats that learn, as market * N + agent."""
        self._seats = [(seats == player).nonzero().squeeze(1) for player in range(len(seating.policies))]
        pairs = zip(seating.policies, self._seats, strict=True)
        self._policies: list[Policy] = [factory(seat_of(batch, len(seats))) for factory, seats in pairs]

    @no_grad
    def reset(self, markets: Tensor | None = None) -> None:
        """Reset the policies in the markets whose episodes have just begun (int64 ``[m]``; None: all)."""
        agents, seeds = self._batch.config.agents, self._batch.seeds
        began = torch.arange(len(seeds), device=seeds.device) if markets is None else markets
        for policy, seats in zip(self._policies, self._seats, strict=True):
            rows = torch.isin(seats // agents, began).nonzero().squeeze(1)
            market, agent = seats[rows] // agents, seats[rows] % agents
            policy.reset(rows, stream(seeds[market], "policy", agent))

    def snapshot(self) -> list[Policy]:
        """Copies of the policies with their memory, for :meth:`restore`."""
        return deepcopy(self._policies)

    def restore(self, saved: list[Policy]) -> None:
        """Return to copies that :meth:`snapshot` made. They can be restored again."""
        self._policies = deepcopy(saved)

    @no_grad
    def joint_action(self, chosen: Tensor, observation: Tensor, mask: Tensor) -> Tensor:
        """The actions of all agents, int64 ``[M, N]`` or ``[M, N, parts]``, given those ``chosen`` by the learners.

        ``chosen`` is int64 ``[rows]`` or ``[rows, parts]``, ``observation`` float32 ``[M, N, D]``, ``mask`` bool
        ``[M, N, A]``.
        """
        shape = observation.shape[:2]
        seen, legal = observation.flatten(0, 1), mask.flatten(0, 1)
        actions = torch.empty((len(seen), *chosen.shape[1:]), dtype=torch.int64, device=seen.device)
        actions[self.learners] = chosen.to(seen.device)
        for policy, seats in zip(self._policies, self._seats, strict=True):
            actions[seats] = policy.act(seen[seats], legal[seats])
        joint: Tensor = actions.unflatten(0, shape)
        return joint
