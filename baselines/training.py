"""Learn a policy with Stable-Baselines3: all agents of many markets share it and play against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from baselines.learned import MASKABLE, Normaliser, algorithm
from baselines.rules import policy_factory
from paramarket_env.config import MarketConfig, require
from paramarket_env.interface.sb3 import ParaMarketVecEnv

GAMMA = 0.99


def _on_policy(cycles: int, rows: int) -> dict[str, Any]:
    """A rollout is whole episodes of every market, of 512 agent-steps or more; four minibatches of it."""
    steps = cycles * math.ceil(512 / (cycles * rows))
    return {"n_steps": steps, "batch_size": steps * rows // 4, "n_epochs": 8, "learning_rate": 1e-3}


SETTINGS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "ppo": lambda cycles, rows: _on_policy(cycles, rows) | {"ent_coef": 0.01},
    MASKABLE: lambda cycles, rows: _on_policy(cycles, rows) | {"ent_coef": 0.01},
    "a2c": lambda cycles, rows: {"n_steps": cycles, "ent_coef": 0.01},
    "dqn": lambda cycles, rows: {
        "learning_starts": 500,
        "buffer_size": 50_000,
        "batch_size": 128,
        "train_freq": 1,
        "gradient_steps": 8,
        "target_update_interval": 500,
        "exploration_fraction": 0.5,
        "learning_rate": 1e-3,
    },
}
"""What differs from the algorithms' own defaults, given the cycles of an episode and the rows of the environment."""

OnRollout = Callable[[int, float], None]
"""Called with the agent-steps taken, and the mean return of the last episodes (NaN before the first end)."""


@dataclass(frozen=True)
class Lesson:
    """What training has made."""

    model: BaseAlgorithm
    scale: Normaliser


class _Progress(BaseCallback):
    def __init__(self, on_rollout: OnRollout) -> None:
        super().__init__()
        self._tell = on_rollout

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._tell(self.num_timesteps, float(np.mean(returns)) if returns else float("nan"))


def learn(
    config: MarketConfig,
    name: str,
    timesteps: int,
    markets: int,
    seed: int,
    device: str | torch.device = "auto",
    on_rollout: OnRollout = lambda steps, returned: None,
    against: Sequence[str] = (),
) -> Lesson:
    """Train the algorithm ``name`` for so many agent-steps on so many markets side by side.

    Raises ``ValueError`` for an algorithm that the action mode does not suit, ``ImportError`` for an extra that is not
    installed.
    """
    kind: Any = algorithm(name)
    require(name != "dqn" or config.action_mode == "verb", "algo", name, "another than dqn in round mode, or verb mode")
    require(timesteps >= 1, "timesteps", timesteps, "an integer >= 1")
    markets_env = ParaMarketVecEnv(config, markets, device, [policy_factory(name) for name in against])
    env = VecNormalize(VecMonitor(markets_env), gamma=GAMMA)
    settings = SETTINGS[name](config.max_cycles, markets_env.num_envs)
    window = markets_env.num_envs
    model = kind("MlpPolicy", env, seed=seed, gamma=GAMMA, device="cpu", stats_window_size=window, **settings)
    model.learn(timesteps, callback=_Progress(on_rollout))
    return Lesson(model, Normaliser.of(env))
