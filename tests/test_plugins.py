"""Plug-ins: their registries, their textual form, and one of each kind from outside the package, a file each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import pytest
from pydantic import Field

import paramarket_env.scenarios  # noqa: F401  # registers everything else
from paramarket_baselines.cli import main
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import POLICIES
from paramarket_env.plugins import REGISTRIES, Registry, parameters, text_of, usage
from paramarket_env.validation import configuration
from tests.baselines.test_cli import SMALL
from tests.helpers import new_engine, orders, priced_market, tiny_market

EVERY_PLUGIN = [
    pytest.param(registry, name, id=f"{registry.kind}-{name}") for registry in REGISTRIES.values() for name in registry
]
EXAMPLES = {"cost": 0.25, "weight": 0.5, "folder": "runs/mine", "path": "runs/model.zip"}
"""A value for each field that has no default."""


def example(registry: Registry[Any], name: str) -> Any:
    """A plug-in with its defaults."""
    entry = registry[name]
    needed = [field.name for field in parameters(entry).values() if field.default is inspect.Parameter.empty]
    return entry(**{field: EXAMPLES[field] for field in needed}) if isinstance(entry, type) else entry


# --- every plug-in that there is --------------------------------------------------------------------------------------


def test_every_kind_has_a_registry() -> None:
    assert {registry.kind for registry in REGISTRIES.values()} >= {
        *("aligner", "dataset", "endowment", "mechanism", "merger", "network", "optimizer"),
        *("parameter set rule", "policy", "pricing rule", "reward term", "scenario"),
    }


@pytest.mark.parametrize(("registry", "name"), EVERY_PLUGIN)
def test_a_plugin_comes_back_from_its_textual_form(registry: Registry[Any], name: str) -> None:
    plugin = example(registry, name)
    for complete in (False, True):
        assert registry.parse(registry.text(plugin, complete=complete)) == plugin
    assert registry.check(plugin) is plugin
    assert text_of(plugin) == registry.text(plugin)


@pytest.mark.parametrize(("registry", "name"), EVERY_PLUGIN)
def test_a_plugin_says_what_it_is_and_how_it_is_written(registry: Registry[Any], name: str) -> None:
    entry = registry[name]
    assert inspect.getdoc(entry)
    assert usage(name, entry).startswith(name)


@pytest.mark.parametrize(("registry", "name"), EVERY_PLUGIN)
def test_a_field_that_a_plugin_does_not_have_is_refused(registry: Registry[Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"it must be {name}.*there is no field 'colour'"):
        registry.parse(f"{name}(colour=3)")


@pytest.mark.parametrize("registry", list(REGISTRIES.values()), ids=lambda registry: registry.kind)
def test_an_unknown_name_lists_those_that_exist(registry: Registry[Any]) -> None:
    known = ", ".join(sorted(registry))
    with pytest.raises(ValueError, match=f"unknown {registry.kind} 'typo': choose from {known}"):
        registry.parse("typo")


# --- the textual form -------------------------------------------------------------------------------------------------


@runtime_checkable
class Tool(Protocol):
    """Anything that can be called."""

    def __call__(self) -> int:
        """A number."""


TOOLS: Registry[Tool] = Registry("tool", Tool, joined="handle")
del REGISTRIES[Tool]  # no kind of the project's


@pytest.fixture
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRIES, Tool, TOOLS)


@TOOLS.register
@configuration
class CoarseFile:
    """A tool with settings."""

    size: Annotated[int, Field(ge=1)] = 3
    grit: float | tuple[float, ...] = 0.5
    handle: Annotated[Tool, TOOLS] | None = None

    def __call__(self) -> int:
        return self.size


@TOOLS.register
@configuration
class Box:
    """A tool that needs a text."""

    label: str

    def __call__(self) -> int:
        return len(self.label)


@TOOLS.register
@configuration
class Kit:
    """A tool that is made of others."""

    tools: tuple[Annotated[Tool, TOOLS], ...] = ()

    def __call__(self) -> int:
        return len(self.tools)


@TOOLS.register
def bare_hand() -> int:
    """A function."""
    return 5


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("coarse-file", "coarse-file"),
        ("coarse_file", "coarse-file"),
        ("coarse-file()", "coarse-file"),
        ("coarse-file:4", "coarse-file(size=4)"),
        ("coarse-file(4)", "coarse-file(size=4)"),
        ("coarse-file(size=4, grit=(0.5, 1))", "coarse-file(size=4, grit=(0.5, 1.0))"),
        ("coarse-file(grit=1, size=4)", "coarse-file(size=4, grit=1.0)"),
        ("coarse-file:4+bare-hand", "coarse-file(size=4)+bare-hand"),
        ("coarse-file+box(label='a+b')", "coarse-file+box(label='a+b')"),
        ("coarse-file+coarse-file:2+bare-hand", "coarse-file+coarse-file(size=2)+bare-hand"),
        ("coarse-file(handle='bare-hand')", "coarse-file+bare-hand"),
        ("box:a/b+c(1)", "box(label='a/b+c(1)')"),
        ("box:2026", "box(label='2026')"),
        ("bare-hand", "bare-hand"),
    ],
)
@pytest.mark.usefixtures("_tools")
def test_a_text_is_read_and_written_in_one_form(text: str, canonical: str) -> None:
    plugin = TOOLS.parse(text)
    assert TOOLS.text(plugin) == canonical
    assert TOOLS.parse(canonical) == plugin


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("kit(tools=('box:nails', 'bare-hand'))", "kit(tools=(\"box(label='nails')\", 'bare-hand'))"),
        ("kit(tools=('kit',))", "kit(tools=('kit(tools=())',))"),
        ("kit", "kit(tools=())"),
    ],
)
@pytest.mark.usefixtures("_tools")
def test_plugins_among_the_values_of_a_field_come_back_complete(text: str, complete: str) -> None:
    plugin = TOOLS.parse(text)
    assert TOOLS.text(plugin, complete=True) == complete
    assert TOOLS.parse(complete) == TOOLS.parse(TOOLS.text(plugin)) == plugin


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"tool='' is not allowed: it must be NAME, NAME:VALUE or NAME\(field=VALUE, ...\)"),
        ("coarse-file(4", "it must be NAME"),
        ("coarse-file(size=four)", r"its values must be Python literals \(four is none\)"),
        ("coarse-file(Fraction(1, 20))", r"its values must be Python literals \(Fraction\(1, 20\) is none\)"),
        ("coarse-file(size=[1, lambda: 2])", r"its values must be Python literals \(\[1, lambda: 2\] is none\)"),
        ("coarse-file(**{'size': 4})", r"it must be coarse-file\(size=3, grit=0.5, handle=None\), each field at"),
        ("coarse-file(4, size=4)", "each field at most once; 'size' is given twice"),
        ("coarse-file(1, 2, None, 4)", "without further values"),
        ("coarse-file:0", "coarsefile.size=0 is not allowed: it must be greater than or equal to 1"),
        ("coarse-file:x", "coarsefile.size='x' is not allowed: it must be a valid integer"),
        ("coarse-file+glove", "unknown tool 'glove': choose from bare-hand, box, coarse-file, kit"),
        ("box", r"tool='box' is not allowed: it must be box\(label\), with a value for label"),
        ("bare-hand:3", "it must be bare-hand, without further values"),
        ("bare-hand+box:x", "it must be bare-hand, each field at most once; there is no field 'handle'"),
        ("coarse-file(size=4, size=5)", "each field at most once; 'size' is given twice"),
        ("coarse-file(handle='bare-hand')+box:x", "each field at most once; 'handle' is given twice"),
        ("coarse-file(4)(5)", "its values must be Python literals"),
        ("coarse-file(4).size(5)", "its values must be Python literals"),
        ("file:tool.py(size=4)+bare(hand=1)", "its values must be Python literals"),
        ("coarse-file({[]: 4})", "its values must be Python literals"),
        ("coarse-file:{[]}", r"coarsefile.size='{\[\]}' is not allowed"),
        (f"coarse-file:{'-' * 99_999}1", r"coarsefile.size='-+ \.\.\. -+1' is not allowed"),
        (f"coarse-file({'-' * 99_999}1)", "its values must be Python literals"),
        (f"file:{'a' * 999}.py", "tool='file:a+.py' cannot be used"),
        ("file:~no-such-user/tool.py", "there is no file '~no-such-user/tool.py'"),
    ],
)
@pytest.mark.usefixtures("_tools")
def test_a_text_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TOOLS.parse(text)


NO_LITERALS = ("x", "Fraction(1, 20)", "object()", "[1, lambda: 2]", "{1: x}", "1 if x else 2", "-'x'", "x.y", "f'{x}'")


@pytest.mark.parametrize("value", NO_LITERALS)
@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=lambda registry: registry.kind)
def test_no_error_of_a_text_has_the_address_of_an_object(registry: Registry[Any], value: str) -> None:
    for name, entry in registry.items():
        for text in (f"{name}({value})", *(f"{name}({field}={value})" for field in parameters(entry))):
            with pytest.raises(ValueError, match="is not allowed: ") as caught:
                registry.parse(text)
            assert "0x" not in str(caught.value)


@pytest.mark.usefixtures("_tools")
def test_a_name_with_underscores_is_that_with_hyphens() -> None:
    tools: Registry[Tool] = Registry("tool", Tool, joined="handle")
    tools.register(CoarseFile, "round_file")
    assert list(tools) == ["round-file"]
    assert "round_file" in tools
    assert tools.text(tools.parse("round_file:4")) == "round-file(size=4)"


@pytest.mark.parametrize("name", ["", "a b", "a(1)", "a:1", "a+b", "file:a.py"])
def test_a_name_that_no_text_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"name of a tool=.* is not allowed: it must be letters, digits and hyphens"):
        TOOLS.register(bare_hand, name)


class Plain:
    """A class whose values nobody can read back."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> int:
        return self.size


def test_a_class_with_values_that_is_no_dataclass_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tool=<class .*Plain'> is not allowed: it must be a dataclass"):
        TOOLS.register(Plain)
    (tmp_path / "tool.py").write_text("from tests.test_plugins import Plain as tool")
    with pytest.raises(ValueError, match=r"tool=<class .*Plain'> is not allowed: it must be a dataclass"):
        TOOLS.parse(f"file:{tmp_path / 'tool.py'}")


@dataclass(frozen=True)
class Unchecked:
    """A dataclass whose fields nobody checks, with a default that has no textual form."""

    size: int
    shape: Any = Ellipsis

    def __call__(self) -> int:
        return self.size


def test_a_dataclass_without_a_value_for_each_field_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOLS._entries, "unchecked", Unchecked)
    with pytest.raises(ValueError, match=r"it must be unchecked\(size, shape=Ellipsis\), with a value for size"):
        TOOLS.parse("unchecked")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="name of a tool='box' is not allowed"):
        TOOLS.register(lambda: 3, "box")


def test_what_is_not_registered_has_no_textual_form() -> None:
    with pytest.raises(ValueError, match="has no name: register it, or name the file that defines it"):
        TOOLS.text(lambda: 3)


@pytest.mark.parametrize("value", [3, None, True, object()])
def test_what_has_not_the_interface_is_refused(value: Any) -> None:
    with pytest.raises(
        ValueError, match="it must be one of coarse-file, box, kit, bare-hand, or an object with the inter"
    ):
        TOOLS.check(value)


def test_a_class_in_place_of_a_plugin_is_refused() -> None:
    with pytest.raises(ValueError, match="or an object with the interface of a tool"):
        TOOLS.check(TOOLS["box"])


# --- one of each kind, each a file outside of the package ------------------------------------------------------------

IMPORTS = """
import torch
from pydantic import Field
from typing import Annotated, ClassVar
from paramarket_env.validation import configuration
"""

FILES = {
    "dataset": """
from paramarket_env.learning.data.datasets import Dataset

@configuration
class dataset:
    samples: int = 300

    def __call__(self):
        labels = torch.arange(self.samples) % 3
        return Dataset(torch.nn.functional.one_hot(labels, 5).float(), labels, classes=3, official_test=0)
""",
    "network": """
from torch import nn
from paramarket_env.learning.networks.modules import from_module

def tanh(features, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, classes))

network = from_module(tanh)
""",
    "endowment": """
def endowment(pool):
    first = torch.arange(pool.labels.shape[1]) < pool.labels.shape[1] // 2
    return torch.stack([first, *[~first] * (pool.agents - 1)]).expand(len(pool.labels), -1, -1)
""",
    "optimizer": """
@configuration
class optimizer:
    lr: float = 0.1

    def fresh(self, parameters):
        return {}

    def step(self, parameters, gradients, state):
        parameters.sub_(torch.cat(list(gradients), dim=1).sign(), alpha=self.lr)
""",
    "mechanism": """
from paramarket_env.economics.mechanisms import Posted

@configuration
class mechanism(Posted):
    discount: Annotated[int, Field(ge=0)] = 1

    def price(self, book, standing):
        return (book.ask - self.discount).clamp_min(0)
""",
    "aligner": """
def aligner(network, buyers, sellers, start, samples):
    return start
""",
    "merger": """
from paramarket_env.learning.merging import Linear

@configuration
class merger(Linear):
    weights: tuple[float, ...] = (0.5, 1.0)
""",
    "parameter_sets": """
def parameter_sets(network):
    layers = list(dict.fromkeys(spec.layer for spec in network.parameters))
    return {"body": layers[:-1], "head": layers[-1:]}
""",
    "reward_term": """
@configuration
class reward_term:
    tax: float = 0.5

    def __call__(self, outcome):
        return -self.tax * outcome.income.clamp_min(0)
""",
    "scenario": """
from paramarket_env.scenarios import digits

def scenario():
    return digits().changed(agents=3)
""",
    "policy": """
from paramarket_env.interface.policy import Policy

class Trainer(Policy):
    def __init__(self, seat):
        self.seat = seat

    def act(self, observation, mask):
        train = [0, 1] + [0] * (self.seat.actions.mask_size - 2)
        return self.seat.actions.best(torch.tensor(train).expand_as(mask).double())

def policy(seat):
    return Trainer(seat)
""",
    "pricing": """
from paramarket_baselines.policies.pricing import Fixed

pricing = Fixed
""",
}
"""The content of a file that defines a plug-in, for each kind."""


def written(tmp_path: Path, kind: str) -> str:
    """The name of a plug-in that is a file."""
    file = tmp_path / f"{kind}.py"
    file.write_text(IMPORTS + FILES[kind])
    return f"file:{file}"


def test_there_is_a_file_of_each_kind() -> None:
    assert {registry.attribute for registry in REGISTRIES.values()} == set(FILES)


@pytest.mark.parametrize(
    ("kind", "field", "changes"),
    [
        ("dataset", "dataset", {"train_samples": 150, "endowment": "iid"}),
        ("network", "architecture", {}),
        ("endowment", "endowment", {}),
        ("optimizer", "optimizer", {}),
        ("mechanism", "mechanism", {}),
        ("aligner", "aligner", {}),
        ("merger", "merger", {}),
        ("parameter_sets", "parameter_sets", {}),
    ],
)
def test_a_market_plays_with_a_plugin_of_a_file(tmp_path: Path, kind: str, field: str, changes: dict[str, Any]) -> None:
    name = written(tmp_path, kind)
    engine = new_engine(priced_market(**{field: name}, **changes))
    for train in ((0, 1, 2), (0,), ()):
        engine.step(orders(engine, train=train, buy={1: 0}))
    assert bool(engine.state.loss.isfinite().all())
    kept = MarketConfig.from_json(json.dumps(engine.config.to_dict()))
    assert kept == engine.config
    assert name in json.dumps(kept.to_dict())


def test_a_mechanism_of_a_file_sets_the_price(tmp_path: Path) -> None:
    engine = new_engine(priced_market(mechanism=f"{written(tmp_path, 'mechanism')}(discount=4)"))
    assert engine.step(orders(engine, buy={1: 0})).paid.tolist() == [[0, 6, 0]]


def test_a_reward_term_of_a_file_is_part_of_the_reward(tmp_path: Path) -> None:
    name = written(tmp_path, "reward_term")
    taxed, free = (new_engine(priced_market(reward_terms=terms)) for terms in ((f"{name}(tax=0.25)",), ()))
    records = [engine.step(orders(engine, buy={1: 0})) for engine in (taxed, free)]
    lost = records[1].reward - records[0].reward
    assert lost[0].tolist() == pytest.approx([0.25 * 10 * taxed.config.economy.tick, 0, 0])


def test_policies_and_pricing_rules_of_files_play(tmp_path: Path) -> None:
    names = (written(tmp_path, "policy"), f"paper+{written(tmp_path, 'pricing')}")
    steps = play(tiny_market(ask_levels=(0, 10, 20)), Arm("files", names), [0], "cpu").steps
    assert steps[(steps.agent == 0) & (steps.cycle > 0)].trained.all()
    assert steps[steps.agent == 1].ask.tolist()[-1] == 10


def test_the_command_takes_files(tmp_path: Path) -> None:
    options = ["--scenario", written(tmp_path, "scenario"), "--endowment", written(tmp_path, "endowment")]
    options += ["--reward-terms", written(tmp_path, "reward_term"), "train-cost(cost=0.01)"]
    assert main(["run", *SMALL, *options, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["agents"] == 3
    assert config["economy"]["reward_terms"][1] == "train-cost(cost=0.01)"


def test_a_policy_of_a_file_comes_back_with_its_pricing_rule(tmp_path: Path) -> None:
    (tmp_path / "kin.py").write_text(
        "from paramarket_baselines.policies.decisions import Patient\nclass policy(Patient): pass"
    )
    name = f"file:{tmp_path / 'kin.py'}"
    for text in (name, f"{name}(patience=3)", f"{name}(patience=3, pricing='fixed:1')"):
        policy = POLICIES.parse(text)
        for complete in (False, True):
            assert POLICIES.parse(POLICIES.text(policy, complete=complete)) == policy


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_not_there_or_defines_nothing_is_refused(tmp_path: Path, kind: str) -> None:
    registry = next(registry for registry in REGISTRIES.values() if registry.attribute == kind)
    with pytest.raises(ValueError, match=f"{kind}='file:nowhere.py' cannot be used: there is no file 'nowhere.py'"):
        registry.parse("file:nowhere.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=f"the file defines no {kind}"):
        registry.parse(f"file:{tmp_path / 'empty.py'}")


def test_a_file_is_executed_once(tmp_path: Path) -> None:
    name = written(tmp_path, "endowment")
    assert tiny_market(endowment=name) == tiny_market(endowment=name)


@pytest.mark.parametrize("build", [lambda registry: registry.parse("file:x.py(1"), lambda registry: registry.check("")])
def test_a_malformed_file_name_is_refused(build: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"is not allowed|cannot be used"):
        build(next(iter(REGISTRIES.values())))
