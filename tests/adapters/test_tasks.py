"""The libraries' agents play the scenario in which agents have different tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test
from stable_baselines3 import PPO

from paramarket_env import paramarket_v0

SMALL: dict[str, Any] = {
    "max_cycles": 4,
    "train_samples": (32, 48),
    "validation_samples": 40,
    "test_samples": 40,
    "architecture": "mlp(hidden=(8,))",
    "merger": "linear(weights=(0.2, 0.5))",
}
MODES = pytest.mark.parametrize("mode", ["verb", "round"])


@MODES
def test_the_check_of_pettingzoo_passes(mode: str) -> None:
    parallel_api_test(paramarket_v0.parallel_env("two-tasks", **SMALL, action_mode=mode, device="cpu"), num_cycles=8)


@MODES
def test_ppo_of_stable_baselines_learns(mode: str) -> None:
    env = paramarket_v0.sb3_vec_env("two-tasks", num_markets=2, **SMALL, action_mode=mode, device="cpu")
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(32)
    chance = env.layout.unpack(model.rollout_buffer.observations.reshape(4, 8, -1))["chance"]
    expected = np.log([10, 2, 10, 2])[:, None, None].repeat(8, axis=1)
    np.testing.assert_allclose(chance, expected, rtol=1e-6)


@MODES
def test_the_check_of_torchrl_passes(mode: str) -> None:
    envs = pytest.importorskip("torchrl.envs")
    env = paramarket_v0.torchrl_env("two-tasks", num_markets=2, **SMALL, action_mode=mode, device="cpu")
    envs.utils.check_env_specs(env)
