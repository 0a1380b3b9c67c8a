"""The interface of policies, and the seat that a policy plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from paramarket_env.config import Disclosure
from paramarket_env.economics.clearing import Mechanism
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.interface.actions import Actions
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import ObservationLayout
from paramarket_env.plugins import Registry


class Policy(Protocol):
    """Plays one seat in B markets at once, from the observations of an RL agent. Row b is the seat in market b."""

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """Begin new episodes in some rows, and clear the memory of these rows.

        ``rows`` is int64 ``[b]``. ``keys``, int64 ``[b]``, holds the key of a stream of random numbers for each new
        episode (:mod:`paramarket_env.seeding`). The method is called for all rows before the first ``act``, and later
        for the rows whose markets begin a new episode. By default it does nothing; a policy without memory inherits it.
        """
        return

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Choose the actions, int64 ``[B]`` (``verb``) or ``[B, 2 + S]`` (``round``).

        ``observation`` is float32 ``[B, D]``, ``mask`` is bool ``[B, A]``. S is the number of asks of a seller.
        """
        ...


@dataclass(frozen=True)
class Seat:
    """The rules of the market, which a policy receives with its seat. They contain nothing about the other agents."""

    num_markets: int
    """B, the number of markets in which the policy plays the seat. Each market is a row of its observations."""
    num_agents: int
    """N, the number of agents in a market."""
    num_partners: int
    """k, the number of other agents that an agent meets in a step: N - 1, or fewer, drawn anew for each step."""

    layout: ObservationLayout
    actions: Actions
    max_cycles: int
    prices: Tensor
    """float64 ``[L]``: the prices that can be asked or bid, in units of reward."""
    mechanism: Mechanism
    """The rule by which orders become trades."""
    disclosure: Disclosure
    """The information that sellers are given."""
    kappa_range: tuple[float, float]
    """The lowest and the highest kappa that any agent can have."""
    train_cost: float
    """The cost of a training pass, in units of reward."""
    rivalry: float
    """The reward lost for each nat of the other agents' average gain."""

    @property
    def meets_everybody(self) -> bool:
        """Whether the partners are all other agents, so that each slot is always of the same agent."""
        return self.num_partners == self.num_agents - 1

    @property
    def device(self) -> torch.device:
        """The device of observations, masks and actions."""
        return self.prices.device


@runtime_checkable
class PolicyFactory(Protocol):
    """Makes the policy for a seat: a rule with its configuration, or a function."""

    def __call__(self, seat: Seat) -> Policy:
        """The policy for the seat. Raises ``ValueError`` if it cannot play in this market."""
        ...


POLICIES: Registry[PolicyFactory] = Registry(
    "policy", PolicyFactory, joined="pricing", provider="paramarket_baselines.policies.registered"
)
"""The policies by name. A pricing rule follows a ``+``: ``paper+fixed(level=3)``."""


def seat_of(batch: MarketBatch, num_markets: int) -> Seat:
    """A seat in ``num_markets`` markets of a batch. The rules are the same for all agents."""
    economy = batch.config.economy
    lows, highs = zip(*batch.config.kappa_ranges, strict=True)
    return Seat(
        num_markets=num_markets,
        num_agents=batch.config.agents,
        num_partners=batch.config.num_partners,
        layout=batch.layout,
        actions=batch.actions,
        max_cycles=batch.config.max_cycles,
        prices=economy.prices.to(batch.device),
        mechanism=economy.mechanism,
        disclosure=economy.disclosure,
        kappa_range=(min(lows), max(highs)),
        train_cost=sum(term.cost for term in economy.reward_terms if isinstance(term, TrainCost)),
        rivalry=sum(term.weight for term in economy.reward_terms if isinstance(term, Rivalry)),
    )
