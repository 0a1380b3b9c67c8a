"""Markets as a TorchRL environment."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_env import paramarket_v0
from tests.helpers import frozen, play_alone, priced_market, scripted, spoil

MODES = ("verb", "round")
SEED = 5
SPOILED = (2, 1)


@pytest.fixture
def envs() -> Any:
    return pytest.importorskip("torchrl.envs")


def new_env(mode: str = "verb", num_markets: int = 3, **changes: Any) -> Any:
    return paramarket_v0.torchrl_env(priced_market(action_mode=mode, **changes), num_markets=num_markets, device="cpu")


@pytest.mark.parametrize("mode", MODES)
def test_the_check_of_torchrl_passes(envs: Any, mode: str) -> None:
    envs.utils.check_env_specs(new_env(mode))
    envs.utils.check_env_specs(new_env(mode), break_when_any_done=False, seed=3)


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_those_of_each_market_alone(envs: Any, mode: str) -> None:
    config = priced_market(action_mode=mode)
    actions = scripted(config, 15, 3, SPOILED)
    env = new_env(mode)
    env.set_seed(SEED)
    now = env.reset()
    alone = [
        play_alone(config, seed, actions[:, market], SPOILED[0] if market == SPOILED[1] else None)
        for market, seed in enumerate(env.market_batch.seeds.tolist())
    ]
    torch.testing.assert_close(now["agents", "observation"].numpy(), np.stack([played.first for played in alone]))
    for step, chosen in enumerate(actions):
        if step == SPOILED[0]:
            spoil(env.market_batch.engine, SPOILED[1])
        now["agents", "action"] = torch.from_numpy(chosen)
        returned, now = env.step_and_maybe_reset(now)
        expected = {
            name: np.stack([getattr(played, name)[step] for played in alone])
            for name in ("seen", "last", "reward", "terminated", "truncated")
        }
        next_ = returned["next"]
        for part, name in ((next_["agents", "observation"], "last"), (now["agents", "observation"], "seen")):
            torch.testing.assert_close(part.numpy(), expected[name], rtol=1e-4, atol=1e-5)
        reward = next_["agents", "reward"].squeeze(-1).double().numpy()
        torch.testing.assert_close(reward, expected["reward"], rtol=1e-4, atol=1e-5)
        assert next_["terminated"].flatten().tolist() == expected["terminated"].all(axis=1).tolist()
        assert next_["truncated"].flatten().tolist() == (expected["truncated"]).tolist()
        assert torch.equal(next_["done"], next_["terminated"] | next_["truncated"])
    assert {step for played in alone for step in np.flatnonzero(played.ended).tolist()} == {2, 5, 8, 11, 14}


@pytest.mark.parametrize("mode", MODES)
def test_the_state_is_that_of_each_market_alone(envs: Any, mode: str) -> None:
    env, actions = new_env(mode), scripted(priced_market(action_mode=mode), 5, 3)
    env.set_seed(SEED)
    now = env.reset()
    alone = [paramarket_v0.parallel_env(priced_market(action_mode=mode), device="cpu") for _ in range(3)]
    for market, seed in zip(alone, env.market_batch.seeds.tolist(), strict=True):
        market.reset(seed)
    for step in range(6):
        state = np.stack([market.state() for market in alone])
        torch.testing.assert_close(now["state"], torch.from_numpy(state), rtol=1e-4, atol=1e-5)
        assert env.observation_spec["state"].is_in(now["state"])
        if step < 5:
            now["agents", "action"] = torch.from_numpy(actions[step])
            now = env.step(now)["next"]
            for market, chosen in zip(alone, actions[step], strict=True):
                market.step(dict(zip(market.agents, chosen, strict=True)))


def test_a_rollout_goes_on_through_the_ends(envs: Any) -> None:
    rollout = new_env().rollout(14, break_when_any_done=False)
    assert rollout.batch_size == (3, 14)
    left = [1 - cycle % 6 / 6 for cycle in range(14)]
    assert rollout["agents", "observation"][1, :, 0, 0].tolist() == pytest.approx(left)
    assert rollout["next", "done"][2].flatten().nonzero().flatten().tolist() == [5, 11]
    assert float(rollout["next", "agents", "observation"][0, 5, 0, 0]) == 0


@pytest.mark.parametrize("mode", MODES)
def test_random_actions_are_legal_with_torchrls_transform(envs: Any, mode: str) -> None:
    mask = envs.ActionMask(("agents", "action"), ("agents", "action_mask"))
    env = envs.TransformedEnv(new_env(mode), mask)
    rollout = env.rollout(12, break_when_any_done=False)
    choices = env.base_env.market_batch.actions.nvec
    actions = rollout["agents", "action"].reshape(-1, len(choices))
    places = actions + torch.tensor([0, *np.cumsum(choices[:-1]).tolist()])
    masks = rollout["agents", "action_mask"].reshape(-1, sum(choices))
    assert bool(masks.gather(1, places).all())
    assert not bool(masks.all())


def test_an_agent_that_failed_idles_until_its_market_ends(envs: Any) -> None:
    env = new_env()
    now = env.reset()
    spoil(env.market_batch.engine, 0, 1)
    for step in range(6):
        now["agents", "action"] = torch.ones(3, 3, dtype=torch.int64)
        returned, now = env.step_and_maybe_reset(now)
        assert returned["next", "done"].flatten().tolist() == [step == 5] * 3
        assert not bool(returned["next", "terminated"].any())
        assert int(returned["next", "agents", "action_mask"][0, 1].sum()) == 1
    assert int(now["agents", "action_mask"][0, 1].sum()) > 1


def test_what_was_handed_out_is_not_written_again(envs: Any) -> None:
    env = new_env(max_cycles=2)
    kept = [env.reset()]
    copies = [kept[0].clone()]
    for _ in range(4):
        now = kept[-1].clone()
        now["agents", "action"] = torch.ones(3, 3, dtype=torch.int64)
        returned, now = env.step_and_maybe_reset(now)
        kept += [returned, now]
        copies += [returned.clone(), now.clone()]
    assert all(bool((one == other).all()) for one, other in zip(kept, copies, strict=True))


def test_only_the_markets_that_are_named_begin_anew(envs: Any) -> None:
    env = new_env()
    now = env.rand_step(env.reset())["next"]
    before = env.market_batch.seeds.clone()
    for chosen in ([False, True, False], [False, False, False]):
        now["_reset"] = torch.tensor(chosen).unsqueeze(1)
        env.reset(now)
    assert env.market_batch.engine.state.cycle.tolist() == [1, 0, 1]
    assert (env.market_batch.seeds == before).tolist() == [True, False, True]


def test_a_seed_is_for_one_reset(envs: Any) -> None:
    env = new_env()
    seen = []
    for seed in (4, None, 4):
        if seed is not None:
            env.set_seed(seed)
        seen.append(env.reset()["agents", "observation"])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_actions_outside_the_space_are_refused_before_anything_changes(envs: Any) -> None:
    env = new_env()
    now = env.reset()
    before = frozen(env.market_batch.engine.state)
    now["agents", "action"] = torch.full((3, 3), 99)
    with pytest.raises(ValueError, match="action=99"):
        env.step(now)
    assert frozen(env.market_batch.engine.state) == before


def test_without_torchrl_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchrl.data", None)
    monkeypatch.setitem(sys.modules, "tensordict", None)
    monkeypatch.delitem(sys.modules, "paramarket_env.adapters.torchrl", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'paramarket-env\[torchrl\]'"):
        new_env()
