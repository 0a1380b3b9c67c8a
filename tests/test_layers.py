"""Arrows point down: which part of the house may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "paramarket_env"

# Parts of the package, from the bottom to the top, each with the other parts that it may import.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "config": set(),
    "seeding": {"config"},
    "scenarios": {"config"},
    "learning": {"config", "seeding"},
    "economics": {"config", "seeding"},
    "market": {"config", "seeding", "learning", "economics"},
    "interface": {"config", "seeding", "learning", "economics", "market", "scenarios"},
}
ALLOWED["paramarket_v0"] = set(ALLOWED)
# The folders around it, each with those that it may import.
HOUSE: dict[str, set[str]] = {
    PACKAGE: {PACKAGE},
    "baselines": {PACKAGE, "baselines"},
    "benchmarks": {PACKAGE, "baselines", "benchmarks"},
    "examples": {PACKAGE, "baselines"},
}
FOLDERS = {*HOUSE, "tests"}


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


def part_of(name: str) -> str:
    """The part of the package that a module's full name is in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def violations(module: str, source: str) -> list[str]:
    """What a module imports although it may not."""
    folder, part = module.split(".", maxsplit=1)[0], part_of(module)
    if folder == PACKAGE and part not in ALLOWED:
        return [f"{module}: no rule says what {part!r} may import"]
    found = []
    for name in imported(module, source):
        target = name.split(".")[0]
        upwards = target in FOLDERS - HOUSE[folder]
        if not upwards and target == folder == PACKAGE:
            upwards = part_of(name) not in ALLOWED[part] | ({part} - {"__init__"})
        if upwards:
            found.append(f"{module} imports {name}")
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module of the house by its full name; an ``__init__`` keeps that name, so that relative imports resolve."""
    files = (file for folder in HOUSE for file in sorted((ROOT / folder).rglob("*.py")))
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts), file) for file in files]


@pytest.mark.parametrize(("module", "file"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down(module: str, file: Path) -> None:
    assert violations(module, file.read_text(encoding="utf-8")) == []


def test_every_module_of_the_package_is_looked_at() -> None:
    parts = {part_of(module) for module, _ in modules() if module.startswith(PACKAGE)}
    assert parts == set(ALLOWED)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paramarket_env.config", "from paramarket_env.seeding import stream"),
        ("paramarket_env.config", "import paramarket_env"),
        ("paramarket_env.seeding", "from paramarket_env.learning import data"),
        ("paramarket_env.scenarios", "from paramarket_env.market.engine import Engine"),
        ("paramarket_env.learning.data", "from paramarket_env.economics.ledger import settle"),
        ("paramarket_env.learning.data", "import paramarket_env.market.engine"),
        ("paramarket_env.learning.data", "from ..market import engine"),
        ("paramarket_env.learning.data", "from .. import market"),
        ("paramarket_env.learning.__init__", "from ..market import engine"),
        ("paramarket_env.learning.data", "from paramarket_env import market"),
        ("paramarket_env.learning.data", "def late():\n    from paramarket_env.market import engine"),
        ("paramarket_env.learning.data", "if TYPE_CHECKING:\n    from paramarket_env.market.state import MarketState"),
        ("paramarket_env.learning.data", "import importlib\nimportlib.import_module('paramarket_env.market')"),
        ("paramarket_env.economics.ledger", "from paramarket_env.learning.networks import Network"),
        ("paramarket_env.market.engine", "from paramarket_env.interface.actions import Actions"),
        ("paramarket_env.market.engine", "from paramarket_env.scenarios import scenario"),
        ("paramarket_env.interface.parallel", "from paramarket_env.paramarket_v0 import env"),
        ("paramarket_env.interface.parallel", "from paramarket_env import __version__"),
        ("paramarket_env.__init__", "from . import paramarket_v0"),
        ("paramarket_env.__init__", "from paramarket_env.config import MarketConfig"),
        ("paramarket_env.paramarket_v0", "from baselines.rules import Hold"),
        ("paramarket_env.interface.render", "import benchmarks.throughput"),
        ("paramarket_env.interface.render", "from tests import helpers"),
        ("paramarket_env.newcomer", "import math"),
        ("baselines.rules", "from benchmarks import leaderboard"),
        ("baselines.rules", "import tests.helpers"),
        ("benchmarks.throughput", "from tests.helpers import tiny_market"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("paramarket_env.config", "from __future__ import annotations\nimport math, torch"),
        ("paramarket_env.seeding", "from paramarket_env.config import require"),
        ("paramarket_env.learning.data", "from . import networks\nfrom ..config import lookup"),
        ("paramarket_env.learning.data", "import paramarket_environment.market"),
        ("paramarket_env.market.engine", "from paramarket_env.economics import ledger"),
        ("paramarket_env.interface.batch", "from paramarket_env.market.engine import Engine"),
        ("paramarket_env.paramarket_v0", "from paramarket_env import __init__, interface, scenarios"),
        ("baselines.play", "from paramarket_env import __version__, paramarket_v0\nfrom baselines.rules import Hold"),
        ("benchmarks.throughput", "import baselines.play, paramarket_env"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, source: str) -> None:
    assert violations(module, source) == []
