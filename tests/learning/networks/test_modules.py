"""Ordinary modules as networks: equal to the network that is written batched, in every use that a market makes."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paramarket_env.learning.networks.mlp import MLP, MLPNetwork
from paramarket_env.learning.networks.modules import ModuleFactory, Permutations, from_module
from paramarket_env.learning.networks.network import Network, initial_parameters
from paramarket_env.seeding import stream
from tests.helpers import leaves, logits, new_engine, orders, priced_market, random_orders

FEATURES, CLASSES, HIDDEN = (3, 4), 5, (7, 6)
SPEC: Permutations = {
    "1.weight": ("a", None),
    "1.bias": ("a",),
    "3.weight": ("b", "a"),
    "3.bias": ("b",),
    "5.weight": (None, "b"),
}


def sequential(features: tuple[int, ...], classes: int, hidden: tuple[int, ...] = HIDDEN) -> nn.Sequential:
    """The batched MLP as one would write it."""
    pairs = pairwise([math.prod(features), *hidden, classes])
    layers = [layer for inputs, outputs in pairs for layer in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def both() -> tuple[Network, MLPNetwork]:
    return from_module(sequential, SPEC)(FEATURES, CLASSES), MLPNetwork(FEATURES, CLASSES, HIDDEN)


def drawn(network: Network, rows: int = 8) -> Tensor:
    return initial_parameters(network, stream(torch.arange(rows), "network"))


def test_the_parameters_are_those_of_the_batched_network() -> None:
    mine, batched = both()
    assert torch.equal(drawn(mine), drawn(batched))
    assert mine.stem_size == batched.stem_size
    for one, other in zip(mine.parameters, batched.parameters, strict=True):
        assert (one.shape, one.bound, one.centre) == (other.shape, other.bound, other.centre)


def test_logits_are_those_of_the_batched_network() -> None:
    mine, batched = both()
    parameters, inputs = drawn(mine).view(4, 2, -1), torch.rand(4, 6, *FEATURES, generator=torch.Generator())
    torch.testing.assert_close(logits(mine, parameters, inputs), logits(batched, parameters, inputs))


def test_gradients_are_those_of_the_batched_network() -> None:
    mine, batched = both()
    parameters, inputs = drawn(mine), torch.rand(8, 6, *FEATURES, generator=torch.Generator())
    logit_gradient = torch.randn(8, CLASSES, 6, generator=torch.Generator())
    with torch.no_grad():
        parts, expected = (
            net.gradients(parameters, inputs, lambda _: logit_gradient.clone()) for net in (mine, batched)
        )
    for part, right in zip(parts, expected, strict=True):
        torch.testing.assert_close(part, right)


@pytest.mark.parametrize("changes", [{}, {"parameter_sets": "layers", "optimizer": "adam"}, {"disclosure": "bounds"}])
def test_a_market_of_modules_goes_as_one_of_batched_networks(changes: dict[str, object]) -> None:
    config = priced_market(architecture=MLP(hidden=(8,)), **changes)
    spec = {"1.weight": ("a", None), "1.bias": ("a",), "3.weight": (None, "a")}
    architecture = from_module(partial(sequential, hidden=(8,)), spec)
    engines = [new_engine(market, (0, 1)) for market in (config.changed(architecture=architecture), config)]
    rng = np.random.default_rng(0)
    for _ in range(config.max_cycles):
        chosen = random_orders(engines[0], rng)
        for engine in engines:
            engine.step(chosen)
        for (name, mine), (_, batched) in zip(*(leaves(engine.state) for engine in engines), strict=True):
            torch.testing.assert_close(mine, batched, msg=name, rtol=1e-4, atol=1e-5)
    assert engines[0].state.sold.sum() > 0


def test_a_market_of_modules_is_pickled() -> None:
    engine = new_engine(priced_market(architecture=from_module(partial(sequential, hidden=(8,)))))
    again = pickle.loads(pickle.dumps(engine))
    for market in (engine, again):
        market.step(orders(market, train=(0, 1, 2)))
    assert torch.equal(again.state.loss, engine.state.loss)


def test_without_permutations_nothing_is_aligned() -> None:
    architecture = from_module(partial(sequential, hidden=(8,)))
    config = priced_market()
    mine = new_engine(config.changed(architecture=architecture))
    unaligned = new_engine(replace(config, broker=replace(config.broker, aligner="none")))
    torch.testing.assert_close(mine.gains, unaligned.gains)
    assert not torch.allclose(mine.gains, new_engine(config).gains)


def test_normalisation_begins_at_one_and_plays() -> None:
    def build(features: tuple[int, ...], classes: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(*features, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, classes))

    architecture = from_module(build)
    engine = new_engine(priced_market(architecture=architecture))
    module = engine.network.module(engine.state.parameters[0, 0])
    assert module.get_parameter("1.weight").tolist() == [1] * 8
    assert module.get_parameter("1.bias").tolist() == [0] * 8
    assert engine.state.loss.isfinite().all()


def test_the_module_owns_a_copy_that_learns() -> None:
    mine, _ = both()
    parameters = drawn(mine)[0]
    before = parameters.clone()
    for tensor in mine.module(parameters).parameters():
        assert tensor.requires_grad
        tensor.data.zero_()
    assert torch.equal(parameters, before)


def test_torchs_own_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    mine, _ = both()
    mine.module(drawn(mine)[0])
    assert torch.equal(torch.random.get_rng_state(), before)


class Sub(nn.Sequential):
    """Might do anything in its forward."""


SHARED = nn.Linear(5, 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Sub(nn.Linear(12, 5)), "network='Sub' is not allowed: it must be an nn.Sequential"),
        (nn.Sequential, "first layer=None is not allowed"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(12, 5)), r"first layer=ReLU\(\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(11, 5)), "must be an nn.Linear with 12 inputs"),
        (lambda: nn.Sequential(nn.Linear(12, 5)), "it must be preceded by nn.Flatten for samples of shape"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)), r"buffers=\['2.running_mean'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), SHARED, SHARED), "distinct tensors"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), r"output for 2 samples=\(2, 4\) is not allowed"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.PReLU()), "layer of 2.weight='PReLU'"),
    ],
)
def test_a_module_that_cannot_play_is_refused(build: Callable[[], nn.Sequential], message: str) -> None:
    factory: ModuleFactory = lambda features, classes: build()  # noqa: E731
    with pytest.raises(ValueError, match=message):
        from_module(factory)(FEATURES, CLASSES)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"9.weight": ("a", None)},
            r"names in permutations=\['9.weight'\] is not allowed: it must be among 1.weight, 1.bias",
        ),
        (
            {"1.weight": ("a",)},
            r"permutations of 1.weight=\('a',\) is not allowed: it must be 2 names or None, one for",
        ),
        ({"1.weight": ("a", None), "3.bias": ("a",)}, "must be such that all axes with one name have one size"),
    ],
)
def test_permutations_that_do_not_fit_are_refused(spec: Permutations, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_module(sequential, spec)(FEATURES, CLASSES)
