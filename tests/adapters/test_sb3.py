"""Markets as a Stable-Baselines3 ``VecEnv``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from paramarket_env import paramarket_v0
from paramarket_env.adapters.gymnasium import ParaMarketGymEnv
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.interface.policy import POLICIES
from paramarket_env.learning.merging import Linear
from tests.helpers import digest, frozen, play_alone, priced_market, scripted, spoil

MODES = ("verb", "round")
SEEDS = (4, 7)
SPOILED = (2, 1)


def new_env(mode: str = "verb", num_markets: int = 2, **changes: Any) -> ParaMarketVecEnv:
    return ParaMarketVecEnv(priced_market(action_mode=mode, **changes), num_markets, "cpu")


def all_train(env: ParaMarketVecEnv) -> np.ndarray:
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return np.ones(env.num_envs, dtype=np.int64)
    return np.tile(np.array([1, 0, 0]), (env.num_envs, 1))


# --- episodes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_those_of_each_market_alone(mode: str) -> None:
    env = new_env(mode)
    config = env.market_batch.config
    actions = scripted(config, 15, 2, SPOILED)
    alone = [play_alone(config, seed, actions[:, m], (None, SPOILED[0])[m]) for m, seed in enumerate(SEEDS)]
    env.seed(SEEDS)
    torch.testing.assert_close(env.reset(), np.concatenate([played.first for played in alone]))
    for step, chosen in enumerate(actions):
        if step == SPOILED[0]:
            spoil(env.market_batch.engine, SPOILED[1])
        seen, rewards, dones, infos = env.step(chosen.reshape(6, *chosen.shape[2:]))
        rows = {
            name: np.concatenate([getattr(played, name)[step] for played in alone])
            for name in ("seen", "last", "reward", "terminated")
        }
        ended = np.repeat([played.ended[step] for played in alone], 3)
        torch.testing.assert_close(seen, rows["seen"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rewards, rows["reward"].astype(np.float32), rtol=1e-4, atol=1e-5)
        assert dones.tolist() == ended.tolist()
        for row, info in enumerate(infos):
            assert bool(info) == dones[row]
            if info:
                torch.testing.assert_close(info["terminal_observation"], rows["last"][row], rtol=1e-4, atol=1e-5)
                assert info["TimeLimit.truncated"] is False


def test_types_are_those_that_stable_baselines_expects() -> None:
    env = new_env()
    first = env.reset()
    seen, rewards, dones, infos = env.step(all_train(env))
    assert first.dtype == seen.dtype == rewards.dtype == np.float32
    assert dones.dtype == np.bool_
    assert first.shape == seen.shape == (6, *env.observation_space.shape)
    assert rewards.shape == dones.shape == (6,)
    assert infos == [{}] * 6
    assert all(env.observation_space.contains(row) for row in seen)


def test_seeds_are_hashed_for_the_markets_or_given_for_each() -> None:
    env = new_env()
    assert len(set(env.seed(3))) == 2
    assert env.seed(3) == [env.seed(3)[0]] * 3 + [env.seed(3)[3]] * 3
    assert env.seed([8, 9]) == [8, 8, 8, 9, 9, 9]
    env.reset()
    assert env.market_batch.seeds.tolist() == [8, 9]
    assert env.seed(None) == env.seed() != env.seed(4)  # they follow from the last episodes
    with pytest.raises(ValueError, match=r"seeds=\[1, 2, 3\].*each of the 2 markets"):
        env.seed([1, 2, 3])


def test_a_seed_is_for_one_reset() -> None:
    env, again = new_env(), new_env()
    runs = []
    for vec in (env, again):
        vec.seed(3)
        runs.append([vec.reset().copy(), vec.reset().copy()])
    assert digest(runs[0]) == digest(runs[1])
    assert not np.array_equal(*runs[0])


def test_the_last_info_is_that_of_the_parallel_environment() -> None:
    env = new_env(max_cycles=1)
    env.reset()
    *_, infos = env.step(all_train(env))
    keys = set(paramarket_v0.parallel_env(priced_market(), device="cpu").reset()[1]["trader_0"]) - {"action_mask"}
    assert all(set(info) == keys | {"terminal_observation", "TimeLimit.truncated"} for info in infos)
    assert all(info["trained"] is True and isinstance(info["balance"], int) for info in infos)


@pytest.mark.parametrize("mode", MODES)
def test_a_row_whose_network_failed_is_done_idles_and_is_done_with_its_market(mode: str) -> None:
    env = new_env(mode)
    env.reset()
    spoil(env.market_batch.engine, 1, 0)  # row 3
    returned = [env.step(all_train(env)) for _ in range(6)]
    dones = np.stack([done for _, _, done, _ in returned])
    assert dones[0].tolist() == [False, False, False, True, False, False]
    assert not dones[1:5].any()
    assert dones[5].all()
    failed = returned[0][3][3]
    assert failed["TimeLimit.truncated"] is False
    assert failed["trained"] is True
    assert env.observation_space.contains(failed["terminal_observation"])
    assert env.market_batch.layout.unpack(failed["terminal_observation"])["time_left"] == pytest.approx(5 / 6)
    assert [reward[3] for _, reward, _, _ in returned[1:]] == [0] * 5
    assert not any(info["TimeLimit.truncated"] for info in returned[5][3])


def test_a_failed_row_may_only_hold() -> None:
    env = new_env()
    env.reset()
    spoil(env.market_batch.engine, 1, 0)
    env.step(all_train(env))
    masks = env.action_masks()
    assert masks[3].tolist() == [True] + [False] * (masks.shape[1] - 1)
    assert (masks.sum(axis=1) > 1).tolist() == [True, True, True, False, True, True]


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opponents", [(), "train"])
def test_the_market_reads_no_array_that_it_handed_out(opponents: Any) -> None:
    """A client may write to its arrays, as Stable-Baselines3's wrappers do."""
    envs = [ParaMarketVecEnv(priced_market(), 2, "cpu", opponents) for _ in range(2)]
    for env in envs:
        env.seed(3)
        env.reset()[:] = np.nan if env is envs[0] else 0
        env.action_masks()[:] = False
    for _ in range(7):
        one, other = (env.step(np.full(env.num_envs, 2)) for env in envs)
        assert digest([one[0], one[1], one[2]]) == digest([other[0], other[1], other[2]])
        assert np.array_equal(envs[0].action_masks(), envs[1].action_masks())
        one[0][:] = np.nan
        envs[0].action_masks()[:] = False


# --- what Stable-Baselines3 asks of it ------------------------------------------------------------------------------


def test_rows_share_their_attributes() -> None:
    env = new_env()
    assert env.get_attr("render_mode") == [None] * 6
    assert env.get_attr("num_envs", 2) == [6]
    assert env.has_attr("action_masks")
    assert not env.has_attr("nothing")
    env.set_attr("note", "kept")
    assert env.get_attr("note", [0, 5]) == ["kept", "kept"]
    assert env.env_is_wrapped(gymnasium.Wrapper) == [False] * 6
    env.close()


def test_each_row_has_its_mask() -> None:
    env = new_env()
    env.reset()
    masks = env.env_method("action_masks")
    assert np.array_equal(np.stack(masks), env._autoreset.mask.flatten(0, 1).numpy())
    assert np.array_equal(env.env_method("action_masks", indices=[4])[0], masks[4])


@pytest.mark.parametrize("actions", [np.zeros(5, int), np.zeros((6, 1), int), np.zeros(6), np.full(6, 99), "train"])
def test_actions_outside_the_space_are_refused_before_anything_changes(actions: Any) -> None:
    env = new_env()
    env.reset()
    before = frozen(env.market_batch.engine.state)
    with pytest.raises(ValueError, match=r"(?s)action=.* is not allowed: it must be in Discrete.*\(6,\)"):
        env.step(actions)
    assert frozen(env.market_batch.engine.state) == before


def test_what_does_not_exist_is_refused() -> None:
    env = new_env()
    with pytest.raises(AttributeError, match="action_masks"):
        env.env_method("render")
    with pytest.raises(ValueError, match=r"indices=\[0\]"):
        env.set_attr("note", 1, [0])
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(all_train(env))
    with pytest.raises(ValueError, match="num_markets=0"):
        new_env(num_markets=0)
    env.set_options({"colour": "red"})
    with pytest.raises(ValueError, match=r"options=.*empty"):
        env.reset()


# --- opponents ------------------------------------------------------------------------------------------------------

POPULATIONS = ("random", "paper")  # one draws random numbers, one has a memory


@pytest.mark.parametrize("mode", MODES)
def test_against_populations_every_market_is_a_single_seat_against_its_opponents(mode: str) -> None:
    factories = [POLICIES.parse(name) for name in POPULATIONS]
    env = ParaMarketVecEnv(priced_market(action_mode=mode), 7, "cpu", factories)
    alone = [
        ParaMarketGymEnv(priced_market(action_mode=mode), factories[m // 3 % 2], seat=m % 3, device="cpu")
        for m in range(7)
    ]
    env.seed(range(4, 11))
    first = np.stack([single.reset(seed=4 + m)[0] for m, single in enumerate(alone)])
    torch.testing.assert_close(env.reset(), first)
    rng = np.random.default_rng(0)
    for _ in range(8):  # episodes end after six
        actions = np.stack([draw(env, rng) for _ in range(7)])
        expected = [single.step(action) for single, action in zip(alone, actions, strict=True)]
        seen, rewards, dones, infos = env.step(actions)
        torch.testing.assert_close(rewards, np.array([step[1] for step in expected], np.float32), rtol=1e-4, atol=1e-5)
        for row, (last, _, _, truncated, info) in enumerate(expected):
            assert dones[row] == truncated
            if truncated:
                torch.testing.assert_close(infos[row]["terminal_observation"], last, rtol=1e-4, atol=1e-5)
                assert infos[row]["balance"] == info["balance"]
            begun = alone[row].reset()[0] if truncated else last
            torch.testing.assert_close(seen[row], begun, rtol=1e-4, atol=1e-5)
            assert env.env_method("action_masks", indices=row)[0].tolist() == alone[row].action_masks().tolist()


def draw(env: ParaMarketVecEnv, rng: np.random.Generator) -> Any:
    choices = env.action_space.n if isinstance(env.action_space, gymnasium.spaces.Discrete) else env.action_space.nvec
    return rng.integers(choices)


def test_a_market_ends_when_its_learner_fails_and_not_when_an_opponent_does() -> None:
    env = ParaMarketVecEnv(priced_market(), 3, "cpu", [POLICIES.parse("train")])
    env.seed(4)
    env.reset()
    spoil(env.market_batch.engine, 1, 1)  # market 1's learner is agent 1
    spoil(env.market_batch.engine, 2, 0)
    _, _, dones, infos = env.step(all_train(env))
    assert dones.tolist() == [False, True, False]
    assert not infos[1]["TimeLimit.truncated"]
    assert env.market_batch.engine.state.cycle.tolist() == [1, 0, 1]


def test_the_last_reward_of_a_rollout_is_that_of_the_market() -> None:
    env = new_env(max_cycles=2)
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=12, seed=0, device="cpu")
    torch.nn.init.constant_(model.policy.value_net.bias, 100.0)
    model.learn(12)
    # No value of an observation behind the end is added to it.
    assert np.abs(model.rollout_buffer.rewards).max() < 10


# --- learners -------------------------------------------------------------------------------------------------------


def parameters(model: Any) -> str:
    return digest(dict(model.policy.state_dict()))


def test_ppo_learns_alike_from_the_same_seed() -> None:
    learned = []
    for seed in (0, 0, 1):
        env = VecMonitor(new_env(), info_keywords=("loss", "balance"))
        model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=2, seed=seed, device="cpu")
        model.learn(192)
        assert model.ep_info_buffer is not None
        assert {episode["l"] for episode in model.ep_info_buffer} == {6}
        assert all(episode["loss"] > 0 for episode in model.ep_info_buffer)
        learned.append(parameters(model))
    assert learned[0] == learned[1] != learned[2]


class Stored(BaseCallback):
    """Keeps copies of what the environment handed out, to be compared with what the learner stored."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []

    def _on_rollout_start(self) -> None:
        self.seen = [self.model._last_obs.copy()]  # type: ignore[union-attr]

    def _on_step(self) -> bool:
        self.seen.append(self.locals["new_obs"].copy())
        self.actions.append(self.locals["actions"].copy())
        if "action_masks" in self.locals:
            self.masks.append(self.locals["action_masks"].copy())
        return True


def test_ppo_stores_the_observations_that_it_acted_on() -> None:
    stored = Stored()
    model = PPO("MlpPolicy", new_env(), n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(96, callback=stored)
    # The buffer has been flattened for training: rows first.
    rollout = model.rollout_buffer.observations.reshape(6, 16, -1).swapaxes(0, 1)
    assert np.array_equal(rollout, np.stack(stored.seen[:-1]))


@pytest.mark.parametrize("mode", MODES)
def test_maskable_ppo_takes_legal_actions_alone(mode: str) -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    env = new_env(mode, merger=Linear(weights=(0.2,)))
    stored = Stored()
    model = sb3_contrib.MaskablePPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(192, callback=stored)
    choices = env.market_batch.actions.nvec
    masks = np.stack(stored.masks).reshape(-1, sum(choices))
    actions = np.stack(stored.actions).reshape(len(masks), len(choices)) + np.cumsum([0, *choices[:-1]])
    assert np.take_along_axis(masks, actions, axis=1).all()
    assert not masks.all()
    assert int(env.market_batch.engine.state.refusals.sum()) == 0


def test_dqn_learns_in_verb_mode() -> None:
    model = DQN("MlpPolicy", new_env(), learning_starts=12, train_freq=2, buffer_size=600, seed=0, device="cpu")
    before = parameters(model)
    model.learn(60)
    assert parameters(model) != before
    buffer = model.replay_buffer
    assert buffer is not None
    time_left = buffer.observations[:10, 0, 0]
    assert time_left.tolist() == pytest.approx([1 - cycle % 6 / 6 for cycle in range(10)], rel=1e-5)
    assert buffer.next_observations[:10, 0, 0].tolist() == pytest.approx(
        [1 - (cycle % 6 + 1) / 6 for cycle in range(10)], abs=1e-5
    )
    assert buffer.dones[:10, 0].tolist() == [float(cycle % 6 == 5) for cycle in range(10)]
    assert not buffer.timeouts.any()


def test_the_factory_makes_it() -> None:
    env = paramarket_v0.sb3_vec_env("three-firms", num_markets=2, max_cycles=3, action_mode="round", device="cpu")
    config = env.market_batch.config
    assert (env.num_envs, config.max_cycles, config.action_mode) == (6, 3, "round")
    with pytest.raises(ValueError, match="unknown scenario"):
        paramarket_v0.sb3_vec_env("nowhere")
