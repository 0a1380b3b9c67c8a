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

from paramarket_env.learning.data.datasets import Dataset, Digits
from paramarket_env.learning.networks.inspection import Permutations
from paramarket_env.learning.networks.mlp import MLP, MLPNetwork
from paramarket_env.learning.networks.modules import ModuleFactory, from_module
from paramarket_env.learning.networks.network import Network, initial_parameters
from paramarket_env.seeding import stream
from paramarket_env.validation import configuration
from tests.helpers import leaves, logits, module_loss, new_engine, orders, priced_market, random_orders, tiny_market

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


def test_by_default_the_permutations_are_derived() -> None:
    derived, named = from_module(sequential)(FEATURES, CLASSES), both()[0]
    one, other = ([[axis[0].permutation for axis in spec.axes] for spec in net.parameters] for net in (derived, named))
    names = {mine: theirs for each in zip(one, other, strict=True) for mine, theirs in zip(*each, strict=True)}
    assert [[names[name] for name in axes] for axes in one] == other
    assert len(names) == 3


def test_with_an_empty_mapping_nothing_is_aligned() -> None:
    architecture = from_module(partial(sequential, hidden=(8,)), {})
    config = priced_market()
    mine = new_engine(config.changed(architecture=architecture))
    unaligned = new_engine(replace(config, broker=replace(config.broker, aligner="none")))
    torch.testing.assert_close(mine.gains, unaligned.gains)
    assert not torch.allclose(mine.gains, new_engine(config).gains)


def test_normalisation_begins_at_one_and_plays() -> None:
    def build(features: tuple[int, ...], classes: int) -> nn.Sequential:
        first = nn.Linear(math.prod(features), 8)
        return nn.Sequential(nn.Flatten(), first, nn.LayerNorm(8), nn.GELU(), nn.Linear(8, classes))

    architecture = from_module(build)
    engine = new_engine(priced_market(architecture=architecture))
    module = engine.network.module(engine.state.parameters[0, 0])
    assert module.get_parameter("2.weight").tolist() == [1] * 8
    assert module.get_parameter("2.bias").tolist() == [0] * 8
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


class Own(nn.Module):
    """Layers and bare tensors of all kinds, with branches, a lazy layer and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.25))
        self.shift = nn.Parameter(torch.full((8,), 0.1))
        self.noise = nn.Parameter(3 + 0.5 * torch.randn(8, 400))
        self.words = nn.Embedding(50, 8)
        self.first = nn.LazyLinear(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, samples: Tensor) -> Tensor:
        """Samples ``[n, *FEATURES]`` to logits."""
        tokens = self.first(samples) * self.scale + self.shift + self.noise.mean(1) + self.words.weight[:3]
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_a_module_of_any_structure_plays() -> None:
    def build(features: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Unflatten(1, (3, -1)), Own(), nn.Linear(CLASSES, classes))

    engine = new_engine(tiny_market(architecture=from_module(build, {}), dataset=Cut(), agents=3))
    assert engine.network.stem_size == 0
    engine.step(orders(engine, buy={0: 0}))
    assert engine.state.sold.sum() == 1
    engine.step(orders(engine, train=(0, 1, 2)))
    loss = module_loss(engine, engine.state.parameters[0, 0], engine.state.partition.validation[0, 0])
    assert engine.state.loss[0, 0].item() == pytest.approx(loss, abs=1e-5)


@configuration
class Cut:
    """Digits without their last pixel, as vectors."""

    def __call__(self) -> Dataset:
        """See :class:`DatasetSource`."""
        digits = Digits()()
        return replace(digits, inputs=digits.inputs.flatten(1)[:, :63].contiguous())


def test_initial_values_are_like_the_modules_own() -> None:
    network = from_module(lambda *_: Own(), {})(FEATURES, CLASSES)
    found = {spec.name: (spec.centre, spec.bound) for spec in network.parameters}
    assert found["scale"] == (0.25, 0)
    assert found["shift"] == pytest.approx((0.1, 0), abs=1e-5)
    assert found["noise"] == pytest.approx((3, 0.5 * math.sqrt(3)), rel=0.05)
    assert found["words.weight"] == pytest.approx((0, math.sqrt(3)), abs=0.2)
    assert found["first.weight"] == (0, 0.5)
    assert found["attention.in_proj_weight"] == pytest.approx((0, math.sqrt(6 / 32)), abs=0.06)
    assert found["attention.out_proj.bias"] == (0, 0)
    assert found["head.bias"] == (0, 1 / math.sqrt(8))


def test_a_network_is_examined_once_but_each_has_a_module_of_its_own() -> None:
    built = []

    def build(features: tuple[int, ...], classes: int) -> nn.Sequential:
        built.append(features)
        return sequential(features, classes)

    architecture = from_module(build)
    one, other = architecture(FEATURES, CLASSES), architecture(FEATURES, CLASSES)
    assert built == [FEATURES] * 2  # once on the meta device, where it takes no memory
    assert one._module is not other._module


def test_global_settings_do_not_change_what_is_drawn() -> None:
    expected = from_module(lambda *_: Own(), {})(FEATURES, CLASSES).parameters
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert from_module(lambda *_: Own(), {})(FEATURES, CLASSES).parameters == expected
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(dtype)


class Looks(nn.Module):
    """Chooses by the data what to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, samples: Tensor) -> Tensor:
        """Samples to logits."""
        samples = samples.flatten(1)
        result: Tensor = self.one(samples) if samples.sum() > 0 else self.other(samples)
        return result


SHARED = nn.Linear(5, 5)


def flat(*layers: nn.Module) -> nn.Sequential:
    """A linear layer to five units, and more layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), *layers)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: 5, "network='int' is not allowed: it must be an nn.Module"),
        (nn.Flatten, r"output for 2 samples=\(2, 12\) is not allowed: it must be of shape \(2, 5\)"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(12, elementwise_affine=False), Tail()), "parameters="),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(11, 5)),
            r"cannot be called with samples of shape \(3, 4\): mat1",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 5)), r"output for 2 samples=\(2, 3, 5\) is not allowed"),
        (
            lambda: flat(nn.SyncBatchNorm(5)),
            r"layer '2'=SyncBatchNorm\(.* must be an nn.BatchNorm1d, .* such as nn.GroupNorm",
        ),
        (lambda: flat(nn.BatchNorm1d(5, track_running_stats=False)), "layer '2'=BatchNorm1d"),
        (lambda: flat(Counting()), r"buffers=\['2.calls'\] is not allowed: it must be empty"),
        (lambda: flat(SHARED, SHARED), "distinct tensors: layers cannot share a weight"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), r"output for 2 samples=\(2, 4\) is not allowed"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LSTM(12, 5)), "output for 2 samples='tuple' is not allowed"),
        (Looks, r"(?s)cannot be derived.*give the permutations yourself"),
    ],
)
def test_a_module_that_cannot_play_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    factory: ModuleFactory = lambda features, classes: build()  # noqa: E731
    with pytest.raises(ValueError, match=message):
        from_module(factory)(FEATURES, CLASSES)


class Tail(nn.Module):
    """The first five units."""

    def forward(self, units: Tensor) -> Tensor:
        """Units ``[n, 12]`` to ``[n, 5]``."""
        return units[:, :5]


class Counting(nn.Module):
    """Has a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, units: Tensor) -> Tensor:
        """The units."""
        return units


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
        ({"1.weight": ("a", None)}, "change of the network's outputs by a permutation of its hidden units"),
    ],
)
def test_permutations_that_do_not_fit_are_refused(spec: Permutations, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_module(sequential, spec)(FEATURES, CLASSES)
