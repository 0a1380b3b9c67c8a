"""Playing scenarios with a known answer: scripts of actions, and values that are set instead of drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from paramarket_baselines.policies.pricing import cycle_of
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, Seat, seat_of

HOLD, TRAIN, BUY = 0, 1, 2


@dataclass
class Script(Policy):
    """Takes in market b and cycle t the action ``actions[b, t]``, int64 ``[B, T]``, legal or not."""

    actions: Tensor
    seat: Seat | None = None

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return replace(self, seat=seat)

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See ``Policy.act``."""
        assert self.seat is not None
        cycle = cycle_of(self.seat.layout.unpack(observation), self.seat)
        return self.actions.gather(1, cycle.unsqueeze(1)).squeeze(1)


def script(actions: Sequence[Sequence[int]] | np.ndarray) -> Script:
    """The policy that takes these actions, ``[B, T]``."""
    return Script(torch.as_tensor(np.asarray(actions)))


def asks(config: MarketConfig, *levels: int) -> list[int]:
    """The actions that post these levels in ``verb`` mode."""
    return [MarketBatch(config, 1, "cpu").actions.first_ask + level for level in levels]


def played(
    config: MarketConfig,
    players: Sequence[str | PolicyFactory],
    num_markets: int,
    kappas: Sequence[np.ndarray | float] | None = None,
) -> np.ndarray:
    """The returns, float64 ``[M, N]``, of one episode in each market.

    ``kappas`` are those of each agent, ``[M]`` or one number. None: they are drawn.
    """
    batch = MarketBatch(config, num_markets, "cpu")
    batch.reset(torch.arange(num_markets))
    for agent, kappa in enumerate(kappas or ()):
        batch.engine.state.kappa[:, agent] = torch.as_tensor(kappa, dtype=torch.float64)
    seats = [POLICIES.check(player)(seat_of(batch, num_markets)) for player in players]
    for seat in seats:
        seat.reset(torch.arange(num_markets), torch.arange(num_markets))
    observation, mask = batch.observe_and_mask()
    total = torch.zeros(num_markets, config.agents, dtype=torch.float64)
    for _ in range(config.max_cycles):
        actions = [seat.act(observation[:, agent], mask[:, agent]) for agent, seat in enumerate(seats)]
        step = batch.step(torch.stack(actions, dim=1))
        observation, mask = step.observation, step.mask
        total += step.record.reward
    return total.numpy()


def midpoints(number: int) -> np.ndarray:
    """The midpoints of so many equal parts of [0, 1]. Their mean is exact for steps at the ends of the parts."""
    return (np.arange(number) + 0.5) / number


def grid(*axes: Sequence[float] | np.ndarray) -> list[np.ndarray]:
    """Every combination of the axes' values, as one flat array for each axis."""
    return [np.array(column) for column in zip(*product(*axes), strict=True)]
