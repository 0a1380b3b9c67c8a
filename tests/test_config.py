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
        ("value_per_nat", -1.0),
        ("value_per_nat", float("inf")),
        ("value_per_nat", (1.0, 1.0, 1.0)),
        ("train_cost", -0.1),
        ("rivalry", float("nan")),
    ],
)
def test_an_impossible_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field}=.* is not allowed: it must be "):
        tiny_market(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("merge_grid", (1.0,)),
        ("initial_ask", 1),  # withheld
        ("validation_samples", 1),
        ("train_samples", None),
        ("scarcity", 0.0),
        ("hidden", ()),
        ("value_per_nat", (0.0, 2.0)),
        ("ask_levels", (0, 2**62)),
    ],
)
def test_values_at_the_edge_are_accepted(field: str, value: Any) -> None:
    tiny_market(**{field: value})


def test_one_value_serves_all_agents() -> None:
    assert tiny_market(agents=3, value_per_nat=2.0).values_per_nat == (2.0, 2.0, 2.0)
    assert tiny_market(value_per_nat=(1.0, 3.0)).values_per_nat == (1.0, 3.0)


def test_unknown_names_list_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown thing 'c': choose from a, b"):
        lookup({"b": 1, "a": 2}, "c", "thing")
