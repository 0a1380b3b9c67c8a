"""Bounds on gains: true and tight where the curvature is known, and true of every offer that a broker quotes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from paramarket_env.learning import bounds
from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.bounds import gain_bounds, loss_gradients, measure_lines
from paramarket_env.learning.networks.mlp import MLP, MLPNetwork
from paramarket_env.learning.networks.network import Network, initial_parameters
from paramarket_env.market.engine import Engine
from paramarket_env.seeding import permutation, stream
from tests.helpers import module_loss, new_engine, orders, priced_market, random_orders, tiny_market
from tests.learning.test_evaluation import make_dataset

WEIGHTS = torch.tensor([0.1, 0.35, 0.6, 1.0], dtype=torch.float64)
SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Bowl:
    """The loss (theta - a)' H (theta - a) / 2 of five parameters, with curvatures of any sign."""

    def __init__(self, seed: int) -> None:
        some = drawn(seed, 5, 5)
        self.hessian, self.bottom = some + some.T, drawn(seed + 1, 5)
        self.curvatures = torch.linalg.eigvalsh(self.hessian)

    def loss(self, theta: Tensor) -> Tensor:
        """The losses ``[...]`` of ``[..., 5]``."""
        away = theta - self.bottom
        return ((away @ self.hessian) * away).sum(-1) / 2

    def gradient(self, theta: Tensor) -> Tensor:
        return (theta - self.bottom) @ self.hessian

    def gains(self, theta: Tensor, step: Tensor) -> Tensor:
        """The gains of all weights, ``[..., L]``, on the way from ``theta`` by ``step``, ``[..., 5]``."""
        tried = theta.unsqueeze(-2) + WEIGHTS.unsqueeze(-1) * step.unsqueeze(-2)
        return self.loss(theta).unsqueeze(-1) - self.loss(tried)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# --- bounds of a curvature that is known ------------------------------------------------------------------------------


@given(SEEDS, st.floats(0, 3), st.floats(0, 3))
def test_the_best_gain_is_between_the_bounds_of_a_smoother_and_a_less_convex_loss(
    seed: int, more: float, less: float
) -> None:
    bowl, theta, step = Bowl(seed), drawn(seed + 2, 5), drawn(seed + 3, 5)
    best = bowl.gains(theta, step).max()
    directional_derivative, squared = bowl.gradient(theta) @ step, step @ step
    low, high = gain_bounds(
        directional_derivative, squared, WEIGHTS, bowl.curvatures[-1] + more, bowl.curvatures[0] - less
    )
    rounding = 1e-12 * (1 + abs(best))
    assert low - rounding <= best <= high + rounding


@given(SEEDS, st.floats(-2, 5))
def test_the_bounds_are_the_gain_itself_where_the_curvature_is_the_same_everywhere(seed: int, curvature: float) -> None:
    bowl, theta, step = Bowl(seed), drawn(seed + 2, 5), drawn(seed + 3, 5)
    bowl.hessian = curvature * torch.eye(5, dtype=torch.float64)
    best = float(bowl.gains(theta, step).max())
    directional_derivative, squared = bowl.gradient(theta) @ step, step @ step
    found = gain_bounds(directional_derivative, squared, WEIGHTS, number(curvature), number(curvature))
    assert found.tolist() == pytest.approx([best, best], rel=1e-9, abs=1e-12)


def test_each_bound_is_that_of_its_best_weight() -> None:
    # -w s - b w^2 q / 2 with s = -1, q = 1: at w = 0.2, 0.5 and 1, for b = 2 and b = 0.
    weights = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    found = gain_bounds(number(-1), number(1), weights, number(2), number(0))
    assert found.tolist() == pytest.approx([0.25, 1.0])
    assert gain_bounds(number(1), number(1), weights, number(2), number(0)).tolist() == pytest.approx([-0.24, -0.2])


def test_lines_of_any_shape_are_bounded_each_for_itself() -> None:
    directional_derivative, squared = drawn(0, 2, 3, 1, 2), drawn(1, 2, 3, 1, 2).square()
    smoothness, convexity = drawn(2, 2, 1, 1, 1), drawn(3, 2, 1, 1, 1)
    found = gain_bounds(directional_derivative, squared, WEIGHTS, smoothness, convexity)
    assert found.shape == (2, 3, 1, 2, 2)
    for place in np.ndindex(2, 3, 1, 2):
        ends = smoothness[place[0], 0, 0, 0], convexity[place[0], 0, 0, 0]
        torch.testing.assert_close(
            found[place], gain_bounds(directional_derivative[place], squared[place], WEIGHTS, *ends)
        )


# --- lines that are measured ------------------------------------------------------------------------------------------


@given(SEEDS)
def test_derivative_length_and_curvature_of_a_bowl_are_exact(seed: int) -> None:
    bowl, theta, difference = Bowl(seed), drawn(seed + 2, 3, 5), drawn(seed + 3, 3, 5)
    masks = torch.tensor([[True] * 5, [True, False, False, True, False], [False, False, False, False, True]])
    steps = difference.unsqueeze(1) * masks
    gains = bowl.gains(theta.unsqueeze(1).expand_as(steps), steps)
    lines = measure_lines(bowl.gradient(theta), difference, masks, gains, WEIGHTS)
    assert (lines.shape, lines.dtype) == ((3, 3, 4), torch.float64)
    squared = steps.square().sum(-1)
    curvature = ((steps @ bowl.hessian) * steps).sum(-1) / squared
    directional_derivative = (bowl.gradient(theta).unsqueeze(1) * steps).sum(-1)
    torch.testing.assert_close(lines[..., 0], directional_derivative)
    torch.testing.assert_close(lines[..., 1], squared)
    for column in (2, 3):
        torch.testing.assert_close(lines[..., column], curvature, rtol=1e-6, atol=1e-6)


def line(gains: list[float], weights: list[float], step: float = 1.0) -> list[float]:
    """The line by one parameter, with a derivative of -1, along which the merges have these gains."""
    chosen = torch.tensor([[True]])
    tried = torch.tensor([[gains]], dtype=torch.float64)
    measured = measure_lines(torch.tensor([[-1.0]]), torch.tensor([[step]]), chosen, tried, torch.tensor(weights))
    numbers: list[float] = measured.flatten().tolist()
    return numbers


def test_a_line_that_bends_unevenly_has_a_least_and_a_most_curvature() -> None:
    # The gain of w less its derivative's is -c w^2 / 2: c is 2 at a half, 1 at the whole way.
    assert line([0.25, 0.5], [0.5, 1.0]) == pytest.approx([-1, 1, 1, 2])
    assert line([0.5, 1.5], [0.5, 1.0]) == pytest.approx([-1, 1, -1, 0])


@pytest.mark.parametrize("broken", [-torch.inf, torch.nan])
def test_merges_that_are_not_finite_do_not_count(broken: float) -> None:
    assert line([0.25, broken], [0.5, 1.0]) == pytest.approx([-1, 1, 2, 2])


def test_a_line_of_no_length_has_no_curvature() -> None:
    for rounding in (0.0, 1e-7):
        assert line([rounding, 0.0], [0.5, 1.0], step=0.0) == [0, 0, torch.inf, -torch.inf]


# --- gradients --------------------------------------------------------------------------------------------------------


def autograd(network: Network, parameters: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient ``[P]`` of one network's mean loss, the plain way."""
    module = network.module(parameters)
    loss = nn.functional.cross_entropy(module(inputs), labels)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])


@pytest.mark.parametrize("numbers", [1, 250, 10**6])
def test_gradients_equal_torchs_one_network_at_a_time_however_many_are_taken_at_once(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "chunk_elements", lambda device: numbers)
    dataset, network = make_dataset(), MLPNetwork((2, 3), 4, (7, 5))
    parameters = 2 * initial_parameters(network, stream(torch.arange(5), "network", 0))
    samples = permutation(torch.arange(5), 50)[:, :20]
    found = loss_gradients(network, dataset, parameters, samples)
    for row in range(5):
        plain = autograd(network, parameters[row], dataset.inputs[samples[row]], dataset.labels[samples[row]])
        torch.testing.assert_close(found[row], plain, rtol=1e-4, atol=1e-6)
        assert float(plain.norm()) > 0.1


# --- what a broker tells ----------------------------------------------------------------------------------------------


def bounded(seeds: Any = (0,), **changes: Any) -> Engine:
    return new_engine(priced_market(disclosure="bounds", budget=1000, **changes), seeds)


@pytest.mark.parametrize("aligner", ["weight-matching", "none"])
@pytest.mark.parametrize("rule", ["full", "layers", "prefixes"])
def test_every_quoted_gain_is_within_the_bounds_that_are_disclosed(rule: str, aligner: str) -> None:
    engine = bounded(range(3), parameter_sets=rule, aligner=aligner, architecture=MLP(hidden=(8, 6)))
    rng, gap = np.random.default_rng(2), []
    for _ in range(5):
        low, high = engine.broker.bounds(engine.state).unbind(-1)
        assert bool(engine.gains.isfinite().all())
        assert bool((low - 1e-6 <= engine.gains).all())
        assert bool((engine.gains <= high + 1e-6).all())
        gap.append((high - low).min())
        engine.step(random_orders(engine, rng))
    assert int(engine.state.bought.sum()) > 5
    assert min(gap) > 1e-6  # bounds, and not the gain itself


def line_in_a_loop(engine: Engine, buyer: int, slot: int, good: int) -> tuple[float, float, list[float]]:
    """Derivative, squared length and curvature at each weight of an offer in the first market, with plain modules."""
    state, seller = engine.state, int(engine.state.meetings.partners[0, buyer, slot])
    validation, mine = state.partition.validation[0, 0], state.parameters[0, buyer]
    theirs = permute(engine.network, state.parameters[0, seller][None], state.quotes.permutations[0, buyer, slot][None])
    step = (theirs[0] - mine) * engine.broker.goods.masks[good]
    samples = engine.dataset.inputs[validation], engine.dataset.labels[validation]
    directional_derivative, squared = float(autograd(engine.network, mine, *samples) @ step), float(step @ step)
    before = module_loss(engine, mine, validation)
    tries = [
        (w, before - module_loss(engine, mine + w * step, validation)) for w in engine.config.broker.merger.weights
    ]
    return (
        directional_derivative,
        squared,
        [-2 * (w * directional_derivative + gain) / (w * w * squared) for w, gain in tries],
    )


def test_bounds_are_those_of_the_extreme_curvatures_of_all_offers_in_loops() -> None:
    engine = bounded(parameter_sets="layers")
    engine.step(orders(engine, train=(0, 2)))
    offers = [(buyer, slot, good) for buyer in range(3) for slot in range(2) for good in range(2)]
    lines = [line_in_a_loop(engine, *offer) for offer in offers]
    curvatures = [curvature for *_, several in lines for curvature in several]
    disclosed = engine.broker.bounds(engine.state)[0]
    assert disclosed.shape == (3, 4, 2)
    for (buyer, slot, good), (directional_derivative, squared, _) in zip(offers, lines, strict=True):
        ends = (max(curvatures), min(curvatures))
        expected = [
            max(-w * directional_derivative - c / 2 * w * w * squared for w in engine.config.broker.merger.weights)
            for c in ends
        ]
        assert disclosed[buyer, 2 * slot + good].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_markets_measure_each_their_own_curvatures() -> None:
    together = bounded(range(3)).broker
    several = bounded(range(3))
    for market in range(3):
        alone = bounded([market])
        torch.testing.assert_close(
            together.bounds(several.state)[market], alone.broker.bounds(alone.state)[0], rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    "given", [{"smoothness": 5.0}, {"convexity": -3.0}, {"smoothness": 40.0, "convexity": -40.0}], ids=str
)
def test_a_curvature_that_is_given_is_used_in_place_of_the_measured_one(given: dict[str, float]) -> None:
    engine, measured = bounded(**given), bounded()
    lines = engine.state.quotes.lines
    assert torch.equal(lines, measured.state.quotes.lines)
    beta = given.get("smoothness", float(lines[..., 3].max()))
    mu = given.get("convexity", float(lines[..., 2].min()))
    expected = gain_bounds(lines[..., 0], lines[..., 1], engine.broker.merge_weights.double(), number(beta), number(mu))
    torch.testing.assert_close(engine.broker.bounds(engine.state), expected.flatten(2, 3))
    assert not torch.equal(engine.broker.bounds(engine.state), measured.broker.bounds(measured.state))


def test_offers_that_are_not_quoted_do_not_bend_the_bounds_of_the_others() -> None:
    engine = bounded()
    before = engine.broker.bounds(engine.state)
    lines = engine.state.quotes.lines
    lines[0, 1, 0, 0, 2:] = torch.tensor([-1e6, 1e6])
    assert not torch.equal(engine.broker.bounds(engine.state), before)
    engine.state.quotes.loss[0, 1, 0, 0] = torch.inf
    others = engine.broker.bounds(engine.state)[0, [0, 2]]
    rest = torch.cat([lines[0, [0, 2]].flatten(0, 1), lines[0, 1, 1:]])
    weights = engine.broker.merge_weights.double()
    expected = gain_bounds(
        lines[0, [0, 2], :, :, 0], lines[0, [0, 2], :, :, 1], weights, rest[..., 3].max(), rest[..., 2].min()
    )
    torch.testing.assert_close(others, expected.flatten(1, 2))


def test_no_line_is_measured_where_no_bounds_are_disclosed() -> None:
    assert new_engine(priced_market()).state.quotes.lines.shape == (1, 3, 2, 1, 0)


@pytest.mark.parametrize("agents", [2, 3])
def test_networks_that_are_alike_have_bounds_around_no_gain(agents: int) -> None:
    engine = new_engine(tiny_market(agents=agents, disclosure="bounds"))
    engine.overwrite(engine.state.parameters[:, :1].expand(-1, agents, -1).clone())
    low, high = engine.broker.bounds(engine.state).unbind(-1)
    assert bool((engine.gains == 0).all())
    assert bool((low <= 0).all())
    assert bool((high >= 0).all())
