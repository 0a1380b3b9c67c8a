"""PettingZoo's own tests, in both action modes. pytest makes their warnings fail."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pettingzoo
import pytest

import paramarket_env
from paramarket_env import paramarket_v0
from tests.helpers import priced_market

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # they import an environment in the way that they deprecate
    from pettingzoo.test import (
        api_test,
        max_cycles_test,
        parallel_api_test,
        parallel_seed_test,
        render_test,
        seed_test,
        state_test,
    )

MODES = ("verb", "round")

# What cannot be otherwise: round mode *is* a MultiDiscrete, a state is a table of agents by fields of which some can be
# negative, and there is no display here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Action space for each agent probably should be gymnasium:UserWarning"),
    pytest.mark.filterwarnings("ignore:The state contains negative numbers and is in the shape of a:UserWarning"),
    pytest.mark.filterwarnings("ignore:render_mode='human' finds no display:UserWarning"),
]


@pytest.fixture(params=MODES)
def module(request: pytest.FixtureRequest) -> Any:
    """A module in PettingZoo's sense, ``env`` and ``parallel_env``, for a tiny market in one of the modes."""
    settings = {"scenario": priced_market(), "action_mode": request.param, "device": "cpu"}
    makers: dict[str, Callable[..., Any]] = {
        "parallel_env": partial(paramarket_v0.parallel_env, **settings),
        "env": partial(paramarket_v0.env, **settings),
    }
    return SimpleNamespace(**makers)


def test_parallel_api(module: Any) -> None:
    parallel_api_test(module.parallel_env(), num_cycles=20)


def test_parallel_seed(module: Any) -> None:
    parallel_seed_test(module.parallel_env, num_cycles=10)


def test_aec_api(module: Any) -> None:
    api_test(module.env(), num_cycles=20)


def test_aec_seed(module: Any) -> None:
    seed_test(module.env, num_cycles=10)


def test_max_cycles(module: Any) -> None:
    max_cycles_test(module)


def test_max_cycles_of_the_module_itself() -> None:
    max_cycles_test(paramarket_v0)


def test_render(module: Any) -> None:
    render_test(module.env)


def test_state(module: Any) -> None:
    state_test(module.env(), module.parallel_env())


def test_the_aec_environment_plays_the_same_market_as_the_parallel_one(module: Any) -> None:
    parallel, turns = module.parallel_env(), module.env()
    parallel.reset(seed=5)
    turns.reset(seed=5)
    for _ in range(3):
        actions = {agent: parallel.action_space(agent).sample() for agent in parallel.agents}
        observations, rewards, *_ = parallel.step(actions)
        for agent in list(turns.agents):
            assert turns.agent_selection == agent
            turns.step(actions[agent])
        assert turns.rewards == rewards
        for agent, seen in observations.items():
            assert np.array_equal(turns.observe(agent), seen)


def test_the_module_has_the_names_that_pettingzoo_looks_for() -> None:
    assert {"env", "parallel_env", "raw_env"} <= set(paramarket_v0.__all__)
    assert paramarket_v0.parallel_env(priced_market(), device="cpu").metadata["name"] == "paramarket_v0"
    assert (paramarket_v0.__doc__ or "").startswith("ParaMarket")


def test_arguments_replace_those_of_the_scenario() -> None:
    env = paramarket_v0.parallel_env("three-firms", max_cycles=2, action_mode="round", device="cpu")
    assert env.possible_agents == ["trader_0", "trader_1", "trader_2"]
    assert (env.config.max_cycles, env.config.action_mode) == (2, "round")
    with pytest.raises(ValueError, match="max_cycles=0"):
        paramarket_v0.parallel_env(max_cycles=0)
    with pytest.raises(ValueError, match=r"scenario 'nowhere'.*digits"):
        paramarket_v0.parallel_env("nowhere")


@pytest.mark.skipif(not hasattr(pettingzoo, "register"), reason="PettingZoo has a registry since 1.27")
def test_pettingzoo_makes_both_environments_by_name() -> None:
    parallel = pettingzoo.make("parallel", "paramarket/ParaMarket-v0", max_cycles=3, device="cpu")
    turns = pettingzoo.make("aec", "paramarket/ParaMarket-v0", scenario="three-firms", device="cpu")
    assert isinstance(parallel, pettingzoo.ParallelEnv)
    assert isinstance(turns, pettingzoo.AECEnv)
    assert parallel.unwrapped.config.max_cycles == 3
    assert len(turns.possible_agents) == 3


@pytest.mark.skipif(not hasattr(pettingzoo, "register"), reason="PettingZoo has had a registry since 1.27")
def test_a_second_import_leaves_the_registry_as_it_is() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(paramarket_env)
