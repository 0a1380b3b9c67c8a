"""Play scripts, which are actions that were chosen in advance, and other policies for their returns alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from paramarket_baselines.policies.pricing import cycle_of
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import VerbActions
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, Seat, seat_of

HOLD, TRAIN, BUY = 0, 1, 2
"""The first actions of ``verb`` mode; ``BUY`` is the first purchase."""


@dataclass
class Script(Policy):
    """Takes in market b and cycle t the action ``actions[b, t]``, legal or not.

    ``actions`` is int64 ``[B, T]``, or ``[1, T]`` for the same actions in all markets.
    """

    actions: Tensor
    seat: Seat | None = None

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return replace(self, seat=seat)

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See ``Policy.act``."""
        assert self.seat is not None
        cycle = cycle_of(self.seat.layout.unpack(observation), self.seat)
        return self.actions.expand(len(cycle), -1).gather(1, cycle.unsqueeze(1)).squeeze(1)


def script(actions: Sequence[Sequence[int]] | np.ndarray) -> Script:
    """The policy that takes these actions, ``[B, T]`` or ``[1, T]``."""
    return Script(torch.as_tensor(np.asarray(actions), device="cpu"))


def asks(config: MarketConfig, *levels: int) -> list[int]:
    """The actions that post these levels in ``verb`` mode."""
    actions = MarketBatch(config, 1, "cpu").actions
    assert isinstance(actions, VerbActions)
    return [actions.first_ask + level for level in levels]


def played(
    config: MarketConfig,
    players: Sequence[str | PolicyFactory],
    num_markets: int,
    kappas: Sequence[np.ndarray | float] | None = None,
) -> np.ndarray:
    """The returns, float64 ``[M, N]``, of one episode in each market, whose seeds are 0, 1, ...

    ``kappas`` are those of each agent, ``[M]`` or one number. None: they are drawn.
    """
    batch, rows = MarketBatch(config, num_markets, "cpu"), torch.arange(num_markets, device="cpu")
    batch.reset(rows)
    for agent, kappa in enumerate(kappas or ()):
        batch.engine.state.kappa[:, agent] = torch.as_tensor(kappa, dtype=torch.float64, device="cpu")
    seats = [POLICIES.check(player)(seat_of(batch, num_markets)) for player in players]
    for seat in seats:
        seat.reset(rows, rows)
    observation, mask = batch.observe_and_mask()
    total = torch.zeros(num_markets, config.agents, dtype=torch.float64, device="cpu")
    for _ in range(config.max_cycles):
        actions = [seat.act(observation[:, agent], mask[:, agent]) for agent, seat in enumerate(seats)]
        step = batch.step(torch.stack(actions, dim=1))
        observation, mask = step.observation, step.mask
        total += step.record.reward
    return total.numpy()
