"""One learning seat as a Gymnasium environment, single and vectorised."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as stable_baselines_check
from torch import Tensor

import paramarket_env
from paramarket_env import paramarket_v0
from paramarket_env.adapters.gymnasium import ParaMarketGymEnv, ParaMarketVectorEnv
from paramarket_env.economics.rewards import TrainCost
from paramarket_env.interface.policy import POLICIES, Policy, Seat
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.seeding import stream
from tests.helpers import digest, frozen, priced_market, scripted, spoil

MODES = ("verb", "round")
SEEDS = (5, 11, 2)
SEAT = 1
OPPONENTS = (POLICIES.parse("random"), POLICIES.parse("paper"))  # one draws random numbers, one has a memory


def new_env(mode: str = "verb", opponents: Any = OPPONENTS, seat: int = SEAT, **settings: Any) -> ParaMarketGymEnv:
    return ParaMarketGymEnv(priced_market(action_mode=mode), opponents, seat=seat, device="cpu", **settings)


def new_vector(
    mode: str = "verb", num_markets: int = 3, opponents: Any = OPPONENTS, **changes: Any
) -> ParaMarketVectorEnv:
    return ParaMarketVectorEnv(
        priced_market(action_mode=mode, **changes), num_markets, opponents, seat=SEAT, device="cpu"
    )


# --- single ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:render_mode='human' finds no display:UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_the_checks_of_gymnasium_and_stable_baselines_pass(mode: str) -> None:
    env = gymnasium.make(
        "paramarket/ParaMarket-v0",
        scenario=priced_market(action_mode=mode),
        opponents="patient",
        render_mode="ansi",
        device="cpu",
    )
    gymnasium_check(env.unwrapped)
    stable_baselines_check(env.unwrapped)


def test_the_other_seats_are_played_by_their_policies() -> None:
    heard: dict[int, list[Tensor]] = {}

    class Recorded(Policy):
        def __init__(self, place: int, seat: Seat) -> None:
            self.place, self.seat = place, seat

        def act(self, observation: Tensor, mask: Tensor) -> Tensor:
            heard.setdefault(self.place, []).append(observation)
            return torch.full((len(observation),), self.place)

    env = new_env(opponents=[partial(Recorded, 0), partial(Recorded, 1)], seat=1)
    first, _ = env.reset(seed=3)
    state = env.market.state()
    env.step(1)
    assert np.array_equal(first, state[1])
    assert np.array_equal(torch.cat([heard[0][0], heard[1][0]]).numpy(), state[[0, 2]])
    assert env.market.market_batch.engine.state.passes.tolist() == [[0, 1, 1]]  # trader_0 held


def test_it_is_the_parallel_environment_with_policies_in_it() -> None:
    env, market = new_env(opponents="train"), paramarket_v0.parallel_env(priced_market(), device="cpu")
    observation, info = env.reset(seed=3)
    observations, infos = market.reset(seed=3)
    assert digest([observation, info]) == digest([observations["trader_1"], infos["trader_1"]])
    assert np.array_equal(env.action_masks(), info["action_mask"].astype(bool))
    ended = False
    while not ended:
        returned = env.step(1)
        expected = market.step(dict.fromkeys(market.possible_agents, 1))
        assert digest(list(returned)) == digest([part["trader_1"] for part in expected])
        ended = returned[3]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(1)


def test_masks_come_in_the_style_that_was_asked_for() -> None:
    parts = new_env("round").reset()[1]["action_mask"]
    flat = new_env("round", mask_style="flat").reset()[1]["action_mask"]
    assert [len(part) for part in parts] == [2, 3, 6]
    assert flat.shape == (11,)


def test_it_draws_the_whole_market() -> None:
    env = new_env(render_mode="ansi")
    env.reset(seed=1)
    env.step(1)
    assert "trader_2" in env.render()
    env.close()


def test_the_learners_failure_ends_the_episode() -> None:
    env = new_env(opponents="train")
    env.reset(seed=1)
    spoil(env.market.market_batch.engine, 0, SEAT)
    _, reward, terminated, truncated, _ = env.step(1)
    assert (terminated, truncated, np.isfinite(reward)) == (True, False, True)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(1)
    env.reset()
    spoil(env.market.market_batch.engine, 0, 0)
    assert env.step(1)[2:4] == (False, False)


@pytest.mark.parametrize("mode", MODES)
def test_maskable_ppo_learns_in_it(mode: str) -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    model = sb3_contrib.MaskablePPO("MlpPolicy", new_env(mode), n_steps=12, batch_size=12, n_epochs=1, device="cpu")
    model.learn(12)
    assert model.num_timesteps == 12


# --- back to a copy -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("mode", MODES)
def test_an_episode_goes_back_to_a_copy_with_the_memory_of_all_policies(mode: str, steps: int) -> None:
    env = new_env(mode)
    env.reset(seed=3)
    trained = np.int64(1) if mode == "verb" else np.array([1, 0, 0])
    for _ in range(steps):
        env.step(trained)
    saved, played = env.snapshot(), []
    for copied in (saved, pickle.loads(pickle.dumps(saved)), saved):
        played.append(digest([list(env.step(trained)) for _ in range(6 - steps)]))
        env.restore(copied)
    other = new_env(mode)
    other.restore(saved)
    played.append(digest([list(other.step(trained)) for _ in range(6 - steps)]))
    assert len(set(played)) == 1


def test_the_market_alone_cannot_go_back() -> None:
    """The policies in the other seats would go on with the memory of another episode."""
    env = new_env()
    env.reset(seed=3)
    saved = env.market.snapshot()
    env.step(1)
    for go_back in (lambda: env.market.restore(saved), lambda: env.market.reset(seed=3)):
        go_back()
        with pytest.raises(RuntimeError, match=r"reset or restored alone: call reset\(\) or restore\(\)"):
            env.step(1)
    env.reset(seed=3)
    env.step(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: new_env(seat=0).snapshot, "another seat, or against other opponents"),
        (lambda: new_env(opponents="train").snapshot, "another seat, or against other opponents"),
        (lambda: new_env("round").snapshot, "another configuration"),
        (lambda: new_env().market.snapshot, "snapshot='Snapshot' is not allowed"),
        (lambda: lambda: None, "snapshot='NoneType' is not allowed"),
    ],
)
def test_a_copy_of_something_else_is_refused_before_anything_changes(make: Any, message: str) -> None:
    env, take = new_env(), make()
    env.reset(seed=3)
    if hasattr(take, "__self__"):
        take.__self__.reset(seed=4)
    before = frozen(env.market_batch.engine.state)
    with pytest.raises(ValueError, match=message):
        env.restore(take())
    assert frozen(env.market_batch.engine.state) == before
    env.step(1)


# --- vectorised -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_it_plays_as_gymnasiums_own_vector_of_single_environments(mode: str) -> None:
    """Episodes, ends, infos and their layout, with one market that is out of step after its learner has failed."""
    makers: list[Callable[[], ParaMarketGymEnv]] = [partial(new_env, mode, mask_style="flat")] * 3
    singles = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = new_vector(mode)
    actions = scripted(priced_market(action_mode=mode), 14, 3, (2, 1))[:, :, SEAT]
    same(vector.reset(seed=list(SEEDS)), singles.reset(seed=list(SEEDS)))
    ends = set()
    for step, chosen in enumerate(actions):
        if step == 2:
            spoil(vector.market_batch.engine, 1, SEAT)
            spoil(singles.envs[1].unwrapped.market.market_batch.engine, 0, SEAT)  # type: ignore[attr-defined]
        returned = vector.step(chosen)
        same(returned, singles.step(chosen))
        ends |= {(step, market) for market in np.flatnonzero(returned[2] | returned[3])}
    assert ends == {(2, 1), (5, 0), (5, 2), (8, 1), (11, 0), (11, 2)}


def same(one: Any, other: Any) -> None:
    """Nested returns are equal, to rounding; arrays of objects where they are not None."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key, part in one.items():
            same(part, other[key])
    elif isinstance(one, tuple):
        for part, counterpart in zip(one, other, strict=True):
            same(part, counterpart)
    elif one is not None and one.dtype == object:
        assert [part is None for part in one] == [part is None for part in other]
        for part, counterpart in zip(one, other, strict=True):
            same(part, counterpart)
    elif one is not None:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_spaces_and_metadata_are_complete() -> None:
    vector = new_vector("round")
    assert vector.num_envs == 3
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert vector.action_space.shape == (3, 3)
    assert vector.observation_space.shape == (3, *vector.single_observation_space.shape)  # type: ignore[misc]
    observation, infos = vector.reset(seed=0)
    assert vector.observation_space.contains(observation)
    assert (infos["action_mask"].dtype, infos["action_mask"].shape) == (np.int8, (3, 11))
    assert np.array_equal(infos["action_mask"], vector._autoreset.mask[:, SEAT].numpy().astype(np.int8))


def test_the_market_reads_no_array_that_it_handed_out() -> None:
    one, other = new_vector(), new_vector()
    one.reset(seed=0)[0][:] = np.nan
    other.reset(seed=0)
    for _ in range(7):
        returned, expected = one.step(np.full(3, 2)), other.step(np.full(3, 2))
        assert digest(list(returned[:4])) == digest(list(expected[:4]))
        for array in (returned[0], returned[4]["action_mask"]):
            array[:] = 0


@pytest.mark.parametrize("style", ["tuple", "flat", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_masks_are_those_of_gymnasiums_own_vector_in_every_style(mode: str, style: Any) -> None:
    singles = SyncVectorEnv([partial(new_env, mode, mask_style=style)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = ParaMarketVectorEnv(
        priced_market(action_mode=mode), 2, OPPONENTS, seat=SEAT, device="cpu", mask_style=style
    )
    infos, expected = (env.reset(seed=[1, 2])[1] for env in (vector, singles))
    for _ in range(7):
        assert ("action_mask" in infos) == (style != "none")
        assert set(infos) == set(expected)
        for one, other in zip(
            (infos, infos.get("final_info", {})), (expected, expected.get("final_info", {})), strict=True
        ):
            assert digest(list(one.get("action_mask", ()))) == digest(list(other.get("action_mask", ())))
        infos, expected = (env.step(np.zeros(env.action_space.shape, int))[4] for env in (vector, singles))  # type: ignore[attr-defined]


@pytest.mark.parametrize("render_mode", ["ansi", "ansi_list"])
def test_every_market_is_rendered_as_it_is_alone(render_mode: str) -> None:
    singles = SyncVectorEnv([partial(new_env, render_mode=render_mode)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    vector = ParaMarketVectorEnv(priced_market(), 2, OPPONENTS, seat=SEAT, device="cpu", render_mode=render_mode)
    vector.reset(seed=[1, 2])
    singles.reset(seed=[1, 2])
    for step in range(8):
        if step % 3 == 0:
            assert vector.render() == singles.render()
        vector.step(np.ones(2, int))
        singles.step(np.ones(2, int))
    assert vector.render()[0] != vector.render()[1]
    vector.close()


def test_gymnasiums_wrappers_take_it() -> None:
    # Not one around the other: Gymnasium 1.2.0 does not allow that.
    recorded, listed = RecordEpisodeStatistics(new_vector()), DictInfoToList(new_vector())
    recorded.reset(seed=0)
    listed.reset(seed=0)
    rewards = np.zeros(3)
    for _ in range(6):
        _, reward, _, _, found = recorded.step(np.ones(3, int))
        infos = listed.step(np.ones(3, int))[-1]
        rewards += reward
    assert found["episode"]["l"].tolist() == [6] * 3
    assert found["episode"]["r"].tolist() == pytest.approx(rewards.tolist())
    assert all(info["final_info"]["trained"] and not info["trained"] for info in infos)


def test_policies_are_seated_once_and_reset_where_episodes_begin() -> None:
    resets: list[tuple[int, list[int], list[int]]] = []

    class Recorded(Policy):
        def __init__(self, seat: Seat) -> None:
            self.number, self.count = len(seats), seat.num_markets
            seats.append(seat)

        def reset(self, rows: Tensor, keys: Tensor) -> None:
            resets.append((self.number, rows.tolist(), keys.tolist()))

        def act(self, observation: Tensor, mask: Tensor) -> Tensor:
            return torch.zeros(self.count, dtype=torch.int64)

    def keys(agent: int, rows: list[int]) -> list[int]:
        return stream(vector.market_batch.seeds[rows], "policy", agent).tolist()

    seats: list[Seat] = []
    vector = new_vector(opponents=Recorded, max_cycles=2)
    vector.reset(seed=0)
    everywhere = [0, 1, 2]
    assert resets == [(number, everywhere, keys(agent, everywhere)) for number, agent in enumerate((0, 2))]
    resets.clear()
    vector.step(np.ones(3, int))
    assert resets == []
    vector.step(np.ones(3, int))
    assert resets == [(number, everywhere, keys(agent, everywhere)) for number, agent in enumerate((0, 2))]
    resets.clear()
    spoil(vector.market_batch.engine, 1, SEAT)  # its learner fails, so the episode is over
    vector.step(np.ones(3, int))
    assert resets == [(number, [1], keys(agent, [1])) for number, agent in enumerate((0, 2))]
    vector.reset(seed=0)
    assert len(seats) == 2


@pytest.mark.parametrize("actions", [np.ones(2, int), np.ones((3, 1), int), np.ones(3), [1, 1, 99], "train", None])
def test_actions_outside_the_space_are_refused_before_anything_changes(actions: Any) -> None:
    vector = new_vector()
    vector.reset()
    before = frozen(vector.market_batch.engine.state)
    with pytest.raises(ValueError, match=r"(?s)action=.* is not allowed: it must be in Discrete.*\(3,\)"):
        vector.step(actions)
    assert frozen(vector.market_batch.engine.state) == before


@pytest.mark.parametrize("make", [new_env, new_vector])
def test_what_does_not_exist_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"(?s)opponents=.*one for each of the 2 other seats"):
        make(opponents=[POLICIES.parse("hold")])
    with pytest.raises(ValueError, match=r"policy=3 .*one of hold"):
        make(opponents=3)
    env = make()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(1 if make is new_env else np.ones(3, int))
    with pytest.raises(ValueError, match=r"options=.*None or empty"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ValueError, match="seed=-1"):
        env.reset(seed=-1)


@pytest.mark.parametrize("seat", [-1, 3, 0.5, None])
def test_a_seat_that_does_not_exist_is_refused(seat: Any) -> None:
    with pytest.raises(ValueError, match=f"seat={seat}.*from 0 to 2"):
        new_env(seat=seat)


# --- by name --------------------------------------------------------------------------------------------------------


ID = "paramarket/ParaMarket-v0"
MADE: list[dict[str, Any]] = [
    {},
    {"scenario": "three-firms", "opponents": "patient:7+fixed:3", "seat": 2, "max_cycles": 3},
    {"scenario": "digits-short", "opponents": ["paper"], "action_mode": "round", "mask_style": "flat"},
    {"scenario": priced_market(), "opponents": OPPONENTS, "seat": np.int64(1), "device": torch.device("cpu")},
    {"architecture": MLP(hidden=(4,)), "ask_levels": (0, 10), "reward_terms": (TrainCost(0.1),), "max_cycles": 50},
    {"render_mode": "ansi_list", "copy": False},
]


@pytest.mark.parametrize("settings", MADE)
def test_gymnasium_makes_it_and_makes_it_again_from_json(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ID, **settings)
    assert isinstance(env.unwrapped, ParaMarketGymEnv)
    assert env.spec is not None
    cycles = env.unwrapped.market.max_cycles
    assert env.spec.max_episode_steps == cycles
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again.unwrapped, ParaMarketGymEnv)
    assert again.unwrapped.market.config == env.unwrapped.market.config
    assert again.unwrapped._seating.equals(env.unwrapped._seating)
    assert again.spec == gymnasium.make(env.spec).spec
    for one in (env, again):
        seen, _ = one.reset(seed=1)
        for step in range(cycles):
            seen, _, terminated, truncated, _ = one.step(0 * one.action_space.sample())
            assert (terminated, truncated) == (False, step == cycles - 1)
        assert one.unwrapped.layout.unpack(seen)["time_left"] == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow), "vector_entry_point"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_style": "none", "seat": 1},
        {"mask_style": "tuple", "action_mode": "round", "render_mode": "ansi"},
        {"mask_style": "flat", "action_mode": "round", "copy": False, "opponents": ["paper", "random"], "agents": 3},
        {"max_episode_steps": 2, "render_mode": "ansi_list", "device": "cpu"},
    ],
    ids=str,
)
def test_make_vec_takes_the_same_arguments_in_every_mode(mode: str, settings: dict[str, Any]) -> None:
    settings = {"scenario": priced_market(agents=2, max_cycles=4), "device": "cpu"} | settings
    env = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, **settings)
    single = gymnasium.make(ID, **settings)
    single.reset(seed=5)
    seen, infos = env.reset(seed=[5, 6])
    assert ("action_mask" in infos) == (settings.get("mask_style") != "none")
    for step in range(3):
        action = np.zeros(env.action_space.shape or (), int)
        seen, rewards, terminated, truncated, infos = env.step(action)
        alone = single.step(action[0])
        if step == 0 and "max_episode_steps" not in settings:  # the vector's agents see the time left until then
            np.testing.assert_allclose(seen[0], alone[0], rtol=1e-4, atol=1e-5)
        if step < 2:
            assert (terminated[0], truncated[0]) == alone[2:4] == (False, step + 1 == settings.get("max_episode_steps"))
            assert rewards[0] == pytest.approx(alone[1], rel=1e-4, abs=1e-5)
        if truncated[0]:
            break
    if "render_mode" in settings:
        frames = env.render()
        assert frames is not None
        assert len(frames) == 2
        assert isinstance(frames[0], list if settings["render_mode"].endswith("list") else str)
    env.close()


def test_a_vector_is_made_again_from_json() -> None:
    env = gymnasium.make_vec(ID, num_envs=3, scenario="digits-short", opponents="paper", copy=False)
    assert env.spec is not None
    again = gymnasium.make_vec(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, ParaMarketVectorEnv)
    assert (again.num_envs, again.spec) == (3, gymnasium.make_vec(env.spec).spec)
    for one, other in zip(env.reset(seed=1), again.reset(seed=1), strict=True):
        same(one, other)


def test_a_second_import_leaves_the_registry_as_it_is() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(paramarket_env)


def test_ppo_learns_in_the_single_environment() -> None:
    PPO("MlpPolicy", new_env("round"), n_steps=12, batch_size=12, n_epochs=1, device="cpu").learn(12)
