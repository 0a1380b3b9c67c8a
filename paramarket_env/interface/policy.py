"""The interface of policies, and the seat that a policy takes."""

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


class Policy(Protocol):
    """Plays one seat in B markets at once, on what an RL agent sees. Row b is the seat in market b."""

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """Begin new episodes in some rows: clear what the policy remembers of them.

        ``rows`` int64 ``[b]``; ``keys`` int64 ``[b]``: the stream of random numbers of each of these episodes
        (:mod:`paramarket_env.seeding`). It is called for all rows before the first ``act``, and then for the rows whose
        markets begin anew. A subclass without a memory inherits this method, which does nothing.
        """
        return

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """The actions, int64 ``[B]`` (``verb``) or ``[B, 2 + S]`` (``round``).

        ``observation`` float32 ``[B, D]``, ``mask`` bool ``[B, A]``; S is the number of asks of a seller.
        """
        ...


@dataclass(frozen=True)
class Seat:
    """The rules of the game as a policy is told them when it takes its seat: nothing of the other agents."""

    num_markets: int
    """B: in how many markets the policy has the seat. Each is a row of what it sees."""
    num_agents: int
    """N: the agents of a market."""

    layout: ObservationLayout
    actions: Actions
    max_cycles: int
    prices: Tensor
    """float64 ``[L]``: the prices that can be asked, or bid, in units of reward."""
    mechanism: Mechanism
    """The rule by which orders become trades."""
    disclosure: Disclosure
    """The information that sellers are given."""
    kappa_range: tuple[float, float]
    """The least and the largest that any agent's kappa can be."""
    train_cost: float
    """Reward lost by a training pass."""
    rivalry: float
    """Reward lost for each nat that the other agents gain on average."""

    @property
    def device(self) -> torch.device:
        """The device of observations, masks and actions."""
        return self.prices.device


@runtime_checkable
class PolicyFactory(Protocol):
    """A policy before it takes a seat: a rule with its configuration, or a function."""

    def __call__(self, seat: Seat) -> Policy:
        """The policy that plays the seat; ``ValueError`` if it cannot play in this market."""
        ...


def seat_of(batch: MarketBatch, num_markets: int) -> Seat:
    """A seat in ``num_markets`` of a batch's markets. All agents are told the same rules."""
    economy = batch.config.economy
    lows, highs = zip(*batch.config.kappa_ranges, strict=True)
    return Seat(
        num_markets=num_markets,
        num_agents=batch.config.agents,
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
