"""The parallel environment: determinism, rewards, infos, ends, and what it refuses."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.economics.rewards import Rivalry, TrainCost
from tests.helpers import digest, episode_digest, frozen, play, priced_market, random_actions, tiny_market

MODES = ("verb", "round")
ROOT = Path(__file__).parents[2]
IN_A_PROCESS = """
import torch
from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from tests.helpers import episode_digest, priced_market
torch.set_num_threads(1)
env = ParaMarketEnv(priced_market(action_mode="round"), device="cpu")
print(episode_digest(env, seed=6, action_seed=7))
"""


def new_env(mode: Any = "verb", **changes: Any) -> ParaMarketEnv:
    return ParaMarketEnv(priced_market(action_mode=mode, **changes), device="cpu")


def hold(env: ParaMarketEnv) -> dict[str, Any]:
    """The action of every agent that does nothing."""
    return {agent: 0 if env.config.action_mode == "verb" else np.zeros(3, dtype=np.int64) for agent in env.agents}


# --- determinism ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_is_the_same_to_the_bit_for_the_same_seed(mode: str) -> None:
    env, other = new_env(mode), new_env(mode)
    first = episode_digest(env, seed=6)
    assert episode_digest(env, seed=6) == first
    assert episode_digest(other, seed=6) == first
    assert len({first, episode_digest(env, seed=7), episode_digest(env, seed=8)}) == 3
    assert episode_digest(env, seed=6) == first


def test_what_is_hashed_of_an_episode_depends_on_the_actions_and_on_each_part_returned() -> None:
    env = new_env()
    assert episode_digest(env, seed=6) != episode_digest(env, seed=6, action_seed=1)
    assert digest([{"a": np.float32(1)}, (0.5, True)]) != digest([{"a": np.float32(1)}, (0.5, False)])
    assert digest({"a": 0.1 + 0.2}) != digest({"a": 0.3})


def test_an_episode_is_the_same_to_the_bit_in_another_process() -> None:
    other_hashes = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    command = [sys.executable, "-c", IN_A_PROCESS]
    printed = subprocess.run(command, cwd=ROOT, env=other_hashes, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == episode_digest(new_env("round"), seed=6, action_seed=7)


def test_a_reset_without_a_seed_goes_on_to_another_episode_that_follows_from_the_last() -> None:
    chains = []
    for env in (new_env(), new_env()):
        env.reset(seed=6)
        chains.append([episode_digest(env, seed=None) for _ in range(3)])
    assert chains[0] == chains[1]
    assert len({*chains[0], episode_digest(new_env(), seed=6)}) == 4


def test_the_actions_of_an_episode_do_not_change_which_one_follows() -> None:
    env, other = new_env(), new_env()
    list(play(env, seed=6, action_seed=1))
    list(play(other, seed=6, action_seed=2))
    assert episode_digest(env, seed=None) == episode_digest(other, seed=None)


def test_a_first_reset_without_a_seed_is_new_each_time() -> None:
    first, second = (digest(list(new_env().reset())) for _ in range(2))
    assert first != second


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_outside_int64_is_refused_and_the_episode_stays(seed: int) -> None:
    env = new_env()
    env.reset(seed=6)
    before = frozen(env.market_batch.engine.state)
    with pytest.raises(ValueError, match=f"seed={seed}"):
        env.reset(seed=seed)
    assert frozen(env.market_batch.engine.state) == before


# --- rewards and infos ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [0, 1])
def test_rewards_add_up_to_the_fall_of_the_loss_and_the_change_of_the_balance(mode: str, seed: int) -> None:
    env = new_env(mode, kappa=(0.5, 1.0, 3.0), tick=0.01, budget=15)
    (_, before), *steps = play(env, seed, action_seed=seed)
    assert len(steps) == 6
    after = steps[-1][4]
    assert sum(info["refused"] for info in after.values()) > 0
    for agent, kappa in zip(env.possible_agents, (0.5, 1.0, 3.0), strict=True):
        fall = before[agent]["loss"] - after[agent]["loss"]
        income = after[agent]["balance"] - before[agent]["balance"]
        rewards = sum(step[1][agent] for step in steps)
        assert rewards == pytest.approx(kappa * fall + 0.01 * income, rel=0, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_rewards_subtract_the_cost_of_training_and_the_rivals_mean_gain(mode: str) -> None:
    env = new_env(mode, reward_terms=(TrainCost(0.25), Rivalry(0.5)))
    for _, rewards, _, _, infos in list(play(env, seed=2))[1:]:
        for agent, info in infos.items():
            others = [infos[other]["gain"] for other in infos if other != agent]
            money = 0.001 * (info["received"] - info["paid"])
            expected = info["gain"] + money - 0.25 * info["trained"] - 0.5 * sum(others) / 2
            assert rewards[agent] == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_infos_are_finite_numbers_and_arrays_in_new_dictionaries(mode: str) -> None:
    env = new_env(mode)
    given = [returned[-1] for returned in play(env, seed=2)]
    for infos in given:
        for info in infos.values():
            masks = info["action_mask"] if mode == "round" else (info["action_mask"],)
            assert all(mask.dtype == np.int8 for mask in masks)
            assert all(np.isfinite(value) for name, value in info.items() if name != "action_mask")
            assert {f"refused_{cause}" for cause in REFUSALS} <= set(info)
            assert info["refused"] == sum(info[f"refused_{cause}"] for cause in REFUSALS)
    dictionaries = given + [info for infos in given for info in infos.values()]
    assert len({id(dictionary) for dictionary in dictionaries}) == len(dictionaries)


def test_infos_report_what_happened() -> None:
    env = new_env()
    env.reset(seed=2)
    offer = env.offers("trader_1").index(("trader_2", "full"))
    engine = env.market_batch.engine
    weight = float(engine.broker.weights(engine.state)[0, 1, 1, 0])
    infos = env.step({"trader_0": 1, "trader_1": 2 + offer, "trader_2": 0})[4]
    assert [infos[agent]["trained"] for agent in env.agents] == [True, False, False]
    assert [infos[agent]["seller"] for agent in env.agents] == [-1, 2, -1]
    assert [infos[agent]["offer"] for agent in env.agents] == [-1, offer, -1]
    assert [infos[agent]["paid"] for agent in env.agents] == [0, 10, 0]
    assert [infos[agent]["received"] for agent in env.agents] == [0, 0, 10]
    assert [infos[agent]["balance"] for agent in env.agents] == [60, 50, 70]
    assert [infos[agent]["weight"] for agent in env.agents] == [0.0, weight, 0.0]


def test_an_illegal_action_does_nothing_and_is_counted_by_its_cause() -> None:
    env, idle = new_env(budget=9), new_env(budget=9)
    env.reset(seed=2)
    idle.reset(seed=2)
    *_, infos = env.step({**hold(env), "trader_0": 2})
    idle.step(hold(idle))
    assert (infos["trader_0"]["refused"], infos["trader_0"]["refused_unaffordable"]) == (1, 1)
    assert infos["trader_1"]["refused"] == 0
    assert torch.equal(env.market_batch.engine.state.parameters, idle.market_batch.engine.state.parameters)
    assert torch.equal(env.market_batch.engine.state.balance, idle.market_batch.engine.state.balance)


def test_offers_are_listed_as_the_actions_number_them() -> None:
    env = new_env(parameter_sets="layers")
    assert env.offers("trader_1") == [
        ("trader_0", "layer1"),
        ("trader_0", "layer2"),
        ("trader_2", "layer1"),
        ("trader_2", "layer2"),
    ]


# --- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_is_truncated_for_all_after_max_cycles_and_not_before(mode: str) -> None:
    env = new_env(mode, max_cycles=3)
    env.reset(seed=2)
    for last in (False, False, True):
        _, _, terminated, truncated, _ = env.step(hold(env))
        assert terminated == dict.fromkeys(env.possible_agents, False)
        assert truncated == dict.fromkeys(env.possible_agents, last)
    assert env.agents == []
    assert env.step({}) == ({}, {}, {}, {}, {})
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({"trader_0": 0})


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="before the first reset"):
        new_env().step({})


@pytest.mark.parametrize("mode", MODES)
def test_a_diverged_agent_leaves_and_the_others_go_on_to_the_end(mode: str) -> None:
    env = new_env(mode)
    env.reset(seed=2)
    env.market_batch.engine.state.parameters[0, 1] = torch.nan
    train = 1 if mode == "verb" else np.array([1, 0, 0])
    observations, rewards, terminated, truncated, infos = env.step({**hold(env), "trader_1": train})
    assert terminated == {"trader_0": False, "trader_1": True, "trader_2": False}
    assert not any(truncated.values())
    assert all(np.isfinite(reward) for reward in rewards.values())
    assert all(env.observation_space(agent).contains(seen) for agent, seen in observations.items())
    assert set(infos) == set(rewards) == set(env.possible_agents)
    assert env.agents == ["trader_0", "trader_2"]
    rng = np.random.default_rng(0)
    for _ in range(5):
        returned = env.step(random_actions(env, rng))
        assert all(set(part) == {"trader_0", "trader_2"} for part in returned)
        assert env.state_space.contains(env.state())
    assert returned[3] == {"trader_0": True, "trader_2": True}
    assert env.reset()[0].keys() == set(env.possible_agents)


def test_a_diverged_agents_offers_are_no_longer_legal() -> None:
    env = new_env()
    env.reset(seed=2)
    env.market_batch.engine.state.parameters[0, 1] = torch.nan
    *_, infos = env.step({**hold(env), "trader_1": 1})
    gone = 2 + env.offers("trader_0").index(("trader_1", "full"))
    assert infos["trader_0"]["action_mask"][gone] == 0
    *_, infos = env.step({**hold(env), "trader_0": gone})
    assert infos["trader_0"]["refused_unquoted"] == 1


# --- actions that cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "action"),
    [
        ("verb", 9),
        ("verb", -1),
        ("verb", 1.0),
        ("verb", np.float32(1)),
        ("verb", "1"),
        ("verb", True),
        ("verb", np.array([1])),
        ("verb", [1]),
        ("verb", 2**70),
        ("verb", np.uint64(2**64 - 1)),
        ("verb", {"verb": 1}),
        ("round", 1),
        ("round", np.array([2, 0, 0])),
        ("round", np.array([0, 3, 0])),
        ("round", np.array([0, 0, 6])),
        ("round", np.array([0, -1, 0])),
        ("round", np.array([0, 0])),
        ("round", np.array([0, 0, 0, 0])),
        ("round", np.array([[0, 0, 0]])),
        ("round", np.array([0.0, 0.0, 0.0])),
        ("round", [0, 0, 1.5]),
        ("round", [0, [0], 0]),
        ("round", np.array([True, False, False])),
    ],
)
def test_an_action_outside_the_space_is_refused_by_name_before_anything_changes(mode: str, action: Any) -> None:
    env = new_env(mode)
    env.reset(seed=2)
    before = frozen(env.market_batch.engine.state)
    with pytest.raises(ValueError, match="trader_2"):
        env.step({**hold(env), "trader_2": action})
    assert frozen(env.market_batch.engine.state) == before
    assert env.agents == env.possible_agents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trader_1": None}, r"missing \['trader_1'\]"),
        ({"trader_9": 0}, r"unknown \['trader_9'\]"),
        ({"nobody": 0}, r"unknown \['nobody'\]"),
    ],
)
def test_missing_and_unknown_agents_are_named_before_anything_changes(change: dict[str, Any], message: str) -> None:
    env = new_env()
    env.reset(seed=2)
    before = frozen(env.market_batch.engine.state)
    with pytest.raises(ValueError, match=message):
        env.step({**hold(env), **change})
    with pytest.raises(ValueError, match=r"missing \['trader_0'\]"):
        env.step({"trader_1": 0, "trader_2": 0})
    assert frozen(env.market_batch.engine.state) == before


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [
        ("verb", [3, np.int64(3), np.int32(3), np.uint8(3), np.array(3), torch.tensor(3)]),
        ("round", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), np.uint8([1, 2, 3]), torch.tensor([1, 2, 3])]),
    ],
)
def test_an_action_is_taken_in_every_kind_of_integer(mode: str, kinds: list[Any]) -> None:
    results = set()
    for action in kinds:
        env = new_env(mode)
        env.reset(seed=2)
        results.add(digest([env.step({**hold(env), "trader_0": action}), env.state()]))
    assert len(results) == 1


def test_actions_of_agents_that_are_gone_are_ignored() -> None:
    env = new_env()
    env.reset(seed=2)
    env.market_batch.engine.state.parameters[0, 1] = torch.nan
    env.step({**hold(env), "trader_1": 1})
    env.step({**hold(env), "trader_1": 1})
    assert int(env.market_batch.engine.state.passes[0, 1]) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_failure_of_all_agents_ends_the_episode_as_its_last_cycle_does(mode: str, seed: int) -> None:
    env = new_env(mode)
    env.reset(seed=seed)
    env.market_batch.engine.state.parameters[:] = torch.nan
    train = 1 if mode == "verb" else np.array([1, 0, 0])
    env.step(dict.fromkeys(env.agents, train))
    assert env.agents == []
    assert env.step({}) == ({}, {}, {}, {}, {})


@pytest.mark.parametrize("mode", MODES)
def test_a_state_can_be_flat(mode: str) -> None:
    stacked, flat = (
        ParaMarketEnv(priced_market(action_mode=mode), device="cpu", state_style=style) for style in ("stacked", "flat")
    )
    stacked.reset(seed=1)
    flat.reset(seed=1)
    assert np.array_equal(flat.state(), stacked.state().ravel())
    assert flat.state_space.shape == (3 * flat.layout.size,)
    assert flat.state_space.contains(flat.state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state_style": "wide"}, r"state_style='wide'.*'stacked' or 'flat'"),
        ({"render_mode": "video"}, r"render_mode='video'.*rgb_array"),
        ({"mask_style": "list"}, r"mask_style='list'.*'tuple', 'flat' or 'none'"),
    ],
)
def test_options_that_do_not_exist_are_refused_with_those_that_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParaMarketEnv(tiny_market(), device="cpu", **arguments)


def test_the_spaces_reveal_nothing_about_another_agents_kappa() -> None:
    poor, rich = (
        ParaMarketEnv(tiny_market(kappa=(1.0, other)), device="cpu").observation_space("trader_0")
        for other in (0.5, 90.0)
    )
    assert poor == rich


def test_the_quoted_gain_of_a_purchase_is_that_of_the_quote_whatever_was_trained_after_it() -> None:
    env = ParaMarketEnv(tiny_market(action_mode="round"), device="cpu")
    env.reset(seed=0)
    quoted = float(env.market_batch.engine.gains[0, 0, 0])
    infos = env.step({"trader_0": [1, 1, 0], "trader_1": [0, 0, 0]})[-1]
    assert infos["trader_0"]["quoted"] == quoted
    assert infos["trader_0"]["gain"] != quoted
    assert infos["trader_1"]["quoted"] == 0


def test_infos_have_the_same_keys_from_the_reset_on() -> None:
    env = new_env("verb")
    at_reset = env.reset(seed=0)[1]
    after_step = env.step(hold(env))[-1]
    assert {agent: set(info) for agent, info in at_reset.items()} == {
        agent: set(info) for agent, info in after_step.items()
    }


@pytest.mark.parametrize("use", [ParaMarketEnv.state, ParaMarketEnv.snapshot])
def test_before_the_first_reset_there_is_nothing_to_look_at(use: Callable[[ParaMarketEnv], object]) -> None:
    with pytest.raises(RuntimeError, match="call reset"):
        use(ParaMarketEnv(tiny_market(), device="cpu"))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_as_the_original(copied: Callable[[ParaMarketEnv], ParaMarketEnv]) -> None:
    env = new_env("round")
    env.reset(seed=4)
    rng = np.random.default_rng(0)
    env.step(random_actions(env, rng))
    other = copied(env)
    while env.agents:
        actions = random_actions(env, rng)
        assert digest(env.step(actions)) == digest(other.step(actions))
