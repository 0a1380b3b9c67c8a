"""README and the site keep their word: their code runs, their tables are the code's, their links lead somewhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pettingzoo
import pytest

from paramarket_baselines.evaluation.merge_curves import COLUMNS
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.evaluation.report import MEASURES
from paramarket_baselines.evaluation.statistics import MEANS
from paramarket_baselines.evaluation.welfare import WELFARE
from paramarket_env import paramarket_v0
from paramarket_env.config import MarketConfig
from paramarket_env.interface.infos import info_table
from paramarket_env.scenarios import SCENARIOS
from tests.helpers import tiny_market

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
EXTRAS = ("ray", "sb3_contrib", "torchrl")
"""Snippets may import these modules although they need not be installed."""


def snippets() -> Iterator[object]:
    """Every piece of Python on the pages, once."""
    seen = set()
    for page in [page for page in PAGES if page.name != "clients.md"]:  # tests/clients runs these
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            if code not in seen:
                seen.add(code)
                yield pytest.param(code, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("code", list(snippets()))
def test_the_code_on_the_pages_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in EXTRAS:
        if f"from {module}" in code:
            pytest.importorskip(module)
    if "pettingzoo.make" in code and not hasattr(pettingzoo, "make"):
        pytest.skip("PettingZoo has had a registry since 1.27")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "page", "exec", dont_inherit=True), names)
    if "market" in names:
        play_a_step(names["market"])


def play_a_step(market: MarketConfig) -> None:
    """Whatever a page puts into a market can be played."""
    env = paramarket_v0.parallel_env(market, device="cpu")
    _, infos = env.reset(seed=0)
    env.step({agent: env.action_space(agent).sample(infos[agent]["action_mask"]) for agent in env.agents})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        if target != "results/leaderboard.md":
            assert (page.parent / target).exists(), target


def test_readme_is_short_and_begins_with_the_environment() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    titles = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert titles[:3] == ["Words", "Scenarios", "Plug in an agent"]


def test_the_table_of_scenarios_is_made_of_their_docstrings() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", README.read_text().split("## Scenarios")[1], re.MULTILINE)
    first_lines = {name: (inspect.getdoc(SCENARIOS[name]) or "").splitlines()[0] for name in SCENARIOS}
    known = {name: line for name, line in first_lines.items() if name.startswith("known-")}
    whole = {name: line for name, line in first_lines.items() if not name.endswith("-short") and name not in known}
    assert dict(rows[: len(whole)]) == whole
    page = (DOCS / "known-answers.md").read_text()
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE)) == known


def test_the_table_of_observations_is_the_layout_of_the_default_market() -> None:
    assert paramarket_v0.parallel_env(device="cpu").layout.table() in (DOCS / "environment.md").read_text()


def test_every_argument_is_on_the_page_of_the_environment() -> None:
    page = paramarket_v0.__doc__ or ""
    for factory in ("parallel_env", "gym_env", "vector_env", "sb3_vec_env", "torchrl_env", "rllib_env"):
        assert f"`{factory}(" in page or f"`{factory}`" in page
        for name in inspect.signature(getattr(paramarket_v0, factory)).parameters:
            assert f"`{name}`" in page or f"`**{name}`" in page


def test_the_table_of_infos_is_the_interfaces() -> None:
    assert info_table() in (DOCS / "metrics.md").read_text()


def test_every_figure_is_on_the_page_of_metrics() -> None:
    page = (DOCS / "metrics.md").read_text()
    market = tiny_market(max_cycles=2)
    played = play(market, Arm("greedy", ("greedy",)), [0], "cpu")
    env = paramarket_v0.parallel_env(market, device="cpu")
    infos = env.reset(seed=0)[1]["trader_0"]
    labels = [measure.label for measure in (*MEASURES.values(), *WELFARE.values())]
    columns = [name for table in vars(played).values() for name in table.columns]
    for name in (*labels, *MEANS.values(), *infos, *columns, *COLUMNS):
        assert f"`{name}`" in page, name


def test_the_table_of_plug_ins_names_files_that_exist() -> None:
    table = re.findall(r"^\| [\w-]+ ?\w* \|.*\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    paths = re.findall(r"`([\w/]+\.py)`", "\n".join(table))
    assert len(paths) == 2 * 11
    for path in paths:
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=lambda page: page.stem)
def test_the_api_pages_name_modules_that_exist(page: Path) -> None:
    for module in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE):
        import_module(module)


def test_every_package_is_on_an_api_page() -> None:
    named = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    for folder in ("paramarket_env", "baselines/paramarket_baselines"):
        for path in (ROOT / folder).iterdir():
            private = path.stem.startswith("_") or path.suffix in (".typed", ".pyc") or path.stem == "cli"
            assert private or f"::: {path.parent.name}.{path.stem}" in named, path
