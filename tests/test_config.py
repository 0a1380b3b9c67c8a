"""Impossible values are refused at construction, with the field, the value and what is allowed."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from paramarket_env import paramarket_v0
from paramarket_env.config import SECTIONS, BrokerConfig, EconomyConfig, MarketConfig
from paramarket_env.economics.mechanisms import DoubleAuction, SecondPrice
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.learning.data.endowments import Complementary, Dirichlet
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.parameter_sets import prefixes
from paramarket_env.learning.training import SGD
from paramarket_env.plugins import REGISTRIES
from paramarket_env.scenarios import SCENARIOS, scenario
from paramarket_env.validation import lookup, shown
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
        ("tick", 1e-300),  # every price would be observed as 0
        ("agents", 1_000_000),
        ("agents", True),
        ("max_cycles", 2**62),
        ("initial_ask", 10**400),
        ("ask_levels", (2**40, 2**40 + 1)),  # equal as float32
        ("ask_levels", (10, True)),
        ("ask_levels", (10, "20")),
        ("batch_size", 2**63),
        ("local_steps", 10**400),
        ("budget", (np.int64(2**62),) * 2),  # the sum would overflow
        ("kappa", 1e-307),
        ("kappa", np.array(1.0)),
        ("kappa", (1.0, torch.tensor(1.0))),
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
        ("log-uniform", 1e-307, 100.0, "kappa"),
        ("uniform", 0.0, 1e-7, "kappa_high"),
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
    ("changes", "message"),
    [
        ({"agents": 4, "partners": 4}, "partners=4 .* must be None, or below agents=4, since no agent meets itself"),
        ({"agents": 5, "partners": 3}, "partners=3 .* must be an even number with agents=5, since each meeting is of"),
        ({"agents": 4, "partners": 2, "mechanism": "personal"}, "partners=2 .* must be None, since economy.mechanism="),
        ({"agents": 4, "partners": 0}, "partners=0 .* must be "),
    ],
)
def test_partners_that_cannot_be_drawn_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"broker.{message}"):
        tiny_market(**changes)


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
        (MLP, "hidden", (8, True)),
        (MLP, "hidden", (1,) * 101),
        (MLP, "hidden", (2**63,)),
        (Linear, "weights", (0.5, 0.5 + 1e-10)),
        (Linear, "weights", (1e-300, 0.5)),
        (Rivalry, "weight", 1e308),
        (TrainCost, "cost", 1e308),
        (SecondPrice, "copies", 2**64),
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


# --- NumPy's numbers, and what an error shows -------------------------------------------------------------------------


CONFIGURATIONS = [
    MarketConfig,
    *(type(getattr(MarketConfig(), section)) for section in SECTIONS),
    *(entry for registry in list(REGISTRIES.values()) for _, entry in registry.items() if is_dataclass(entry)),
]
NUMBERS = [
    (kind, field.name, field.default)
    for kind in CONFIGURATIONS
    for field in fields(kind)
    if type(field.default) in (int, float)
]


@pytest.mark.parametrize(("kind", "field", "default"), NUMBERS)
def test_numpys_numbers_become_pythons(kind: Any, field: str, default: float) -> None:
    ours = {field.name: 1.0 for field in fields(kind) if field.default is MISSING}
    scalar: Any = np.int64(default) if isinstance(default, int) else np.float64(default)
    made = kind(**ours | {field: scalar})
    assert made == kind(**ours)
    assert type(getattr(made, field)) is type(default)
    assert repr(made) == repr(kind(**ours))


@pytest.mark.parametrize(("kind", "field", "default"), NUMBERS)
@pytest.mark.parametrize(
    "value",
    [True, np.True_, "1", 1j, None, [1], (), np.array(1), 10**400, 10**5000, -(10**400), b"1", object()],
    ids=shown,
)
def test_what_is_no_number_is_refused_by_field(kind: Any, field: str, default: float, value: Any) -> None:
    if value is None and NoneType in get_args(get_type_hints(kind)[field]):
        return
    with pytest.raises(ValueError, match=rf"{field}=.* is not allowed: it must be ") as caught:
        kind(**{field: value})
    assert len(str(caught.value)) < 1000
    assert len(str(caught.value).splitlines()) == 1
    assert " at 0x" not in str(caught.value)  # it would differ from run to run


def test_other_numbers_become_floats() -> None:
    assert SGD(lr=Fraction(1, 20)) == SGD(lr=0.05)  # type: ignore[arg-type]
    assert SGD(lr=1) == SGD(lr=1.0)
    assert MLP(hidden=(np.int64(3), np.int8(4))) == MLP(hidden=(3, 4))  # type: ignore[arg-type]
    assert MarketConfig(agents=np.int64(3)).to_dict() == MarketConfig(agents=3).to_dict()


def test_a_value_given_by_place_is_named_too() -> None:
    with pytest.raises(ValueError, match=r"^agents=1 is not allowed"):
        MarketConfig(1)
    with pytest.raises(ValueError, match=r"^sgd=\(1, 2, 3\) is not allowed: it must be at most 2 values: lr, momentum"):
        SGD(1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"^sgd=\['lr'\] is not allowed: it must be given once"):
        SGD(0.1, lr=0.2)  # type: ignore[misc]


# --- plug-ins of another kind -----------------------------------------------------------------------------------------

FIELDS = {
    part.__origin__: name
    for hints in (get_type_hints(type(getattr(MarketConfig(), section)), include_extras=True) for section in SECTIONS)
    for name, part in hints.items()
    if hasattr(part, "__metadata__") and part.__origin__ in REGISTRIES
}


@pytest.mark.parametrize("interface", FIELDS, ids=lambda interface: interface.__name__)
def test_a_plugin_of_another_kind_is_refused(interface: type) -> None:
    others = {
        name: entry
        for other, registry in REGISTRIES.items()
        for name, entry in registry.items()
        if other is not interface
        and name not in REGISTRIES[interface]
        and name not in ("learned", "sb3")  # they need a path
    }
    for name, entry in others.items():
        plugin: Any = entry
        if isinstance(entry, type):
            plugin = entry(**{field.name: 1.0 for field in fields(entry) if field.default is MISSING})  # type: ignore[arg-type]
        for value in (plugin, name):
            with pytest.raises(ValueError, match=r"is not allowed: it must be one of|unknown "):
                MarketConfig().changed(**{FIELDS[interface]: value})


@pytest.mark.parametrize("value", [int, str, object, lambda: 0, lambda a, b, c, d, e, f: 0])
def test_a_call_that_does_not_take_the_arguments_is_no_plugin(value: Any) -> None:
    with pytest.raises(ValueError, match=r"endowment=.* is not allowed: it must be one of complementary, "):
        MarketConfig().changed(endowment=value)


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_configuration_comes_back_from_its_json(name: str) -> None:
    assert MarketConfig.from_json(scenario(name).to_json()) == scenario(name)


def test_tuples_plugins_and_files_come_back_from_json(tmp_path: Path) -> None:
    path = tmp_path / "fair.py"
    path.write_text("def endowment(pool):\n    return None\n")
    config = MarketConfig().changed(
        agents=3,
        budget=(1, 2, 3),
        kappa=(0.0, 1.0, 2.5),
        ask_levels=(0, 3, 2**40),
        endowment=f"file:{path}",
        mechanism="second-price:3",
        reward_terms=(Rivalry(0.1), TrainCost(1e-3)),
        architecture=MLP(hidden=()),
        parameter_sets="layers",
        smoothness=-0.0,
        local_steps=1,
    )
    assert MarketConfig.from_json(config.to_json()) == config
    assert MarketConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("section", [None, *SECTIONS])
def test_json_that_lacks_a_field_has_its_default(section: str | None) -> None:
    plain: dict[str, Any] = MarketConfig().to_dict()
    part = plain if section is None else plain[section]
    for field in list(part):
        del part[field]
        assert MarketConfig.from_dict(plain) == MarketConfig()


@pytest.mark.parametrize("name", ["price", "max-cycles", "Agents", "agents "])
def test_an_unknown_field_of_json_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is not a field"):
        MarketConfig.from_dict({name: 3})
    with pytest.raises(ValueError, match=rf"economy\.{name} is not a field"):
        MarketConfig.from_dict({"economy": {name: 3}})


@pytest.mark.parametrize(
    "given",
    [
        *({"agents": {3}}, {("a", "b"): 3}, {"economy": EconomyConfig()}, {"agents": object()}, None, 3, [], "x"),
        *({"agents": float("nan")}, {"economy": {"tick": float("inf")}}, {"agents": 10**5000}, {"economy": None}),
        *({"economy": {"budget": [1, 2.5]}}, {"economy": {"budget": [1, "2"]}}, {"agents": True}, {"agents": 3.0}),
        *({"economy": {"reward_terms": [{}]}}, {"economy": {"reward_terms": "rivalry(weight=1)"}}, {"network": []}),
    ],
)
def test_what_is_no_configuration_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(ValueError, match=r" is not allowed: it must be ") as caught:
        MarketConfig.from_dict(given)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "[]", "null", '{"agents": 1e999}', b"\xff", "\ud800", None, 5]
)
def test_a_text_that_is_no_configuration_is_refused_in_one_line(text: Any) -> None:
    with pytest.raises(ValueError, match=r" is not allowed: it must be ") as caught:
        MarketConfig.from_json(text)
    assert len(str(caught.value).splitlines()) == 1


def test_a_plugin_without_a_name_has_no_form_in_json() -> None:
    with pytest.raises(ValueError, match=r"^endowment=.*<lambda>.* has no name: register it, or name the file"):
        MarketConfig().changed(endowment=lambda pool: pool).to_json()


def test_numpys_numbers_have_a_form_in_json() -> None:
    given = {"agents": np.int64(2), "economy": {"budget": (np.int32(3), 4), "tick": np.float32(0.5)}}
    assert MarketConfig.from_dict(given) == MarketConfig().changed(budget=(3, 4), tick=0.5)
