"""The construction of engines: arguments that are refused, and errors that name those that are allowed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from paramarket_env.market import devices
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.engine import Engine
from paramarket_env.scenarios import scenario
from tests.helpers import CPU, new_engine, orders, tiny_market


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_the_cpu_is_always_a_device(name: str) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(name).type in ("cpu", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    devices._fallback.cache_clear()
    caplog.set_level("INFO")
    assert resolve_device("auto") == resolve_device("auto") == torch.device("cpu")
    expected = [("INFO", "no GPU was found: device='auto' uses the CPU")]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"device='cuda' is not available: torch sees 0 GPUs"):
        Engine(tiny_market(), device="cuda")


def test_a_device_that_does_not_exist_is_refused_with_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"device='gpu'.*cpu"):
        Engine(tiny_market(), device="gpu")


@pytest.mark.parametrize(("name", "num_markets", "device"), [("digits", 1, "cpu"), ("digits", 64, "cuda")])
def test_auto_takes_a_gpu_only_if_there_is_enough_to_compute(
    monkeypatch: pytest.MonkeyPatch, name: str, num_markets: int, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert devices.device_for(scenario(name), num_markets, "auto").type == device
    assert devices.device_for(scenario(name), num_markets, "cuda").type == "cuda"
    assert devices.device_for(scenario(name), num_markets, "cpu") == CPU


def test_engines_share_their_samples_and_a_pickled_engine_does_not_hold_them() -> None:
    one, two = Engine(scenario("digits"), device="cpu"), Engine(scenario("digits", agents=3), device="cpu")
    assert one.dataset is two.dataset
    one.reset(torch.tensor([0]))
    pickled = pickle.dumps(one)
    again = pickle.loads(pickled)
    assert again.dataset is one.dataset
    assert len(pickled) < one.dataset.inputs.nbytes
    for engine in (one, again):
        engine.step(orders(engine, train=[0, 1]))
    assert torch.equal(again.state.loss, one.state.loss)


@pytest.mark.parametrize("num_markets", [0, -1, 2.5, None])
def test_an_engine_needs_a_market(num_markets: Any) -> None:
    with pytest.raises(ValueError, match=f"num_markets={num_markets} .*>= 1"):
        Engine(tiny_market(), num_markets, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "numbers"}, r"dataset 'numbers'.*digits"),
        ({"endowment": "fair"}, r"endowment 'fair'.*complementary, dirichlet, few-classes, iid"),
        ({"mechanism": "barter"}, r"mechanism 'barter'.*double-auction, personal, posted, second-price"),
        ({"optimizer": "lion"}, r"optimizer 'lion'.*adam, known-steps, sgd"),
        ({"architecture": "transformer"}, r"network 'transformer'.*mlp"),
        ({"parameter_sets": "halves"}, r"parameter set rule 'halves'.*full, layers, prefixes"),
        ({"batch_size": 121}, r"training.batch_size=121.*trader_0 has \d+"),
        ({"agents": 11}, r"agents=11.*10 classes"),
        ({"train_samples": 2000}, r"data.train_samples=2000.*at most the 1677 samples"),
        ({"validation_samples": 2000}, r"data.validation_samples=2000.*at most the 1737 samples"),
        ({"test_samples": 2000}, r"data.test_samples=2000.*at most the 1797 samples"),
    ],
)
def test_what_cannot_be_is_refused_at_construction_with_what_can(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(tiny_market(**changes), device="cpu")


def test_a_network_can_have_fewer_parameters_than_there_are_classes() -> None:
    config = tiny_market(dataset="one-hot(samples=240, classes=3)", architecture="known-loss(gaps=(1.0,), floor=0.5)")
    assert new_engine(config.changed(aligner="none")).state.loss.tolist() == [pytest.approx([1.5, 1.5])]
