"""Learned policies: that they are kept, and play wherever a rule does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor, VecNormalize

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.learned import Learned, Normaliser, algorithm, save_policy
from paramarket_baselines.training.sb3 import Plan, learn
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from tests.baselines.policies.test_decisions import seat, seated
from tests.helpers import priced_market

CONFIG = priced_market(max_cycles=4)


def trained(config: MarketConfig, name: str, folder: Path) -> BaseAlgorithm:
    """A policy, trained next to not at all, and kept."""
    return learn(Plan(config, name, timesteps=1, num_markets=4), folder, "cpu")


# --- keeping and playing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"), [("ppo", "round"), ("dqn", "verb"), ("maskable-ppo", "round"), ("a2c", "verb")]
)
def test_a_policy_that_was_kept_acts_as_the_model_that_was_trained(name: str, mode: str, tmp_path: Path) -> None:
    config = priced_market(max_cycles=4, action_mode=mode)
    model = trained(config, name, tmp_path)
    batch = MarketBatch(config, 5, "cpu")
    seen, mask = batch.reset(torch.arange(5))
    player = seated(f"learned:{tmp_path / 'checkpoint'}", seat_of(batch, 5))
    masks = {"action_masks": mask[:, 1].numpy()} if name == "maskable-ppo" else {}
    env = model.get_vec_normalize_env()
    assert env is not None
    expected, _ = model.predict(env.normalize_obs(seen[:, 1].numpy()), deterministic=True, **masks)
    assert np.array_equal(player.act(seen[:, 1], mask[:, 1]).numpy(), expected)
    if name == "maskable-ppo":
        parts = mask[:, 1].split(batch.actions.nvec, dim=1)
        acted = player.act(seen[:, 1], mask[:, 1]).unbind(1)
        assert all(bool(part.gather(1, action.unsqueeze(1)).all()) for part, action in zip(parts, acted, strict=True))


@pytest.mark.parametrize("normalise", [False, True])
def test_a_model_of_ones_own_is_kept_with_the_scale_of_its_observations(normalise: bool, tmp_path: Path) -> None:
    env: VecEnv = VecMonitor(ParaMarketVecEnv(CONFIG, 4, "cpu"))
    env = VecNormalize(env, norm_obs=normalise)  # where it scales rewards alone, observations are as they are
    model = A2C("MlpPolicy", env, n_steps=4, policy_kwargs={"net_arch": [5]}, device="cpu", seed=0).learn(48)
    folder = tmp_path / "new" / "mine"
    save_policy(folder, model, {"note": "mine"})
    batch = MarketBatch(CONFIG, 5, "cpu")
    seen, mask = batch.reset(torch.arange(5))
    player = seated(f"learned:{folder}", seat_of(batch, 5))
    scaled = env.normalize_obs(seen[:, 1].numpy()) if normalise else seen[:, 1].numpy()
    expected, _ = model.predict(scaled, deterministic=True)
    assert np.array_equal(player.act(seen[:, 1], mask[:, 1]).numpy(), expected)
    kept = json.loads((folder / "policy.json").read_text())
    assert (kept["algorithm"], kept["metadata"]) == ("a2c", {"note": "mine"})


@pytest.mark.parametrize(
    "env", [None, lambda: make_vec_env("CartPole-v1"), lambda: VecFrameStack(ParaMarketVecEnv(CONFIG, 1, "cpu"), 2)]
)
def test_a_model_of_another_environment_is_not_kept(env: Callable[[], VecEnv] | None, tmp_path: Path) -> None:
    model = A2C("MlpPolicy", env() if env else None, device="cpu", _init_setup_model=env is not None)
    with pytest.raises(ValueError, match="it must have learned on a ParaMarketVecEnv"):
        save_policy(tmp_path / "none", model)
    assert not (tmp_path / "none").exists()


def test_an_algorithm_that_could_not_be_loaded_is_not_kept(tmp_path: Path) -> None:
    class MyPPO(PPO):
        pass

    model = MyPPO("MlpPolicy", ParaMarketVecEnv(CONFIG, 1, "cpu"), n_steps=4, batch_size=4, device="cpu")
    with pytest.raises(ValueError, match="unknown algorithm 'myppo': choose from a2c, dqn, maskableppo, ppo"):
        save_policy(tmp_path, model)


def test_a_learned_policy_plays_against_rules(tmp_path: Path) -> None:
    trained(CONFIG, "ppo", tmp_path)
    steps = play(CONFIG, Arm("mixed", (f"learned:{tmp_path}", "paper", "patient:1")), (0, 1), "cpu").steps
    assert len(steps) == 5 * 2 * 3


def test_observations_are_scaled_as_they_were_in_training() -> None:
    scale = Normaliser(np.array([1.0, 2.0]), np.array([4.0, 0.25]), 3.0)
    assert scale(np.array([[3.0, 2.0], [1.0, 9.0]])).tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert scale(np.zeros((1, 2), dtype=np.float32)).dtype == np.float32


def test_a_policy_made_for_other_observations_or_actions_is_refused(tmp_path: Path) -> None:
    trained(CONFIG, "ppo", tmp_path)
    with pytest.raises(ValueError, match=r"was made for another market: its observation has .*'trade_price'"):
        Learned(str(tmp_path))(seat(priced_market(max_cycles=4, disclosure="none")))
    with pytest.raises(ValueError, match=r"was made for another market: its nvec"):
        Learned(str(tmp_path))(seat(priced_market(max_cycles=4, action_mode="round")))


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not there"):
        seated(f"learned:{tmp_path}", seat(CONFIG))


def test_an_extra_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ImportError, match="algo='maskable-ppo' needs sb3-contrib: pip install sb3-contrib"):
        algorithm("maskable-ppo")
