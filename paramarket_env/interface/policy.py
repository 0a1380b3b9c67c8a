"""What a policy is, and how it is given a seat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paramarket_env.interface.actions import Actions
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import ObservationLayout


class Policy(Protocol):
    """Plays one seat in B markets at once, on what an RL agent sees."""

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """The actions, int64 ``[B]`` (``verb``) or ``[B, 3]`` (``round``), on float32 ``[B, D]`` and bool ``[B, A]``.

        An observation with ``time_left`` = 1 begins an episode: a policy with a memory clears that row of it.
        """


@dataclass(frozen=True)
class Seat:
    """What a policy is told when it sits down: the rules of the game, nothing of the other agents."""

    layout: ObservationLayout
    actions: Actions
    max_cycles: int
    prices: Tensor
    """float64 ``[L]``: the prices that can be asked, in units of reward."""
    keys: Tensor
    """int64 ``[B]``: one stream of random numbers for each market; written anew, in place, when an episode begins."""


PolicyFactory = Callable[[Seat], Policy]


def seat_of(batch: MarketBatch, keys: Tensor) -> Seat:
    """The seat of one agent in every market of a batch; ``keys`` int64 ``[M]`` from ``seeding.stream``."""
    economy = batch.config.economy
    levels = torch.tensor(economy.ask_levels, dtype=torch.float64, device=batch.engine.device)
    return Seat(batch.layout, batch.actions, batch.config.max_cycles, levels * economy.tick, keys)
