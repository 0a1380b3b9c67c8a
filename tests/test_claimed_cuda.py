"""On tensors that claim to be on a GPU: no operation mixes devices, and a step makes the host wait four times only."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from benchmarks.claimed_cuda import Device, claimed_cuda, compiler_is_missing
from paramarket_baselines.evaluation.matches import play_matches
from paramarket_baselines.policies.saving import save_mixture
from paramarket_baselines.training import candidates, league, teachers
from paramarket_baselines.training.league import LeagueSettings
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_env import paramarket_v0
from paramarket_env.config import ActionMode, Disclosure, MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.interface import actions, observations
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.learning import merging, training
from paramarket_env.learning.alignment.aligner import ALIGNERS
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.learning.merging import MERGERS
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.market import broker, exchange
from paramarket_env.market.snapshot import snapshot
from tests.helpers import Images, priced_market, random_actions, tiny_market

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: tests/market/test_cuda.py uses it"),
    pytest.mark.skipif(compiler_is_missing(), reason="there is no C++ compiler"),
]

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"agents": 2},
    "layers": {"parameter_sets": "layers", "optimizer": Adam(lr=0.01)},
    "momentum": {"optimizer": SGD(lr=0.1, momentum=0.5), "endowment": "dirichlet", "local_steps": 2},
    "partners": {"agents": 5, "partners": 2},
    "tasks": {
        "dataset": (Images(plain=True), Images(padding=2), Images(flips=True)),
        "parameter_sets": "trunk",
        "endowment": "iid",
    },
}


@pytest.fixture
def device() -> Iterator[Device]:
    with forced("torch"), claimed_cuda() as device:
        yield device


def played(config: MarketConfig, steps: int = 3) -> MarketBatch:
    """Markets in which everything happens that can, with one of them reset in between."""
    batch = MarketBatch(config, 3, "cuda")
    batch.reset(batch.next_seeds(0))
    for step in range(steps):
        if step == 1:
            batch.reset(batch.next_seeds(7)[:1], torch.tensor([1], device="cuda"))
        batch.infos(batch.step(everything(batch, step)).record)
    return batch


def everything(batch: MarketBatch, step: int) -> torch.Tensor:
    """All agents train and ask, or train, buy and ask if they can do so at once."""
    if batch.config.action_mode == "verb":
        verbs = [1, 2, batch.actions.mask_size - 2]
        return torch.tensor([[verbs[(step + agent) % 3] for agent in range(batch.config.agents)]] * 3)
    return torch.ones(3, batch.config.agents, len(batch.actions.nvec), dtype=torch.int64)


# Each mechanism and each disclosure meets both modes.
MARKETS = [
    (mechanism, disclosure, get_args(ActionMode)[(row + column) % 2])
    for row, mechanism in enumerate(MECHANISMS)
    for column, disclosure in enumerate(get_args(Disclosure))
]


@pytest.mark.parametrize(("mechanism", "disclosure", "mode"), MARKETS)
def test_no_operation_of_the_engine_mixes_devices(
    device: Device, mechanism: str, disclosure: Disclosure, mode: ActionMode
) -> None:
    played(priced_market(mechanism=mechanism, disclosure=disclosure, action_mode=mode))
    assert device.kernels.total() > 1000


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_networks_data_and_partners_stay_on_the_device(device: Device, changes: dict[str, Any]) -> None:
    batch = played(priced_market(action_mode="round", **changes))
    batch.engine.state = snapshot(batch.engine.state)
    batch.engine.test_metrics()
    batch.engine.overwrite(batch.engine.state.parameters)
    assert batch.observe().device.type == batch.engine.state.quotes.loss.device.type == "cuda"


@pytest.mark.parametrize("merger", MERGERS)
def test_mergers_stay_on_the_device(device: Device, merger: str) -> None:
    started = MERGERS.parse(merger).needs_common_start
    played(priced_market(action_mode="round", merger=merger, common_start=started))


@pytest.mark.parametrize("aligner", ALIGNERS)
def test_aligners_stay_on_the_device(device: Device, aligner: str) -> None:
    played(priced_market(action_mode="round", aligner=aligner))


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: here[there],  # a table on the CPU takes no indices of a GPU
        lambda here, there: there.index_put_((there,), here),
        lambda here, there: torch.where(there > 0, there, here),
    ],
)
def test_a_mix_of_devices_is_refused_as_on_a_gpu(device: Device, mix: Callable[..., Any]) -> None:
    here = torch.arange(3)
    there = here.to("cuda")
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        mix(here, there)
    assert there[here].tolist() == [0, 1, 2]  # a list of indices is copied to the GPU
    assert (device.copies.total(), device.waits.total()) == (2, 1)


# --- adapters ---------------------------------------------------------------------------------------------------------


def parallel(config: MarketConfig) -> None:
    env = paramarket_v0.parallel_env(config, device="cuda", render_mode="ansi")
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    saved = env.snapshot()
    for _ in range(2):
        env.step(random_actions(env, rng))
    assert np.isfinite(env.state()).all()
    assert env.render()
    env.restore(saved)


def single(config: MarketConfig) -> None:
    env = paramarket_v0.gym_env(config, opponents="paper", device="cuda")
    env.reset(seed=0)
    for _ in range(2):
        env.step(env.action_space.sample())


def vector(config: MarketConfig) -> None:
    envs = paramarket_v0.vector_env(config, opponents="paper", num_envs=2, device="cuda")
    envs.reset(seed=0)
    for _ in range(config.max_cycles + 1):
        envs.step(envs.action_space.sample())


def sb3(config: MarketConfig) -> None:
    envs = paramarket_v0.sb3_vec_env(config, num_markets=2, device="cuda")
    envs.reset()
    for _ in range(config.max_cycles + 1):
        envs.step(np.stack([envs.action_space.sample() for _ in range(envs.num_envs)]))


def torchrl(config: MarketConfig) -> None:
    env = paramarket_v0.torchrl_env(config, num_markets=2, device="cuda")
    tensordict = env.reset()
    for _ in range(2):
        tensordict = env.step(env.rand_action(tensordict))["next"]


ADAPTERS: list[Callable[[MarketConfig], None]] = [parallel, single, vector, sb3, torchrl]


@pytest.mark.parametrize("mode", get_args(ActionMode))
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_no_adapter_mixes_devices(device: Device, adapter: Callable[[MarketConfig], None], mode: ActionMode) -> None:
    adapter(tiny_market(action_mode=mode, max_cycles=3))


# --- the baselines ---------------------------------------------------------------------------------------------------


def test_a_league_and_its_mixture_stay_on_the_device(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(league, "EVALUATED", 2)
    monkeypatch.setattr(teachers, "EPISODES", 2)
    monkeypatch.setattr(candidates, "COMPARED", 2)
    monkeypatch.setattr(teachers, "PATIENCE", (0.5,))
    settings = LeagueSettings(members=2, minibatches=2, imitation_episodes=1, imitation_epochs=1, layers=(4,))
    config = tiny_market(max_cycles=3)
    plan = Plan(config, "ppo", 12, 4, against=("varied",), league=True, league_settings=settings, candidates=2)
    learn(plan, tmp_path, "cuda")
    save_mixture(tmp_path / "mixture", [tmp_path / "candidates" / place for place in "01"], [0.5, 0.5])
    assert play_matches(config, f"learned:{tmp_path / 'mixture'}", {"varied": ["varied"]}, range(2), "cuda")


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mechanism", "disclosure", "mode"), [row for row in MARKETS if row[1] in ("bounds", "full")])
@pytest.mark.parametrize("changes", [CONFIGS["layers"], CONFIGS["partners"]])
def test_a_step_waits_four_times_at_most_and_copies_twice_at_most(
    device: Device, mechanism: str, disclosure: Disclosure, mode: ActionMode, changes: dict[str, Any]
) -> None:
    if mechanism == "personal" and "partners" in changes:
        pytest.skip("personal asks need all sellers at once")
    batch = MarketBatch(
        priced_market(mechanism=mechanism, disclosure=disclosure, action_mode=mode, **changes), 3, "cuda"
    )
    batch.reset(batch.next_seeds(0))
    for step in range(3):
        chosen = everything(batch, step).to("cuda")
        device.forget()
        batch.engine.step(batch.actions.decode(chosen))
        assert device.waits.total() <= 4, device.waits
        assert device.copies.total() <= 2, device.copies


# --- faults that must be found ----------------------------------------------------------------------------------------

FAULTS: list[tuple[Any, str, str]] = [
    (exchange.Exchange, "__init__", ", device=device"),
    (training, "_weights", ", device=samples.device"),
    (merging, "_line", ", device=device"),
    (broker, "everybody", ", device=device"),
    (actions, "_tensor", ", device=device"),
    (observations, "_bounds", ".to(device)"),
]


@pytest.mark.parametrize(("owner", "name", "text"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_a_forgotten_device_is_found(
    device: Device, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, text: str
) -> None:
    function = inspect.unwrap(getattr(owner, name))
    source = textwrap.dedent(inspect.getsource(function))
    assert text in source
    scope: dict[str, Any] = {}
    exec(
        compile("from __future__ import annotations\n" + source.replace(text, ""), name, "exec"),
        function.__globals__,
        scope,
    )
    monkeypatch.setattr(owner, name, scope[name])
    with pytest.raises(RuntimeError, match="expected all tensors on one device"):
        played(replace(priced_market(action_mode="round"), max_cycles=5))
