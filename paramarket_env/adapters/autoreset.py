"""M markets with automatic resets, the basis of the vector adapters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.market.orders import StepRecord
from paramarket_env.seeding import next_seeds


@dataclass(frozen=True)
class Advance:
    """The outcome of one step of all markets."""

    record: StepRecord
    """The record of the step; ``terminated`` is true only in the step in which an agent's network fails."""
    alive: Tensor
    """bool ``[M, N]``: the agent's network has not failed in this step or before."""
    ended: Tensor
    """bool ``[M]``: the episode has ended: it is truncated, or all learners are terminated."""


@dataclass(frozen=True)
class Ending:
    """The markets whose episodes ended, in order, before their next episodes began."""

    markets: Tensor
    """int64 ``[m]``."""
    observation: Tensor
    """float32 ``[m, N, D]``: the last observations of the episodes that ended."""
    mask: Tensor
    """bool ``[m, N, A]``."""
    infos: dict[str, np.ndarray]
    """``[m, N]`` each, see ``MarketBatch.infos``."""


class AutoresetBatch:
    """A ``MarketBatch`` that resets each market in the step in which its episode ends.

    A market has the same episodes as a single ``ParaMarketEnv`` that is reset after each end. ``learners``, bool
    ``[M, N]``, marks the agents that the adapter trains (None: all). An episode ends when none of them is alive. An
    agent that is terminated while its market continues idles until the market ends: its orders are ignored, its reward
    is 0, and its mask only allows it to hold.
    """

    observation: Tensor
    """The current observations of all agents, float32 ``[M, N, D]``. After an end they are the next episode's first."""
    mask: Tensor
    """The current action masks, bool ``[M, N, A]``."""

    def __init__(
        self,
        config: MarketConfig,
        num_markets: int,
        learners: Tensor | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.market_batch = MarketBatch(config, num_markets, device)
        everybody = torch.ones(num_markets, config.agents, dtype=torch.bool, device="cpu")
        self._learners = (everybody if learners is None else learners).to(self.market_batch.device)

    def reset(self, seed: int | Iterable[int] | None = None) -> None:
        """Begin new episodes in all markets; for ``seed`` see ``MarketBatch.next_seeds``."""
        self.observation, self.mask = self.market_batch.reset(self.market_batch.next_seeds(seed))

    def reset_done(self, markets: Tensor) -> None:
        """Begin the next episodes of these markets (int64 ``[m]``). Each seed follows from the market's last seed."""
        seeds = next_seeds(self.market_batch.seeds[markets])
        self.observation, self.mask = self.market_batch.reset(seeds, markets)

    def advance(self, actions: Tensor) -> Advance:
        """Advance all markets by one step (see ``MarketBatch.step``), without a reset."""
        if not self.market_batch.begun:
            raise RuntimeError("step() was called before the first reset(): call reset()")
        transition = self.market_batch.step(actions)
        self.observation, self.mask = transition.observation, transition.mask
        alive = self.market_batch.alive.clone()
        ended = transition.record.truncated | ~(alive & self._learners).any(dim=1)
        return Advance(transition.record, alive, ended)

    def step(self, actions: Tensor) -> tuple[Advance, Ending | None]:
        """Advance all markets by one step, and reset those that end. The ending is None if no market ended."""
        advance = self.advance(actions)
        markets = advance.ended.nonzero().squeeze(1)
        if len(markets) == 0:
            return advance, None
        columns, rows = self.market_batch.infos(advance.record), markets.cpu().numpy()
        infos = {name: column[rows] for name, column in columns.items()}
        ending = Ending(markets, self.observation[markets], self.mask[markets], infos)
        self.reset_done(markets)
        return advance, ending


def to_numpy(values: Tensor, copy: bool) -> np.ndarray:
    """The values as an array for the client: a copy, or one that shares the market's memory where it is on the CPU.

    The market never writes to these values again. It reads them, so a client must not write to a shared array.
    """
    array: np.ndarray = values.to("cpu", copy=copy).numpy()
    return array
