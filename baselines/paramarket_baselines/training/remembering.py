"""A ``VecEnv`` whose observations contain the history of the episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import Tensor

from paramarket_baselines.policies.history import History
from paramarket_env.adapters.sb3 import ParaMarketVecEnv


class RememberingVecEnv(VecEnvWrapper):
    """Appends the features of :class:`History` to the observations of a ``ParaMarketVecEnv``."""

    def __init__(self, venv: ParaMarketVecEnv) -> None:
        self.history = History(venv.market_batch.layout)
        space: Any = venv.observation_space
        bound = np.full(self.history.size, np.inf, dtype=np.float32)
        low, high = np.concatenate([space.low, -bound]), np.concatenate([space.high, bound])
        super().__init__(venv, spaces.Box(low, high, dtype=np.float32))

    def reset(self) -> np.ndarray:
        """Begin new episodes in all markets. Returns observations, float32 ``[rows, D + F]`` with F features."""
        observation = torch.from_numpy(np.asarray(self.venv.reset()))
        self._memory = self.history.start(len(observation), observation.device)
        return self._remember(observation)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Advance all markets by one step; see ``ParaMarketVecEnv.step_wait``."""
        seen, rewards, dones, infos = self.venv.step_wait()
        observation, ended = torch.from_numpy(np.asarray(seen)), np.flatnonzero(dones)
        if len(ended):
            last = observation.clone()
            last[ended] = torch.from_numpy(np.stack([infos[row]["terminal_observation"] for row in ended]))
            finished = self.history.observe(self._memory, last)
            for row, features in zip(ended, History.append(finished, last)[ended].numpy(), strict=True):
                infos[row]["terminal_observation"] = features
            self._forget(torch.from_numpy(dones))
        return self._remember(observation), rewards, dones, infos

    def _remember(self, observation: Tensor) -> np.ndarray:
        self._memory = self.history.observe(self._memory, observation)
        features: np.ndarray = History.append(self._memory, observation).numpy()
        return features

    def _forget(self, rows: Tensor) -> None:
        fresh = self.history.start(len(rows), rows.device)
        self._memory = {name: torch.where(rows[:, None], fresh[name], kept) for name, kept in self._memory.items()}
