"""The promises of every adapter: arrays that stay, seeds, names, copies of whole environments."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3.common.vec_env import SubprocVecEnv, VecMonitor
from torch import Tensor

from paramarket_baselines.policies.pricing.rule import PRICING
from paramarket_env import paramarket_v0
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import POLICIES
from tests.helpers import CROWD, digest, priced_market, spoil

MODES = ("verb", "round")
SEEDED = ("vector_env", "sb3_vec_env", "torchrl_env", "rllib_env")
"""The adapters that play several markets, each with its own seed."""


def new(name: str, **settings: Any) -> Any:
    """A tiny environment of an adapter, with several markets where it has them."""
    if name == "torchrl_env":
        pytest.importorskip("torchrl")
    if name == "rllib_env":
        pytest.importorskip("ray.rllib")
    make = getattr(paramarket_v0, name)
    several = {"num_envs", "num_markets"} & set(inspect.signature(make).parameters)
    settings = dict.fromkeys(several, 3) | {"device": "cpu"} | settings
    return make(settings.pop("config", priced_market(max_cycles=3)), **settings)


FACES = tuple(name for name in paramarket_v0.__all__ if name != "raw_env")


# --- playing any of them ---------------------------------------------------------------------------------------------


class Player:
    """Plays an environment of any adapter with random actions, and returns everything that it hands out."""

    def __init__(self, env: Any, name: str) -> None:
        self.env, self.name, self.rng = env, name, np.random.default_rng(0)
        self.over, self.trains = True, False
        self.now: Any = None

    def _action(self, *rows: int) -> np.ndarray:
        nvec = self.env.market_batch.actions.nvec
        drawn = self.rng.integers([2, *(1,) * (len(nvec) - 1)] if self.trains else nvec, size=(*rows, len(nvec)))
        drawn[..., 0] |= self.trains
        return drawn if len(nvec) > 1 else drawn[..., 0]

    def seed(self, seed: Any) -> None:
        """Begin an episode with this seed."""
        if self.name in ("sb3_vec_env", "torchrl_env"):
            (self.env.seed if self.name == "sb3_vec_env" else self.env.set_seed)(seed)
            self.env.reset()
        else:
            self.env.reset(seed=seed)

    def step(self) -> list[Any]:
        """Return the results of the next call: a reset where an episode begins, and otherwise a step."""
        over, self.over = self.over, False
        return getattr(self, f"_{self.name}")(over)  # type: ignore[no-any-return]

    def _parallel_env(self, over: bool) -> list[Any]:
        env = self.env
        out = list(env.reset() if over else env.step({agent: self._action() for agent in env.agents}))
        self.over = not env.agents
        return [*out, env.state()]

    def _env(self, over: bool) -> list[Any]:
        env = self.env
        if over:
            env.reset()
        else:
            done = env.terminations[env.agent_selection] or env.truncations[env.agent_selection]
            env.step(None if done else self._action())
        self.over = not env.agents
        return [] if self.over else [list(env.last()), env.state(), env.infos, env.rewards]

    def _gym_env(self, over: bool) -> list[Any]:
        out = list(self.env.reset() if over else self.env.step(self._action()))
        self.over = not over and (out[2] or out[3])
        return [*out, self.env.action_masks()]

    def _vector_env(self, over: bool) -> list[Any]:
        return list(self.env.reset() if over else self.env.step(self._action(self.env.num_envs)))

    def _sb3_vec_env(self, over: bool) -> list[Any]:
        out = [self.env.reset()] if over else [*self.env.step(self._action(self.env.num_envs)), self.env.record]
        return [*out, self.env.action_masks(), self.env.env_method("action_masks")]

    def _torchrl_env(self, over: bool) -> list[Any]:
        if over:
            self.now = self.env.reset()
            return [self.now.to_dict(), self.now]
        now = self.now.clone()
        now["agents", "action"] = torch.from_numpy(self._action(*now["agents", "action_mask"].shape[:2]))
        out, self.now = self.env.step_and_maybe_reset(now)
        return [out.to_dict(), self.now.to_dict(), out, self.now]

    def _rllib_env(self, over: bool) -> list[Any]:
        env = self.env
        out = env.reset() if over else env.step({agent: self._action() for agent in env.agents})
        self.over = not over and out[2]["__all__"]
        return list(out)


def arrays(part: Any) -> Iterator[np.ndarray]:
    """All arrays of nested returns."""
    if isinstance(part, Tensor):
        yield part.numpy()
    elif isinstance(part, np.ndarray) and part.dtype != object:
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from arrays(value)
    elif isinstance(part, (list, tuple, np.ndarray)):
        for value in part:
            yield from arrays(value)
    elif is_dataclass(part):
        for field in fields(part):
            yield from arrays(getattr(part, field.name))
    elif hasattr(part, "to_dict"):
        yield from arrays(part.to_dict())


# --- arrays ----------------------------------------------------------------------------------------------------------

COPIES = [(name, {}) for name in FACES] + [(name, {"copy": False}) for name in ("vector_env", "sb3_vec_env")]


@pytest.mark.parametrize("opponents", [None, "patient"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "settings"), COPIES, ids=str)
@pytest.mark.parametrize("market", [{}, CROWD], ids=["everybody", "crowd"])
def test_what_was_handed_out_never_changes(
    name: str, settings: dict[str, Any], mode: str, opponents: str | None, market: dict[str, Any]
) -> None:
    against = {} if opponents is None or name != "sb3_vec_env" else {"opponents": opponents}
    player = Player(new(name, action_mode=mode, **settings, **against, **market), name)
    kept: list[tuple[np.ndarray, bytes]] = []
    steps, breaks, trains = (40, 7, 12) if name == "env" else (14, 5, 4)  # in which agents act one after another
    for step in range(steps):
        if step == breaks:
            spoil(player.env.market_batch.engine, 0, 0)
        player.trains = step in range(breaks, breaks + trains)  # a broken network is evaluated once it has trained
        kept += [(array, array.tobytes()) for array in arrays(player.step())]
    assert len(kept) > 30
    assert all(array.tobytes() == before for array, before in kept)


@pytest.mark.parametrize("name", FACES)
def test_steps_hand_out_arrays_that_share_no_memory(name: str) -> None:
    player = Player(new(name), name)
    player.step()
    before, after = list(arrays(player.step())), list(arrays(player.step()))
    if name != "env":  # in which one observation waits for several turns
        assert not any(np.shares_memory(one, other) for one in before for other in after)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["vector_env", "sb3_vec_env"])
def test_episodes_with_and_without_copies_are_the_same(name: str, mode: str) -> None:
    played = []
    for copies in (True, False):
        player = Player(new(name, action_mode=mode, copy=copies), name)
        player.seed(5)
        player.over = False
        played.append(digest([array for _ in range(8) for array in arrays(player.step())]))
    assert played[0] == played[1]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACES)
def test_the_layout_and_the_offers_have_the_same_names_everywhere(name: str) -> None:
    env, expected = (new(face, parameter_sets="layers") for face in (name, "parallel_env"))
    assert env.layout.table() == expected.layout.table()
    prefix = "market_1/" if name == "rllib_env" else ""
    offers = [(f"{prefix}{seller}", good) for seller, good in expected.offers("trader_1")]
    assert env.offers(f"{prefix}trader_1") == offers
    assert len(offers) == 4
    with pytest.raises(ValueError, match="agent='nobody' is not allowed: it must be one of"):
        env.offers("nobody")


@pytest.mark.parametrize("name", FACES)
def test_in_a_crowd_the_sellers_are_slots(name: str) -> None:
    env, prefix = new(name, **CROWD), "market_1/" if name == "rllib_env" else ""
    assert env.offers(f"{prefix}trader_1") == [(f"{prefix}partner_0", "full"), (f"{prefix}partner_1", "full")]


def test_they_have_these_names_in_wrappers_too() -> None:
    env = VecMonitor(new("sb3_vec_env"))
    assert env.layout.size > 0
    assert env.offers("trader_0")


@pytest.mark.parametrize("name", ["parallel_env", "env", "rllib_env"])
def test_the_spaces_of_all_agents_are_attributes(name: str) -> None:
    env = new(name)
    assert list(env.observation_spaces) == list(env.action_spaces) == env.possible_agents
    if name != "rllib_env":
        for agent in env.possible_agents:
            assert env.observation_spaces[agent] is env.observation_space(agent)
            assert env.action_spaces[agent] is env.action_space(agent)


@pytest.mark.parametrize("name", paramarket_v0.__all__)
def test_every_function_shows_its_parameters_and_takes_the_scenario_by_position(name: str) -> None:
    signature = inspect.signature(getattr(paramarket_v0, name))
    first, *others, changes = signature.parameters.values()
    assert (first.name, first.default, first.kind) == ("scenario", "digits", first.POSITIONAL_OR_KEYWORD)
    assert all(one.kind is one.KEYWORD_ONLY and one.default is not one.empty for one in others)
    assert changes.kind is changes.VAR_KEYWORD
    assert inspect.getdoc(getattr(paramarket_v0, name))
    documented = inspect.getdoc(paramarket_v0) or ""
    assert all(f"`{one.name}`" in documented for one in others)
    if name not in ("torchrl_env", "rllib_env"):
        env = getattr(paramarket_v0, name)("digits-short", device="cpu")
        assert env.market_batch.config.max_cycles == 12


# --- seeds -----------------------------------------------------------------------------------------------------------


def seeds_of(name: str, seed: Any) -> list[int]:
    """The seeds of the markets that an adapter plays after this seed."""
    player = Player(new(name), name)
    player.seed(seed)
    return player.env.market_batch.seeds.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SEEDED)
def test_neighbouring_seeds_have_no_market_in_common(name: str) -> None:
    seeds = [seed for first in range(4) for seed in seeds_of(name, first)]
    assert len(set(seeds)) == len(seeds) == 12
    assert seeds_of(name, 2) == seeds[6:9]


def test_all_adapters_make_the_same_markets_of_a_seed() -> None:
    assert seeds_of("vector_env", 7) == seeds_of("sb3_vec_env", 7) == seeds_of("torchrl_env", 7)


@pytest.mark.parametrize("name", ["parallel_env", "env", "gym_env"])
def test_a_seed_is_that_of_a_single_market(name: str) -> None:
    assert seeds_of(name, 7) == seeds_of(name, np.int64(7)) == [7]


@pytest.mark.parametrize("name", ["vector_env", "sb3_vec_env"])
def test_seeds_of_all_markets_are_taken_as_given(name: str) -> None:
    for given in ([4, 4, 9], (4, 4, 9), np.array([4, 4, 9])):
        assert seeds_of(name, given) == [4, 4, 9]


NO_SEEDS = [1.7, 2.0, True, np.bool_(True), "3", float("nan"), float("inf"), -1, 2**63, np.float64(1), 2j]


@pytest.mark.parametrize("seed", NO_SEEDS, ids=repr)
@pytest.mark.parametrize("name", FACES)
def test_what_is_no_seed_is_refused_and_the_episode_goes_on(name: str, seed: Any) -> None:
    player = Player(new(name, max_cycles=9), name)
    player.step()
    before = digest([player.env.market_batch.seeds, player.env.market_batch.engine.state.parameters])
    with pytest.raises(ValueError, match=r"seed=.* is not allowed: it must be an integer within \[0, 2\*\*63\)"):
        player.seed(seed)
    assert digest([player.env.market_batch.seeds, player.env.market_batch.engine.state.parameters]) == before
    player.step()


@pytest.mark.parametrize("name", FACES)
def test_integers_of_every_type_are_seeds(name: str) -> None:
    assert len({tuple(seeds_of(name, seed)) for seed in (3, np.int64(3), np.uint8(3))}) == 1


# --- copies of whole environments ------------------------------------------------------------------------------------

COPIED: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: cloudpickle.loads(cloudpickle.dumps(env)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("copied", COPIED)
@pytest.mark.parametrize("name", FACES)
def test_a_copy_of_an_environment_goes_on_as_the_original(name: str, copied: str, steps: int) -> None:
    player = Player(new(name), name)
    player.step()
    for _ in range(steps):
        player.step()
    other = Player(COPIED[copied](player.env), name)
    other.rng, other.over, other.now = copy.deepcopy(player.rng), player.over, player.now
    for _ in range(7):
        assert digest(list(arrays(other.step()))) == digest(list(arrays(player.step())))


def named_policies() -> list[str]:
    """The name of every policy that needs no file, and of every pricing rule with one."""
    rules = [f"patient+{rule}" for rule in PRICING]
    return [name for name in POLICIES if name not in ("learned", "sb3")] + rules


@pytest.mark.parametrize("opponents", named_policies())
def test_an_environment_with_any_policy_can_be_copied(opponents: str) -> None:
    disclosure = {"patient+bounds": "bounds", "patient+omniscient": "full"}.get(opponents, "transactions")
    for name in ("gym_env", "vector_env", "sb3_vec_env"):
        player = Player(new(name, opponents=opponents, disclosure=disclosure), name)
        for _ in range(3):
            player.step()
        others = [Player(copied(player.env), name) for copied in COPIED.values()]
        for other in others:
            other.rng, other.over = copy.deepcopy(player.rng), player.over
        for _ in range(3):
            expected = digest(list(arrays(player.step())))
            assert [digest(list(arrays(other.step()))) for other in others] == [expected] * 3


OWN_POLICY = """
import torch
class Holds:
    def __init__(self, seat): self.count = seat.num_markets
    def reset(self, rows, keys): pass
    def act(self, observation, mask): return torch.zeros(self.count, dtype=torch.int64)
def policy(seat): return Holds(seat)
"""


@pytest.mark.parametrize("copied", ["cloudpickle", "deepcopy"])
@pytest.mark.parametrize("name", ["gym_env", "vector_env", "sb3_vec_env"])
def test_an_environment_with_a_policy_from_a_file_can_be_copied(name: str, copied: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_POLICY)
    player = Player(new(name, opponents=f"file:{tmp_path}/own.py"), name)
    player.step()
    other = Player(COPIED[copied](player.env), name)
    other.over = False
    assert digest(list(arrays(other.step()))) == digest(list(arrays(player.step())))


def tiny() -> MarketConfig:
    """A market whose configuration crosses to other processes."""
    return priced_market(max_cycles=3)


def make_gym_env() -> Any:
    """An environment in a worker process."""
    return paramarket_v0.gym_env(tiny(), opponents="patient:2+thompson", device="cpu")


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_gymnasiums_and_stable_baselines_workers_play_it(context: str) -> None:
    single = make_gym_env()
    seen, rewards = single.reset(seed=0)[0], [single.step(1)[1] for _ in range(2)]
    workers = AsyncVectorEnv([make_gym_env] * 2, context=context)
    assert np.array_equal(workers.reset(seed=0)[0][0], seen)
    assert [workers.step(np.ones(2, int))[1][0] for _ in range(2)] == pytest.approx(rewards, rel=1e-4, abs=1e-5)
    workers.close()
    if context == "spawn":
        processes = SubprocVecEnv([make_gym_env] * 2, start_method=context)
        processes.seed(0)
        assert np.array_equal(processes.reset()[0], seen)
        processes.close()
