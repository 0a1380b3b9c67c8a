"""On a GPU: the same markets as on the CPU, to rounding. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_baselines.evaluation.matches import play_matches
from paramarket_baselines.training.league import LeagueSettings
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_env import paramarket_v0
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import no_orders
from paramarket_env.market.snapshot import snapshot
from paramarket_env.market.state import tree_map
from tests.helpers import CROWD, Images, leaves, priced_market, random_orders, tiny_market

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    """TF32 rounds products to 10 bits, which is too little for equality with the CPU."""
    assert torch.get_float32_matmul_precision() == "highest"


CONFIGS = pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": Adam(lr=0.01), "parameter_sets": "layers"},
        {
            "endowment": "dirichlet",
            "parameter_sets": "prefixes",
            "optimizer": SGD(lr=0.2, momentum=0.5),
            "architecture": MLP(hidden=(8, 6)),
        },
        {"mechanism": "personal", "disclosure": "bounds", "parameter_sets": "layers", "broker_fee": 0.1},
        {"mechanism": "double-auction", "disclosure": "none", "budget": (60, 0, 30)},
        {"mechanism": "second-price", "kappa_distribution": "log-uniform", "kappa_high": 2.0},
        {"dataset": Images(padding=2, flips=True)},
        {
            "dataset": (Images(plain=True), Images(padding=2), Images(flips=True)),
            "parameter_sets": "trunk",
            "endowment": "iid",
        },
        {**CROWD, "disclosure": "full"},
    ],
    ids=[
        *("sgd", "adam", "dirichlet", "personal", "double-auction", "second-price", "augmented", "augmented tasks"),
        "crowd",
    ],
)


def both(changes: dict[str, Any]) -> tuple[Engine, Engine]:
    """The same three markets on the CPU and on the GPU."""
    engines = tuple(Engine(priced_market(**changes), 3, device) for device in ("cpu", "cuda"))
    for engine in engines:
        engine.reset(torch.arange(3, device=engine.device))
    return engines[0], engines[1]


@CONFIGS
def test_a_market_is_the_same_on_a_gpu(changes: dict[str, Any]) -> None:
    here, there = both(changes)
    rng = np.random.default_rng(0)
    for cycle in range(4):
        if cycle == 2:
            for engine in (here, there):
                engine.reset(torch.tensor([7], device=engine.device), torch.tensor([1], device=engine.device))
        orders = random_orders(here, rng)
        record = here.step(orders)
        other = there.step(tree_map(lambda part: part.cuda(), orders))
        for name, column in vars(record).items():
            torch.testing.assert_close(getattr(other, name).cpu(), column, rtol=1e-3, atol=1e-4, msg=name)
    for (name, mine), (_, theirs) in zip(leaves(here.state), leaves(there.state), strict=True):
        assert theirs.is_cuda
        torch.testing.assert_close(theirs.cpu(), mine, rtol=1e-3, atol=1e-4, msg=name)
    for mine, theirs in zip(here.test_metrics(), there.test_metrics(), strict=True):
        torch.testing.assert_close(theirs.cpu(), mine, rtol=1e-3, atol=2e-2)


def test_a_copy_on_a_gpu_goes_on_alike() -> None:
    _, engine = both({})
    saved = snapshot(engine.state)
    on_cpu = tree_map(lambda tensor: tensor.cpu(), saved)
    everyone = torch.ones(3, 3, dtype=torch.bool, device="cuda")
    orders = replace(no_orders(3, 3, 1, engine.device), train=everyone)
    after = engine.step(orders).gain
    engine.state = saved
    torch.testing.assert_close(engine.step(orders).gain, after)
    assert not on_cpu.parameters.is_cuda


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_the_adapters_play_on_a_gpu(mode: Any) -> None:
    markets = paramarket_v0.sb3_vec_env(tiny_market(action_mode=mode), num_markets=3, device="cuda")
    markets.seed(0)
    seen = markets.reset()
    for _ in range(8):
        actions = np.stack([markets.action_space.sample() for _ in range(markets.num_envs)])
        seen, rewards, _, _ = markets.step(actions)
    assert np.isfinite(seen).all()
    assert np.isfinite(rewards).all()
    env = paramarket_v0.parallel_env(tiny_market(action_mode=mode), device="cuda")
    observations, infos = env.reset(seed=0)
    while env.agents:
        actions = {agent: env.action_space(agent).sample(infos[agent]["action_mask"]) for agent in env.agents}
        observations, _, _, _, infos = env.step(actions)
    assert all(np.isfinite(observation).all() for observation in observations.values())


def test_a_league_trains_on_a_gpu(tmp_path: Path) -> None:
    settings = LeagueSettings(members=2, minibatches=2, imitation_episodes=1, imitation_epochs=1)
    plan = Plan(tiny_market(max_cycles=3), "ppo", 12, 4, against=("varied",), league=True, league_settings=settings)
    learn(replace(plan, candidates=2), tmp_path, "cuda")
    returns = play_matches(plan.config, f"learned:{tmp_path}", {"varied": ["varied"]}, range(2), "cuda")
    assert np.isfinite(returns["varied"]).all()
