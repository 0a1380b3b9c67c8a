"""Impossible values are refused at construction, with the field, the value and what is allowed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from paramarket_env import paramarket_v0
from paramarket_env.config import SECTIONS, BrokerConfig, EconomyConfig, MarketConfig
from paramarket_env.economics.mechanisms import DoubleAuction, SecondPrice
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.learning.data.endowments import Complementary, Dirichlet
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.parameter_sets import prefixes
from paramarket_env.learning.training import SGD
from paramarket_env.scenarios import SCENARIOS, scenario
from paramarket_env.validation import lookup
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
        ("batch_size", 0),
        ("local_steps", 0),
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
        ("broker_fee", 1.0),
        ("broker_fee", -0.1),
        ("broker_fee", float("nan")),
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
    with pytest.raises(ValueError, match=r"broker.convexity=2.0 is not allowed: it must be at most smoothness=1.0"):
        tiny_market(smoothness=1.0, convexity=2.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("initial_ask", 1),  # withheld
        ("validation_samples", 1),
        ("train_samples", None),
        ("kappa", (0.0, 2.0)),
        ("ask_levels", (0, 2**62)),
        ("broker_fee", 0.999),
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


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (Complementary, "scarcity", 1.5),
        (Complementary, "scarcity", float("nan")),
        (Dirichlet, "concentration", 0.0),
        (MLP, "hidden", (8, 0)),
        (SGD, "lr", 0.0),
        (SGD, "lr", float("inf")),
        (SGD, "momentum", 1.0),
        (Linear, "weights", ()),
        (Linear, "weights", (0.0, 0.5)),
        (Linear, "weights", (0.5, 1.1)),
        (Linear, "weights", (0.5, 0.5)),
        (TrainCost, "cost", -0.1),
        (Rivalry, "weight", float("nan")),
        (DoubleAuction, "k", 1.5),
        (DoubleAuction, "k", -0.5),
        (DoubleAuction, "k", float("nan")),
        (SecondPrice, "copies", 0),
        (SecondPrice, "copies", 1.5),
    ],
)
def test_an_impossible_field_of_a_plugin_is_refused(make: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{make.__name__.lower()}\.{field}=.* is not allowed: it must be "):
        make(**{field: value})


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (Linear, "weights", (1.0,)),
        (Complementary, "scarcity", 0.0),
        (MLP, "hidden", ()),
        (DoubleAuction, "k", 0.0),
        (DoubleAuction, "k", 1),
        (SecondPrice, "copies", 100),
    ],
)
def test_fields_of_plugins_at_the_edge_are_accepted(make: Any, field: str, value: Any) -> None:
    make(**{field: value})


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("dataset", "dataset"),
        ("endowment", "endowment"),
        ("architecture", "network"),
        ("optimizer", "optimizer"),
        ("parameter_sets", "parameter set rule"),
        ("aligner", "aligner"),
        ("merger", "merger"),
        ("mechanism", "mechanism"),
    ],
)
def test_an_unknown_plugin_is_refused_at_construction_with_those_that_exist(field: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {kind} 'typo': choose from .*"):
        tiny_market(**{field: "typo"})
    with pytest.raises(ValueError, match=r"=3 is not allowed: it must be one of .*, or an object with"):
        tiny_market(**{field: 3})


def test_a_setting_of_a_plugin_that_is_not_chosen_cannot_be_given() -> None:
    with pytest.raises(ValueError, match=r"field='copies' is not allowed: it must be one of action_mode, agents, "):
        tiny_market(copies=3)
    with pytest.raises(ValueError, match=r"endowment='iid\(scarcity=0.9\)' is not allowed: it must be iid, "):
        tiny_market(endowment="iid(scarcity=0.9)")


def test_the_fields_of_the_sections_have_different_names() -> None:
    names = [field.name for field in fields(MarketConfig)] + [name for part in SECTIONS.values() for name in part]
    assert len(set(names)) == len(names)


def test_changes_reach_the_section_that_has_the_field() -> None:
    changed = scenario("digits", agents=4, parameter_sets="prefixes", budget=7)
    assert (changed.agents, changed.broker.parameter_sets, changed.economy.budget) == (4, prefixes, 7)
    assert changed == replace(
        scenario("digits"), agents=4, broker=BrokerConfig(parameter_sets=prefixes), economy=EconomyConfig(budget=7)
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_configuration_comes_back_from_json(name: str) -> None:
    config = scenario(name)
    assert MarketConfig.from_json(json.dumps(config.to_dict())) == config
    assert MarketConfig.from_dict(config.to_dict()) == config


def test_what_json_lacks_has_its_default_and_what_is_unknown_is_refused() -> None:
    assert MarketConfig.from_json('{"economy": {"mechanism": "personal"}}') == MarketConfig().changed(
        mechanism="personal"
    )
    with pytest.raises(ValueError, match=r"economy\.price is not a field"):
        MarketConfig.from_json('{"economy": {"price": 3}}')
    with pytest.raises(ValueError, match=r"data\.train_samples=0 is not allowed"):
        MarketConfig.from_json('{"data": {"train_samples": 0}}')
    with pytest.raises(ValueError, match=r"unknown mechanism 'barter'"):
        MarketConfig.from_json('{"economy": {"mechanism": "barter"}}')


def test_unknown_names_list_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown thing 'c': choose from a, b"):
        lookup({"b": 1, "a": 2}, "c", "thing")


def test_a_section_of_another_type_is_refused() -> None:
    allowed = r"data=5 is not allowed: it must be a DataConfig"
    with pytest.raises(ValueError, match=allowed):
        MarketConfig().changed(data=5, endowment="iid")


@pytest.mark.parametrize("given", [5, None, b"digits"])
def test_an_environment_of_what_is_no_scenario_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"scenario=.* is not allowed: it must be one of digits, "):
        paramarket_v0.parallel_env(given)
