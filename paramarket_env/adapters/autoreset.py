"""M markets that begin their next episode by themselves: what the vector adapters share."""

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
    """Rewards and all that happened; ``terminated`` is true in the one step in which an agent's network fails."""
    alive: Tensor
    """bool ``[M, N]``: the agent's network has not failed, in this step or before."""
    ended: Tensor
    """bool ``[M]``: the episode is over: truncated, or all learners are gone."""


@dataclass(frozen=True)
class Ending:
    """The markets whose episodes ended, as they stood before their next ones began; row by row in order."""

    markets: Tensor
    """int64 ``[m]``."""
    observation: Tensor
    """float32 ``[m, N, D]``: the last ones of the old episodes."""
    mask: Tensor
    """bool ``[m, N, A]``."""
    infos: dict[str, np.ndarray]
    """``[m, N]`` each, see ``MarketBatch.infos``."""


class AutoresetBatch:
    """A ``MarketBatch`` whose markets begin anew, each by itself, in the step in which their episodes end.

    A market's episodes are those that it would play alone, through ``ParaMarketEnv.reset()`` after each end.
    ``learners``, bool ``[M, N]``, are the agents that the adapter trains (None: all): without any of them alive an
    episode is over. An agent that is terminated while its market goes on idles until the market's end: its orders are
    ignored, its reward is 0, and its mask leaves it nothing but to hold.
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
        everybody = torch.ones(num_markets, config.agents, dtype=torch.bool)
        self._learners = (everybody if learners is None else learners).to(self.market_batch.device)

    def reset(self, seed: int | Iterable[int] | None = None) -> None:
        """Begin new episodes in all markets; for ``seed`` see ``MarketBatch.next_seeds``."""
        self.observation, self.mask = self.market_batch.reset(self.market_batch.next_seeds(seed))

    def reset_done(self, markets: Tensor) -> None:
        """Begin the next episodes of these markets (int64 ``[m]``); their seeds follow from those of the last."""
        seeds = next_seeds(self.market_batch.seeds[markets])
        self.observation, self.mask = self.market_batch.reset(seeds, markets)

    def advance(self, actions: Tensor) -> Advance:
        """One step of all markets (see ``MarketBatch.step``), without new episodes."""
        if not self.market_batch.begun:
            raise RuntimeError("step() before the first reset(): call reset()")
        transition = self.market_batch.step(actions)
        self.observation, self.mask = transition.observation, transition.mask
        alive = self.market_batch.alive.clone()
        ended = transition.record.truncated | ~(alive & self._learners).any(dim=1)
        return Advance(transition.record, alive, ended)

    def step(self, actions: Tensor) -> tuple[Advance, Ending | None]:
        """One step of all markets; those that end begin anew. The ending is None where no market ended."""
        advance = self.advance(actions)
        markets = advance.ended.nonzero().squeeze(1)
        if len(markets) == 0:
            return advance, None
        columns = self.market_batch.infos(advance.record)
        infos = {name: column[markets].cpu().numpy() for name, column in columns.items()}
        ending = Ending(markets, self.observation[markets], self.mask[markets], infos)
        self.reset_done(markets)
        return advance, ending


class DoubleBuffer:
    """Two NumPy arrays that are written in turn: what was handed out stays good until the step after the next.

    A learner stores what it saw *before* a step after it has taken the step (as Stable-Baselines3's ``PPO`` does), so
    that one array would not do.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._tensors = [torch.zeros(shape, dtype=dtype) for _ in range(2)]

    def write(self, values: Tensor) -> np.ndarray:
        """The values in the array whose turn it is; their shape is the buffers' after reshaping."""
        self._tensors.reverse()
        buffer = self._tensors[0]
        buffer.copy_(values.reshape(buffer.shape))
        array: np.ndarray = buffer.numpy()
        return array
