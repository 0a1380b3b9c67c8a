"""What a policy is, and how it is given a seat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from paramarket_env.config import Disclosure
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.interface.actions import Actions
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import ObservationLayout


class Policy(Protocol):
    """Plays one seat in B markets at once, on what an RL agent sees."""

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """The actions, int64 ``[B]`` (``verb``) or ``[B, 2 + S]`` (``round``).

        ``observation`` float32 ``[B, D]``, ``mask`` bool ``[B, A]``; S is the number of asks of a seller.

        An observation with ``time_left`` = 1 begins an episode: a policy with a memory clears that row of it.
        """


@dataclass(frozen=True)
class Seat:
    """What a policy is told when it sits down: the rules of the game, nothing of the other agents."""

    layout: ObservationLayout
    actions: Actions
    max_cycles: int
    prices: Tensor
    """float64 ``[L]``: the prices that can be asked, or bid, in units of reward."""
    mechanism: str
    """How orders become trades."""
    disclosure: Disclosure
    """What sellers are told."""
    kappa_range: tuple[float, float]
    """The least and the largest that any agent's value per nat can be."""
    train_cost: float
    """Reward lost by a training pass."""
    rivalry: float
    """Reward lost for each nat that the other agents gain on average."""
    keys: Tensor
    """int64 ``[B]``: one stream of random numbers for each market; written anew, in place, when an episode begins."""


PolicyFactory = Callable[[Seat], Policy]


def seat_of(batch: MarketBatch, keys: Tensor) -> Seat:
    """The seat of one agent in every market of a batch; ``keys`` int64 ``[M]`` from ``seeding.stream``."""
    economy = batch.config.economy
    lows, highs = zip(*batch.config.kappa_ranges, strict=True)
    return Seat(
        layout=batch.layout,
        actions=batch.actions,
        max_cycles=batch.config.max_cycles,
        prices=economy.prices.to(batch.device),
        mechanism=MECHANISMS.text(economy.mechanism),
        disclosure=economy.disclosure,
        kappa_range=(min(lows), max(highs)),
        train_cost=sum(term.cost for term in economy.reward_terms if isinstance(term, TrainCost)),
        rivalry=sum(term.weight for term in economy.reward_terms if isinstance(term, Rivalry)),
        keys=keys,
    )
