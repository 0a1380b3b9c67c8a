"""The work that the compiled kernels do, and the work that goes by torch."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.learning import training
from paramarket_env.learning.data.augmentation import CropsAndFlips
from paramarket_env.learning.kernels import build, compiled, selection
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.learning.networks.convolutional import CNN
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.training import SGD, Training, train
from paramarket_env.market.state import MarketState
from tests.helpers import leaves, new_engine, orders, priced_market, random_orders, tiny_market

pytestmark = pytest.mark.skipif(build.library() is None, reason="the C++ kernels cannot be built here")

KERNELS = ("shuffled", "train", "stems", "losses", "try_merges")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are called."""
    called: list[str] = []

    def spying(name: str, kernel: Any) -> Any:
        return lambda *arguments: called.append(name) or kernel(*arguments)  # type: ignore[func-returns-value]

    for name in KERNELS:
        monkeypatch.setattr(compiled, name, spying(name, getattr(compiled, name)))
    selection._log_torch.cache_clear()
    return called


def step(config: MarketConfig, backend: str = "compiled") -> MarketState:
    with forced(backend):
        engine = new_engine(config)
        engine.step(orders(engine, train=(0, 1)))
    return engine.state


def test_all_kernels_serve_a_market_of_mlps(calls: list[str]) -> None:
    step(tiny_market())
    assert set(calls) == set(KERNELS)


def test_no_kernel_serves_if_torch_is_asked_for(calls: list[str]) -> None:
    step(tiny_market(), "torch")
    assert calls == []


def test_other_networks_go_by_torch_which_is_not_worth_a_word(
    calls: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        step(tiny_market(architecture=CNN(channels=(2, 2)), train_samples=60, validation_samples=20))
    assert set(calls) == {"shuffled"}
    assert caplog.text == ""


class Halving(SGD):
    """An optimizer with steps of its own."""

    def step(self, parameters: Tensor, gradients: Any, state: Any) -> None:
        parameters.mul_(0.5)


UNSERVED: dict[str, dict[str, Any]] = {
    "the optimizer": {"training": Training(Halving(), 16, 1, None)},
    "augmented samples": {"augmentation": CropsAndFlips(black=(0.0,), flips=True)},
    "networks of more than 10 parameters": {"largest": 10},
    "parameters that are not contiguous and float32": {"strided": True},
}


@pytest.mark.parametrize("cause", UNSERVED)
def test_training_that_no_kernel_serves_goes_by_torch_which_is_said_once(
    cause: str, calls: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    special = UNSERVED[cause]
    engine = new_engine(tiny_market())
    monkeypatch.setattr(training, "LARGEST", special.get("largest", training.LARGEST))
    chosen = special.get("training", Training(SGD(), 16, 1, None))
    dataset = replace(engine.dataset, augmentation=special.get("augmentation"))
    samples, sizes = engine.state.partition.endowments[0], engine.state.partition.sizes[0]
    results = []
    calls.clear()
    for backend in ("compiled", "torch"):
        parameters = engine.state.parameters[0].clone()
        parameters = parameters.mT.contiguous().mT if special.get("strided") else parameters
        with forced(backend), caplog.at_level(logging.INFO):
            for _ in range(2):
                train(engine.network, chosen, dataset, parameters, {}, samples, sizes, torch.arange(2))
        results.append(parameters)
    assert torch.equal(*results)
    assert not torch.equal(results[0], engine.state.parameters[0])
    assert calls == []
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert f"torch serves {cause}" in caplog.text


MARKETS: dict[str, dict[str, Any]] = {
    "full": {},
    "layers": {"parameter_sets": "layers", "disclosure": "bounds", "architecture": MLP(hidden=(9, 8, 7))},
    "prefixes": {"parameter_sets": "prefixes", "optimizer": "adam"},
    "momentum": {"optimizer": "sgd(lr=0.1, momentum=0.5)", "endowment": "dirichlet"},
    "perceptrons": {"architecture": MLP(hidden=())},
}


@pytest.mark.parametrize("name", MARKETS)
def test_markets_are_the_same_to_rounding(name: str) -> None:
    engines = []
    for backend in ("compiled", "torch"):
        rng = np.random.default_rng(0)
        with forced(backend):
            engine = new_engine(priced_market(**MARKETS[name]), (0, 1))
            for _ in range(4):
                engine.step(random_orders(engine, rng))
        engines.append(engine)
    ours, theirs = (dict(leaves(engine.state)) for engine in engines)
    assert ours.pop("quotes.lines").shape == theirs.pop("quotes.lines").shape  # curvatures magnify rounding errors
    for tensor, value in theirs.items():
        torch.testing.assert_close(ours[tensor], value, rtol=1e-3, atol=1e-4, msg=tensor)


def test_a_market_is_the_same_to_the_bit_alone_and_among_others() -> None:
    with forced("compiled"):
        together, alone = new_engine(tiny_market(), (0, 1, 2)), new_engine(tiny_market(), (1,))
        for engine in (together, alone):
            engine.step(orders(engine, train=(0, 1)))
            engine.step(orders(engine, train=(1,), buy={0: 0}))
    assert torch.equal(together.state.parameters[1], alone.state.parameters[0])
    assert torch.equal(together.state.loss[1], alone.state.loss[0])
    assert torch.equal(together.state.quotes.loss[1], alone.state.quotes.loss[0])
