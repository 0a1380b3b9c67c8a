"""The throughput benchmark: what it counts, what it clocks, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import roofline, throughput
from benchmarks.contenders import Contender, always_open, engine_contender, new_engine, reference_contender
from benchmarks.phases import NAMES, Clock, phase_seconds
from benchmarks.reference import plain_market
from benchmarks.roofline import Yardstick, flop, step_bytes, step_flop
from benchmarks.throughput import Throughput, run
from paramarket_env.config import MarketConfig
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP, MLPNetwork
from paramarket_env.learning.networks.network import ARCHITECTURES
from paramarket_env.market.engine import Engine
from paramarket_env.scenarios import scenario
from tests.helpers import tiny_market
from tests.learning.networks.test_architectures import MODULES, SMALL

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.PRODUCT_WIDTH, "cpu", 64)
    monkeypatch.setitem(roofline.COPIED, "cpu", 1024)


def flop_of(config: MarketConfig, features: int, sizes: list[list[int]], validation: int) -> dict[str, int]:
    network = config.network.architecture((features,), 10)
    return step_flop(config, network, (features,), torch.tensor(sizes), validation)


# --- the roofline -----------------------------------------------------------------------------------------------------


def test_the_flop_of_the_digits_are_those_counted_by_hand() -> None:
    weights, first = 64 * 32 + 32 * 32 + 32 * 10, 64 * 32
    assert flop_of(scenario("digits"), 64, [[550, 550]], 400) == {
        "train": 2 * 550 * (2 * weights + 2 * weights + 2 * (weights - first)),
        "align": 2 * 32 * 32 * (64 + 1 + 32) + 2 * 32 * 32 * (32 + 1 + 10),
        "try": 10 * 400 * 2 * (weights - first),
        "evaluate": 2 * 400 * 2 * weights,
    }


def test_an_agent_step_of_digits_needs_some_17_mflop_and_a_round_of_fashion_some_8_gflop() -> None:
    digits = sum(flop_of(scenario("digits"), 64, [[550, 550]], 400).values()) / 2
    fashion = sum(flop_of(scenario("fashion"), 784, [[27_500, 27_500]], 10_000).values())
    assert digits == pytest.approx(17e6, rel=0.02)
    alone = step_flop(
        scenario("digits"), MLPNetwork((64,), 10, (32, 32)), (64,), torch.tensor([[550, 550]]), 400, shared=False
    )
    assert sum(alone.values()) / 2 == pytest.approx(22.5e6, rel=0.01)
    assert fashion == pytest.approx(8.1e9, rel=0.02)


def test_the_flop_of_a_cnn_are_those_counted_by_hand() -> None:
    first, second, hidden, head = 64 * 9 * 1 * 8, 16 * 9 * 8 * 16, 64 * 32, 32 * 10  # multiply-adds of a sample
    network, later = ARCHITECTURES.parse("cnn")((1, 8, 8), 10), second + hidden + head
    found = step_flop(scenario("digits"), network, (1, 8, 8), torch.tensor([[550, 550]]), 400)
    units = 2 * 8 * (8 * 9 + 8 + 16 * 8 * 9) + 2 * 16 * (16 * 8 * 9 + 16 + 32 * 16 * 4)
    assert found == {
        "train": 2 * 550 * (2 * 3 * later + 2 * 2 * first),
        "align": units + 2 * 32 * (64 * 32 + 32 + 32 * 10),
        "try": 10 * 400 * 2 * later,
        "evaluate": 2 * 400 * 2 * (first + later),
    }


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_the_flop_of_every_architecture_are_counted(text: str) -> None:
    network = ARCHITECTURES.parse(text)((1, 8, 8), 10)
    counted = flop(network, (1, 8, 8))
    assert list(counted.layers) == list(dict.fromkeys(spec.layer for spec in network.parameters))
    assert counted.forward < counted.backward < 2 * counted.forward
    assert counted.linear >= {list(counted.layers)[-1]}


def test_markets_add_up_and_sellers_multiply() -> None:
    one = flop_of(scenario("digits"), 64, [[550, 550]], 400)
    two = flop_of(scenario("digits"), 64, [[550, 550]] * 2, 400)
    four = flop_of(replace(scenario("digits"), agents=4), 64, [[550] * 4], 400)
    crowd = flop_of(replace(scenario("digits"), agents=4).changed(partners=2), 64, [[550] * 4], 400)
    assert two == {phase: 2 * flop for phase, flop in one.items()}
    assert four == {phase: {"train": 2, "evaluate": 2, "align": 6, "try": 6}[phase] * one[phase] for phase in one}
    assert crowd == {phase: {"train": 2, "evaluate": 2, "align": 4, "try": 4}[phase] * one[phase] for phase in one}


def test_a_good_is_tried_from_its_first_layer_on() -> None:
    config = tiny_market(parameter_sets="layers", architecture=MLP(hidden=(8,)), merger=Linear(weights=(0.2, 0.5, 0.8)))
    # The first layer alone: 3 times what follows it. The last layer alone: once, then the logits mix.
    assert flop_of(config, 64, [[30, 30]], 60)["try"] == 2 * 60 * 2 * (3 * 8 * 10 + 8 * 10)


def test_whole_networks_are_tried_once_for_both_buyers_where_the_weights_mirror_each_other() -> None:
    def tried(*weights: float) -> int:
        config = tiny_market(architecture=MLP(hidden=(8,)), merger=Linear(weights=weights))
        return flop_of(config, 64, [[30, 30]], 60)["try"]

    assert tried(0.2, 0.5, 0.9) == 60 * 2 * (5 * 8 * 10)  # 0.2, 0.5, 0.9; 0.8, 0.5, 0.1
    assert tried(0.2, 0.5, 0.8) == 60 * 2 * 3 * 80


def test_what_is_not_done_costs_nothing() -> None:
    config = tiny_market(local_steps=1, batch_size=16, aligner="none")
    assert flop_of(config, 64, [[30, 10]], 60)["align"] == 0
    assert flop_of(config, 64, [[30, 10]], 60)["train"] == (16 + 10) * (4 * 74 * 8 + 2 * 80)


def test_samples_and_networks_are_moved_once() -> None:
    config = tiny_market(architecture=MLP(hidden=(8,)))
    moved = step_bytes(config, MLPNetwork((64,), 10, (8,)), (64,), torch.tensor([[30, 10]]), 60)
    parameters = 64 * 8 + 8 + 8 * 10 + 10
    assert moved == {"samples": 40 * 64 * 4, "validation": 60 * 64 * 4, "networks": 2 * 2 * parameters * 4}


def test_the_roofline_is_the_larger_of_arithmetic_and_moving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Yardstick, "product_rate", 10.0)
    monkeypatch.setattr(Yardstick, "copy_bandwidth", 2.0)
    yardstick = Yardstick(CPU)
    assert yardstick.roofline(100, 4) == 10
    assert yardstick.roofline(100, 40) == 20


# --- the clock --------------------------------------------------------------------------------------------------------


def test_an_inner_phase_is_not_counted_for_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    time = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr("benchmarks.phases.now", lambda device: next(time))
    clock = Clock(CPU)
    clock.start()
    inner = clock.timed("align", lambda: None)
    clock.timed("try", inner)()
    clock.charge()
    expected = {"rest": 1.0 + 5.0, "try": 2.0 + 4.0, "align": 3.0}
    assert clock.seconds == dict.fromkeys(NAMES, 0.0) | expected


def test_the_engine_is_left_as_it_was() -> None:
    engine = new_engine(tiny_market(), 1, CPU)
    before = dict(vars(Engine))

    def fails() -> None:
        assert dict(vars(Engine)) != before
        engine.step(None)  # type: ignore[arg-type]

    with pytest.raises(AttributeError):
        phase_seconds(fails, CPU)
    assert dict(vars(Engine)) == before


# --- the contenders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"agents": 3},
        {"local_steps": 2},
        *({"architecture": text, "local_steps": 2, "optimizer": "sgd(lr=0.05)"} for text in MODULES),
    ],
)
def test_the_reference_does_the_engines_work(changes: dict[str, Any]) -> None:
    config = always_open(tiny_market(opens_at=4, trade_every=2, **changes))
    contenders = [reference_contender(config), engine_contender("engine", config, 2, CPU)]
    seen = []
    for _ in range(2):
        for each in contenders:
            each.measure()
        seen.append([each.losses() for each in contenders])
        assert seen[-1][0] == pytest.approx(seen[-1][1], abs=1e-6)
    assert all(before != after for before, after in zip(seen[0][0], seen[1][0], strict=True))
    assert not any(contenders[0].seconds[0][phase] for phase in ("train", "try", "evaluate", "clear"))
    assert all(seconds[phase] > 0 for seconds in contenders[1].seconds for phase in NAMES)


@pytest.mark.parametrize("text", MODULES)
def test_the_reference_quotes_modules_as_the_engine(text: str) -> None:
    config = always_open(tiny_market(architecture=text, local_steps=2, aligner="frank-wolfe"))
    engine = new_engine(config, 1, CPU)
    plain = plain_market(engine, 0)
    assert engine.state.quotes.loss[0, 0, 0, 0].item() == pytest.approx(plain.quotes[0, 1].loss, abs=1e-5)


def test_the_phases_are_those_of_the_step_of_median_duration() -> None:
    contender = Contender("any", tiny_market(), 1, 1, {}, 0, {}, lambda: None, list, CPU)
    contender.seconds = [{"train": 1.0, "rest": each} for each in (5.0, 1.0, 2.0, 9.0)]
    assert contender.phases == {"train": 1.0, "rest": 2.0}


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_small_run_prints_and_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "SCALED_MARKETS", 1)
    out = tmp_path / "results" / "throughput.json"
    options = Throughput(
        device="cpu",
        data_dir=str(tmp_path),
        num_markets=(1,),
        agents=(2,),
        crowds=(6,),
        parameter_sets=(),
        widths=(),
        architectures=("mlp(hidden=(8,))", "cnn"),
        repeats=2,
        out=out,
    )
    results = run(options, Console(width=120))
    printed = capsys.readouterr().out
    assert "fashion is skipped: data_dir=" in printed
    assert "roofline, M = 1" in printed
    assert "cnn" in printed
    assert json.loads(out.read_text()) == results
    assert out.with_suffix(".png").stat().st_size > 0
    assert "date" not in results
    assert results["versions"]["torch"]
    assert list(results["scaling"]) == ["agents", "agents, 4 partners"]
    assert list(results["architectures"]) == ["mlp(hidden=(8,))", "cnn"]
    assert all(series["disagreement"] < 1e-5 for series in results["architectures"].values())
    digits = results["digits"]
    assert digits["disagreement"] < 1e-5
    reference, engine = digits["rows"]
    memory = engine["memory"]
    assert memory["peak"] >= memory["bare"] > 0
    assert memory["estimate"] > 0
    assert engine["times_first"] == pytest.approx(reference["seconds"] / engine["seconds"])
    assert engine["times_roofline"] == pytest.approx(engine["seconds"] / engine["roofline_seconds"])
    assert engine["agent_steps_per_second"] == pytest.approx(2 / engine["seconds"])
    assert sum(engine["phases"].values()) <= engine["seconds"] * (1 + 1e-9)
    assert min(engine["all_seconds"]) == engine["seconds"]  # the lower of two
    assert engine["roofline_seconds"] >= sum(engine["flop"].values()) / digits["product_rate"]
