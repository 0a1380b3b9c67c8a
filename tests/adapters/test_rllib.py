"""Markets as one RLlib environment."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_env import paramarket_v0
from tests.helpers import Played, frozen, play_alone, priced_market, scripted, spoil

MODES = ("verb", "round")
MARKETS, STEPS = 3, 6
SPOILED = (2, 1)


@pytest.fixture
def rllib() -> Any:
    return pytest.importorskip("ray.rllib.env.multi_agent_env")


def new_env(mode: str = "verb", **changes: Any) -> Any:
    return paramarket_v0.rllib_env(priced_market(action_mode=mode, **changes), num_markets=MARKETS, device="cpu")


def named(env: Any, actions: np.ndarray) -> dict[str, Any]:
    """The actions ``[M, N, ...]`` of the agents that are left."""
    rows = actions.reshape(-1, *actions.shape[2:])
    return {agent: row for agent, row in zip(env.possible_agents, rows, strict=True) if agent in env.agents}


def check_step(played: Played, step: int, market: int, returned: tuple[Any, ...]) -> None:
    """The results of a market equal those of the market alone."""
    seen, rewards, terminated, _, _ = returned
    for agent in range(3):
        name = f"market_{market}/trader_{agent}"
        torch.testing.assert_close(seen[name], played.last[step, agent], rtol=1e-4, atol=1e-5)
        assert rewards[name] == pytest.approx(played.reward[step, agent], rel=1e-4, abs=1e-5)
        assert terminated[name] == played.terminated[step, agent]


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_those_of_each_market_alone(rllib: Any, mode: str) -> None:
    config = priced_market(action_mode=mode)
    actions = scripted(config, STEPS, MARKETS, SPOILED)
    env = new_env(mode)
    first, infos = env.reset(seed=2)
    alone = [
        play_alone(config, seed, actions[:, m], SPOILED[0] if m == SPOILED[1] else None)
        for m, seed in enumerate(env.market_batch.seeds.tolist())
    ]
    assert list(first) == list(infos) == env.possible_agents
    torch.testing.assert_close(np.stack(list(first.values())), np.concatenate([played.first for played in alone]))
    for step in range(STEPS):
        if step == SPOILED[0]:
            spoil(env.market_batch.engine, SPOILED[1])
        returned = env.step(named(env, actions[step]))
        gone = step > SPOILED[0]
        assert len(returned[0]) == len(returned[1]) == len(returned[4]) == (6 if gone else 9)
        for market in range(MARKETS):
            if not (gone and market == SPOILED[1]):
                check_step(alone[market], step, market, returned)
        assert returned[2]["__all__"] is (step == STEPS - 1)
        assert returned[3] == {"__all__": False}
    assert all(info["refused"] >= 0 for info in returned[4].values())


def test_an_agent_that_failed_drops_out_and_comes_back_with_the_next_episode(rllib: Any) -> None:
    env = new_env()
    env.reset(seed=0)
    spoil(env.market_batch.engine, 0, 1)
    everybody_trains = np.ones((MARKETS, 3), dtype=np.int64)
    terminated = env.step(named(env, everybody_trains))[2]
    assert [agent for agent, failed in terminated.items() if failed] == ["market_0/trader_1"]
    assert "market_0/trader_1" not in env.agents
    seen, _, _, _, infos = env.step(named(env, everybody_trains))
    assert "market_0/trader_1" not in seen
    assert infos["market_0/trader_0"] == {}
    assert len(env.reset()[0]) == 9


def test_without_any_agent_the_episode_is_over(rllib: Any) -> None:
    env = new_env()
    env.reset(seed=0)
    for market in range(MARKETS):
        spoil(env.market_batch.engine, market)
    _, _, terminated, truncated, infos = env.step(named(env, np.ones((MARKETS, 3), dtype=np.int64)))
    assert terminated["__all__"]
    assert not truncated["__all__"]
    assert infos["market_2/trader_2"]["trained"] is True
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({})


def test_seeds_that_follow_each_other_share_no_market(rllib: Any) -> None:
    env = new_env()
    seeds: list[int] = []
    for seed in (0, 1, 2):
        env.reset(seed=seed)
        seeds += env.market_batch.seeds.tolist()
    assert len(set(seeds)) == 9


def test_actions_that_cannot_be_are_refused_before_anything_changes(rllib: Any) -> None:
    env = new_env()
    env.reset(seed=0)
    before = frozen(env.market_batch.engine.state)
    actions = named(env, np.zeros((MARKETS, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="action="):
        env.step(actions | {"market_0/trader_0": 99})
    with pytest.raises(ValueError, match=r"missing \['market_0/trader_0'\], unknown \['trader_0'\]"):
        env.step({agent.removeprefix("market_0/") if agent == "market_0/trader_0" else agent: 0 for agent in actions})
    assert frozen(env.market_batch.engine.state) == before


def test_without_rllib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.rllib.env.multi_agent_env", None)
    monkeypatch.delitem(sys.modules, "paramarket_env.adapters.rllib", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'paramarket-env\[rllib\]'"):
        new_env()
