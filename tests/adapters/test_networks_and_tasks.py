"""The libraries' agents play where agents have different tasks, deep networks, or a few partners in each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test
from stable_baselines3 import PPO

from paramarket_env import paramarket_v0

LITTLE: dict[str, Any] = {
    "max_cycles": 4,
    "validation_samples": 40,
    "test_samples": 40,
    "merger": "linear(weights=(0.2, 0.5))",
}
SMALL: dict[str, dict[str, Any]] = {
    "two-tasks": {**LITTLE, "train_samples": (32, 48), "architecture": "mlp(hidden=(8,))"},
    "small-resnet": {**LITTLE, "train_samples": 80, "aligner": "frank-wolfe(iterations=2)"},
    "crowd-64": {**LITTLE, "agents": 6, "partners": 2},
}
CHANCE = {"two-tasks": np.log([10, 2, 10, 2]), "small-resnet": None, "crowd-64": None}
"""The field ``chance`` of the agents of two markets; there is none if they have the same task."""
MODES = pytest.mark.parametrize("mode", ["verb", "round"])
NAMES = pytest.mark.parametrize("name", SMALL)


@MODES
@NAMES
def test_the_check_of_pettingzoo_passes(name: str, mode: str) -> None:
    parallel_api_test(paramarket_v0.parallel_env(name, **SMALL[name], action_mode=mode, device="cpu"), num_cycles=8)


@MODES
@NAMES
def test_ppo_of_stable_baselines_learns(name: str, mode: str) -> None:
    env = paramarket_v0.sb3_vec_env(name, num_markets=2, **SMALL[name], action_mode=mode, device="cpu")
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(8 * env.num_envs)
    observed = env.layout.unpack(model.rollout_buffer.observations.reshape(env.num_envs, 8, -1))
    assert ("chance" in observed) == (CHANCE[name] is not None)
    if CHANCE[name] is not None:
        np.testing.assert_allclose(observed["chance"], CHANCE[name][:, None, None].repeat(8, axis=1), rtol=1e-6)


@MODES
@NAMES
def test_the_check_of_torchrl_passes(name: str, mode: str) -> None:
    envs = pytest.importorskip("torchrl.envs")
    env = paramarket_v0.torchrl_env(name, num_markets=2, **SMALL[name], action_mode=mode, device="cpu")
    envs.utils.check_env_specs(env)
