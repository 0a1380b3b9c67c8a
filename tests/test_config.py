"""Impossible values are refused at construction, with the field, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from paramarket_env.config import lookup
from tests.helpers import tiny_market


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agents", 1),
        ("agents", 2.0),
        ("max_cycles", 0),
        ("action_mode", "turn"),
        ("train_samples", 0),
        ("validation_samples", -1),
        ("validation_samples", None),
        ("test_samples", 0),
        ("protocol", "dirty"),
        ("scarcity", 1.5),
        ("scarcity", float("nan")),
        ("concentration", 0.0),
        ("hidden", (8, 0)),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("momentum", 1.0),
        ("batch_size", 0),
        ("local_steps", 0),
        ("merge_grid", ()),
        ("merge_grid", (0.0, 0.5)),
        ("merge_grid", (0.5, 1.1)),
        ("merge_grid", (0.5, 0.5)),
        ("opens_at", -1),
        ("trade_every", 0),
        ("ask_levels", ()),
        ("ask_levels", (10, 10)),
        ("ask_levels", (20, 10)),
        ("ask_levels", (-1, 10)),
        ("ask_levels", (0.5, 1.5)),
        ("ask_levels", (0, 2**63)),
        ("initial_ask", 2),
        ("budget", -1),
        ("budget", 2**62),
        ("tick", 0.0),
        ("kappa", -1.0),
        ("kappa", float("inf")),
        ("kappa", (1.0, 1.0, 1.0)),
        ("kappa", None),
        ("kappa", ()),
        ("kappa", (1.0, None)),
        ("kappa", 100.5),
        ("train_cost", -0.1),
        ("rivalry", float("nan")),
        ("broker_fee", 1.0),
        ("broker_fee", -0.1),
        ("broker_fee", float("nan")),
        ("auction_k", 1.5),
        ("auction_k", -0.5),
        ("auction_k", float("nan")),
        ("copies", 0),
        ("copies", 1.5),
        ("disclosure", "some"),
        ("kappa_distribution", "normal"),
        ("kappa_high", 2.0),  # of values that are fixed
        ("budget", (10, 20, 30)),
        ("budget", (10, -1)),
        ("budget", (10, 0.5)),
        ("budget", ()),
        ("budget", [10, 10]),
        ("budget", 2**63 // (2 * 6) + 1),  # two agents, six cycles
        ("budget", (2**63 // 6 + 1, 0)),
        ("smoothness", float("inf")),
        ("smoothness", float("nan")),
        ("convexity", -float("inf")),
    ],
)
def test_an_impossible_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field}=.* is not allowed: it must be "):
        tiny_market(**{field: value})


@pytest.mark.parametrize(
    ("distribution", "low", "high", "refused"),
    [
        ("uniform", 1.0, None, "kappa_high"),
        ("log-uniform", 1.0, None, "kappa_high"),
        ("fixed", 1.0, 1.0, "kappa_high"),
        ("uniform", 2.0, 1.0, "kappa_high"),
        ("uniform", (1.0, 2.0), 1.5, "kappa_high"),
        ("uniform", 1.0, (2.0, 0.5), "kappa_high"),
        ("uniform", 1.0, (2.0, 2.0, 2.0), "kappa_high"),
        ("uniform", 1.0, float("inf"), "kappa_high"),
        ("uniform", 1.0, float("nan"), "kappa_high"),
        ("uniform", 1.0, 100.5, "kappa_high"),
        ("uniform", 0.0, -1.0, "kappa_high"),
        ("uniform", -1.0, 1.0, "kappa"),
        ("uniform", None, 1.0, "kappa"),
        ("log-uniform", 0.0, 1.0, "kappa"),
        ("log-uniform", (1.0, 0.0), 1.0, "kappa"),
    ],
)
def test_an_impossible_range_of_values_is_refused(distribution: str, low: Any, high: Any, refused: str) -> None:
    with pytest.raises(ValueError, match=rf"economy.{refused}=.* is not allowed: it must be "):
        tiny_market(kappa_distribution=distribution, kappa=low, kappa_high=high)


def test_a_loss_cannot_be_more_convex_than_it_is_smooth() -> None:
    tiny_market(smoothness=1.0, convexity=1.0)
    with pytest.raises(ValueError, match=r"broker.convexity=2.0 is not allowed: it must be at most smoothness, 1.0"):
        tiny_market(smoothness=1.0, convexity=2.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("merge_grid", (1.0,)),
        ("initial_ask", 1),  # withheld
        ("validation_samples", 1),
        ("train_samples", None),
        ("scarcity", 0.0),
        ("hidden", ()),
        ("kappa", (0.0, 2.0)),
        ("ask_levels", (0, 2**62)),
        ("broker_fee", 0.999),
        ("auction_k", 0.0),
        ("auction_k", 1),
        ("copies", 100),
        ("budget", (0, 7)),
        ("budget", (2**63 - 1) // (2 * 6)),
        ("budget", ((2**63 - 1) // 6, 0)),
        ("smoothness", -1.0),
        ("convexity", 1e30),
    ],
)
def test_values_at_the_edge_are_accepted(field: str, value: Any) -> None:
    tiny_market(**{field: value})


@pytest.mark.parametrize(
    ("distribution", "low", "high"), [("uniform", 0.0, 0.0), ("log-uniform", 1e-6, 100.0), ("uniform", 1.0, (1.0, 2.0))]
)
def test_ranges_of_values_at_the_edge_are_accepted(distribution: str, low: Any, high: Any) -> None:
    tiny_market(kappa_distribution=distribution, kappa=low, kappa_high=high)


def test_one_value_serves_all_agents() -> None:
    assert tiny_market(agents=3, kappa=2.0).kappa_ranges == ((2.0, 2.0),) * 3
    assert tiny_market(kappa=(1.0, 3.0)).kappa_ranges == ((1.0, 1.0), (3.0, 3.0))
    drawn = tiny_market(kappa_distribution="uniform", kappa=1.0, kappa_high=(2.0, 3.0))
    assert drawn.kappa_ranges == ((1.0, 2.0), (1.0, 3.0))


def test_one_budget_serves_all_agents() -> None:
    assert tiny_market(agents=3, budget=7).budgets == (7, 7, 7)
    assert tiny_market(budget=(0, 9)).budgets == (0, 9)


def test_unknown_names_list_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown thing 'c': choose from a, b"):
        lookup({"b": 1, "a": 2}, "c", "thing")
