"""Arrows point down: which part of the house may import which, from the folders to the modules of a wing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The parts of each package, from the bottom to the top, each with the other parts of it that it may import.
LAYERS: dict[str, dict[str, set[str]]] = {
    "": {
        "paramarket_env": set(),
        "paramarket_baselines": {"paramarket_env"},
        "benchmarks": {"paramarket_env", "paramarket_baselines"},
        "examples": {"paramarket_env", "paramarket_baselines"},
        "tests": {"paramarket_env", "paramarket_baselines", "benchmarks", "examples"},
    },
    "paramarket_env": {
        "__init__": set(),
        "validation": set(),
        "autograd": set(),
        "files": set(),
        "plugins": {"validation", "files"},
        "seeding": {"validation"},
        "economics": {"validation", "plugins", "seeding"},
        "learning": {"validation", "autograd", "files", "plugins", "seeding"},
        "config": {"validation", "plugins", "economics", "learning"},
        "scenarios": {"plugins", "economics", "learning", "config"},
        "known_answers": {"economics", "learning", "config", "scenarios"},
        "market": {"validation", "autograd", "files", "plugins", "seeding", "economics", "learning", "config"},
        "interface": {"validation", "plugins", "seeding", "economics", "learning", "config", "market"},
        "adapters": {
            "validation",
            "autograd",
            "plugins",
            "seeding",
            "economics",
            "learning",
            "config",
            "market",
            "interface",
        },
        "paramarket_v0": {"config", "scenarios", "interface", "adapters"},
    },
    "paramarket_env.economics": {
        "__init__": set(),
        "ledger": set(),
        "kappa": set(),
        "pricing": set(),
        "rewards": set(),
        "clearing": set(),
        "mechanisms": {"clearing", "ledger"},
    },
    "paramarket_env.learning": {
        "__init__": set(),
        "memory": set(),
        "kernels": set(),
        "networks": {"memory"},
        "data": {"memory"},
        "activations": {"networks"},
        "alignment": {"kernels", "networks", "activations"},
        "heads": {"networks"},
        "parameter_sets": {"networks", "heads"},
        "statistics": {"memory", "networks", "data"},
        "training": {"kernels", "networks", "data"},
        "evaluation": {"memory", "kernels", "networks", "data"},
        "bounds": {"memory", "networks", "data", "training"},
        "trials": {"memory", "kernels", "networks", "data", "alignment", "evaluation", "statistics"},
        "merging": {
            *("memory", "networks", "data", "alignment", "evaluation"),
            *("parameter_sets", "statistics", "trials"),
        },
        "mergers": {"memory", "networks", "data", "heads", "activations", "parameter_sets", "trials", "merging"},
        "curves": {"memory", "networks", "data", "evaluation", "merging", "statistics"},
        "stubs": {"networks", "data", "training"},
    },
    "paramarket_env.learning.kernels": {
        "__init__": set(),
        "build": set(),
        "selection": {"build"},
        "compiled": {"build"},
        "triton_shapes": set(),
        "triton_mlp": set(),
        "triton_training": {"compiled", "triton_mlp", "triton_shapes"},
        "triton_trials": {"triton_mlp", "triton_shapes"},
        "triton_assignment": set(),
        "triton_matching": {"triton_assignment", "triton_shapes"},
        "triton_kernels": {"triton_training", "triton_trials", "triton_assignment", "triton_matching"},
    },
    "paramarket_env.learning.networks": {
        "__init__": set(),
        "network": set(),
        "mlp": {"network"},
        "units": {"network"},
        "labels": {"units"},
        "operations": {"units", "labels"},
        "batch_norm": set(),
        "derive": {"network", "batch_norm", "units", "labels", "operations"},
        "inspection": {"network", "batch_norm", "derive"},
        "modules": {"network", "batch_norm", "derive", "inspection"},
        "convolutional": {"network", "modules"},
        "transformer": {"network", "modules", "convolutional"},
    },
    "paramarket_env.learning.data": {
        "__init__": set(),
        "idx": set(),
        "augmentation": set(),
        "datasets": {"idx", "augmentation"},
        "images": {"augmentation", "datasets"},
        "endowments": {"datasets"},
        "tasks": {"augmentation", "datasets", "endowments"},
        "scarcity": {"endowments", "tasks"},
    },
    "paramarket_env.learning.alignment": {
        "__init__": set(),
        "permutations": set(),
        "aligner": {"permutations"},
        "inner_products": {"permutations"},
        "assignment": set(),
        "weight_matching": {"permutations", "aligner", "inner_products", "assignment"},
        "frank_wolfe": {"permutations", "aligner", "inner_products", "assignment", "weight_matching"},
        "restarts": {"permutations", "aligner", "inner_products", "assignment", "weight_matching"},
        "activation_matching": {"aligner", "assignment"},
    },
    "benchmarks.leaderboard": {
        "__init__": set(),
        "entries": set(),
        "fingerprints": {"entries"},
        "venue": {"entries", "fingerprints"},
        "plays": {"fingerprints", "venue"},
        "boards": {"entries", "plays", "venue"},
        "pictures": {"boards", "entries", "plays"},
        "page": {"boards", "pictures"},
        "__main__": {"boards", "entries", "page", "pictures", "plays", "venue"},
    },
    "benchmarks.paper": {
        "__init__": set(),
        "cells": set(),
        "grouped": set(),
        "store": {"cells"},
        "experiment": {"cells", "grouped"},
        "findings": {"experiment", "grouped"},
        "markets": set(),
        "trading": {"cells", "experiment", "markets"},
        "sweeps": {"cells", "experiment", "grouped", "markets", "trading"},
        "merging": {"cells", "experiment", "grouped", "markets"},
        "economy": {"cells", "experiment"},
        "cifar": {"cells", "experiment", "markets", "trading"},
        "experiments": {"experiment", "trading", "sweeps", "merging", "economy", "cifar"},
        "page": {"experiment", "findings", "grouped"},
        "pictures": {"experiment", "findings", "grouped", "page"},
        "__main__": {"cells", "experiments", "page", "pictures", "store"},
    },
    "paramarket_env.learning.mergers": {
        "__init__": set(),
        "spherical": set(),
        "fisher": set(),
        "regmean": set(),
        "pleas": set(),
        "task_vectors": set(),
        "best_of": {"fisher", "pleas"},
    },
    "paramarket_env.market": {
        "__init__": set(),
        "host": set(),
        "devices": set(),
        "orders": set(),
        "meetings": set(),
        "state": {"meetings"},
        "snapshot": {"state"},
        "capacity": set(),
        "broker": {"host", "meetings", "state"},
        "exchange": {"broker", "meetings", "orders", "state"},
        "view": {"broker", "exchange", "state"},
        "engine": {"broker", "capacity", "devices", "exchange", "host", "orders", "snapshot", "state", "view"},
        "saved": {"engine", "meetings", "state"},
    },
    "paramarket_env.interface": {
        "__init__": set(),
        "tables": set(),
        "actions": set(),
        "observations": {"tables"},
        "infos": {"tables"},
        "batch": {"actions", "observations", "infos"},
        "pictures": set(),
        "render": {"batch", "infos", "pictures"},
        "policy": {"actions", "observations", "batch"},
    },
    "paramarket_env.adapters": {
        "__init__": set(),
        "face": set(),
        "opponents": set(),
        "autoreset": set(),
        "pettingzoo": {"face"},
        "gymnasium": {"face", "opponents", "autoreset", "pettingzoo"},
        "sb3": {"face", "opponents", "autoreset"},
        "torchrl": {"face", "autoreset"},
        "rllib": {"face"},
    },
    "paramarket_baselines.evaluation": {
        "__init__": set(),
        "names": set(),
        "display": {"names"},
        "estimates": set(),
        "results": set(),
        "federated": set(),
        "classes": set(),
        "play": {"classes", "federated"},
        "report": {"display", "estimates", "names", "play"},
        "merge_curves": {"names", "report"},
        "welfare": {"play", "report"},
        "trainings": {"estimates"},
        "matches": set(),
        "protocol": {"estimates", "trainings"},
        "statistics": {"display", "estimates", "play", "trainings", "welfare"},
    },
    "paramarket_baselines": {
        "__init__": set(),
        "policies": set(),
        "evaluation": {"policies"},
        "games": {"evaluation"},
        "training": {"policies", "evaluation"},
        "checks": {"policies", "evaluation"},
        "process": set(),
        "plugin_options": set(),
        "commands": {"policies", "evaluation", "training", "checks"},
        "cli": {"plugin_options", "evaluation", "training", "commands"},
        "__main__": {"process", "cli"},
    },
    "paramarket_baselines.commands": {
        "__init__": set(),
        "options": set(),
        "run": {"options"},
        "evaluate": {"options"},
        "train": {"options"},
        "check": set(),
    },
    "paramarket_baselines.games": {
        "__init__": set(),
        "payoffs": set(),
        "profiles": {"payoffs"},
        "equilibria": {"payoffs"},
        "ratings": {"payoffs"},
    },
    "paramarket_baselines.checks": {
        "check": set(),
        "markets": {"check"},
        "play": set(),
        "policy": {"check", "markets", "play"},
        "pricing": {"check", "markets", "play"},
        "mechanism": {"check"},
        "network": {"check"},
        "__init__": {"check", "policy", "pricing", "mechanism", "network"},
    },
    "paramarket_baselines.policies": {
        "__init__": set(),
        "pricing": set(),
        "best_action": set(),
        "history": set(),
        "mixed": set(),
        "learned": {"history", "mixed"},
        "saving": {"history", "learned"},
        "zipped": {"learned"},
        "decisions": {"pricing"},
        "varied": {"decisions", "pricing"},
        "registered": {"decisions", "learned", "varied", "zipped"},
    },
    "paramarket_baselines.policies.pricing": {
        "rule": set(),
        "simple": {"rule"},
        "bayesian": {"rule"},
        "adaptive": {"rule"},
        "__init__": {"rule", "simple", "bayesian", "adaptive"},
    },
}


def imported(module: str, source: str) -> list[str]:
    """The full names of all that a module imports, wherever in it the import stands."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names += [str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return names


def place(name: str) -> list[tuple[str, str]]:
    """Every package of the house that a full name is in, and the part of that package that it is in."""
    parts = name.split(".")
    places = [(".".join(parts[:depth]), part) for depth, part in enumerate(parts)]
    if name in LAYERS:  # a package by itself is its ``__init__``
        places.append((name, "__init__"))
    return [(package, part) for package, part in places if package in LAYERS]


def violations(module: str, source: str) -> list[str]:
    """The imports of a module that the rules do not allow."""
    own = place(module)
    unknown = [
        f"{package}: no rule says what {part!r} may import" for package, part in own if part not in LAYERS[package]
    ]
    if unknown:
        return unknown
    found = []
    for name in imported(module, source):
        theirs = dict(place(name))
        for package, part in own:
            target = theirs.get(package)
            if target is None or (package == "" and target not in LAYERS[""]):
                break  # of another wing, which the package above has checked, or no part of the house
            if target == part:
                continue
            # A name of a package that is no part of it was imported from its ``__init__``.
            if (target if target in LAYERS[package] else "__init__") not in LAYERS[package][part]:
                found.append(f"{module} imports {name}")
            break
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module of the house by its full name; an ``__init__`` keeps that name, so that relative imports resolve."""
    folders = {package: ROOT for package in LAYERS[""] if package != "tests"}
    folders["paramarket_baselines"] /= "baselines"
    files = [(file, root) for package, root in folders.items() for file in sorted((root / package).rglob("*.py"))]
    return [(".".join(file.relative_to(root).with_suffix("").parts), file) for file, root in files]


@pytest.mark.parametrize(("module", "file"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down(module: str, file: Path) -> None:
    assert violations(module, file.read_text(encoding="utf-8")) == []


def test_the_rules_name_every_part_that_there_is_and_no_other() -> None:
    there: dict[str, set[str]] = {package: set() for package in LAYERS}
    for module, _ in modules():
        for package, part in place(module):
            there[package].add(part)
    assert there | {"": there[""] | {"tests"}} == {package: set(parts) for package, parts in LAYERS.items()}


def test_every_package_of_several_modules_has_rules() -> None:
    folders = {module.rsplit(".", 1)[0] for module, _ in modules()}
    flat = {"benchmarks", "examples", "paramarket_baselines.training"}
    assert folders - flat == set(LAYERS) - {""}


@pytest.mark.parametrize("package", LAYERS)
def test_no_two_parts_may_import_each_other(package: str) -> None:
    rules = LAYERS[package]
    order = list(rules)
    assert all(order.index(below) < order.index(part) for part, allowed in rules.items() for below in allowed)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paramarket_env.config", "from paramarket_env.scenarios import scenario"),
        ("paramarket_env.validation", "import paramarket_env"),
        ("paramarket_env.seeding", "from paramarket_env.learning import data"),
        ("paramarket_env.scenarios", "from paramarket_env.market.engine import Engine"),
        ("paramarket_env.learning.memory", "from paramarket_env.economics.ledger import settle"),
        ("paramarket_env.learning.memory", "import paramarket_env.market.engine"),
        ("paramarket_env.learning.memory", "from ..market import engine"),
        ("paramarket_env.learning.memory", "from .. import market"),
        ("paramarket_env.learning.__init__", "from ..market import engine"),
        ("paramarket_env.learning.memory", "from paramarket_env import market"),
        ("paramarket_env.learning.memory", "def late():\n    from paramarket_env.market import engine"),
        ("paramarket_env.learning.memory", "if TYPE_CHECKING:\n    from paramarket_env.market import state"),
        ("paramarket_env.learning.memory", "import importlib\nimportlib.import_module('paramarket_env.market')"),
        ("paramarket_env.learning.memory", "from paramarket_env.learning.trials import try_merges"),
        ("paramarket_env.learning.networks.network", "from paramarket_env.learning.networks.mlp import MLP"),
        ("paramarket_env.learning.networks.network", "from paramarket_env.learning.training import train"),
        ("paramarket_env.learning.networks.network", "from paramarket_env.learning import data"),
        ("paramarket_env.economics.ledger", "from paramarket_env.learning.networks.network import Network"),
        ("paramarket_env.economics.ledger", "from . import clearing"),
        ("paramarket_env.market.state", "from paramarket_env.market.engine import Engine"),
        ("paramarket_env.market.engine", "from paramarket_env.interface.actions import Actions"),
        ("paramarket_env.market.engine", "from paramarket_env.scenarios import scenario"),
        ("paramarket_env.interface.batch", "from paramarket_env.interface.policy import Policy"),
        ("paramarket_env.interface.batch", "from paramarket_env.adapters.sb3 import ParaMarketVecEnv"),
        ("paramarket_env.adapters.pettingzoo", "from paramarket_env.paramarket_v0 import env"),
        ("paramarket_env.adapters.pettingzoo", "from paramarket_env import __version__"),
        ("paramarket_env.__init__", "from . import paramarket_v0"),
        ("paramarket_env.__init__", "from paramarket_env.validation import require"),
        ("paramarket_env.learning.memory", "from paramarket_env.config import MarketConfig"),
        ("paramarket_env.paramarket_v0", "from paramarket_baselines.policies.decisions import Hold"),
        ("paramarket_env.interface.render", "import benchmarks.throughput"),
        ("paramarket_env.interface.render", "from tests import helpers"),
        ("paramarket_env.newcomer", "import math"),
        ("paramarket_env.market.newcomer", "import math"),
        ("paramarket_baselines.policies.pricing.rule", "from paramarket_baselines.policies.decisions import Hold"),
        ("paramarket_baselines.policies.pricing.rule", "from paramarket_baselines.policies.pricing import Fixed"),
        ("paramarket_baselines.policies.learned", "from paramarket_baselines.policies.decisions import POLICIES"),
        ("paramarket_baselines.policies.decisions", "from paramarket_baselines.evaluation import play"),
        ("paramarket_baselines.policies.decisions", "from paramarket_baselines import cli"),
        ("paramarket_baselines.evaluation.play", "from paramarket_baselines.training.sb3 import learn"),
        ("paramarket_baselines.evaluation.play", "from paramarket_baselines.evaluation.report import summarise"),
        ("paramarket_baselines.evaluation.display", "from paramarket_baselines.evaluation import estimates"),
        ("paramarket_baselines.policies.decisions", "from benchmarks import leaderboard"),
        ("paramarket_baselines.policies.decisions", "import tests.helpers"),
        ("benchmarks.throughput", "from tests.helpers import tiny_market"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paramarket_env.config", "from __future__ import annotations\nimport math, torch"),
        ("paramarket_env.seeding", "from paramarket_env.validation import require"),
        ("paramarket_env.learning.training", "from . import networks\nfrom ..validation import lookup"),
        ("paramarket_env.learning.training", "from paramarket_env.learning.data.datasets import Dataset"),
        ("paramarket_env.learning.networks.mlp", "from . import network"),
        ("paramarket_env.learning.memory", "import paramarket_environment.market"),
        ("paramarket_env.market.engine", "from paramarket_env.economics import ledger"),
        ("paramarket_env.interface.batch", "from paramarket_env.market.engine import Engine"),
        ("paramarket_env.paramarket_v0", "from paramarket_env import adapters, interface, scenarios"),
        (
            "paramarket_baselines.evaluation.play",
            "import paramarket_env\nfrom paramarket_baselines.policies import pricing",
        ),
        ("benchmarks.throughput", "import paramarket_baselines.evaluation.play, paramarket_env"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, source: str) -> None:
    assert violations(module, source) == []
