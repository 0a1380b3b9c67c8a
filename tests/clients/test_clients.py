"""The snippets of docs/clients.md run, play whole episodes, and obey the masks where the page says so."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from paramarket_env.interface.batch import MarketBatch, Transition

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text()
LINES = (Path(__file__).parent / "environments.txt").read_text().splitlines()
ENVIRONMENTS = dict(line.split(maxsplit=1) for line in LINES)
"""The requirements of each client that needs a virtual environment of its own, by its section."""
SNIPPETS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
LEGAL_ONLY = ("PettingZoo", "Gymnasium", "Gymnasium vectors", "CleanRL", "TorchRL", "BenchMARL")
"""The sections whose clients never give an illegal order."""


def modules(code: str) -> set[str]:
    """The top-level packages that the code imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}


def slug(section: str) -> str:
    return section.lower().replace(" ", "-")


def cases() -> list[object]:
    slow = [pytest.mark.slow]
    return [pytest.param(name, id=slug(name), marks=slow if slug(name) in ENVIRONMENTS else []) for name in SNIPPETS]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The numbers of orders, illegal orders and episodes that all markets have met."""
    counted: Counter[str] = Counter()
    step = MarketBatch.step

    def counting(batch: MarketBatch, actions: Tensor) -> Transition:
        chosen = actions if actions.ndim == 3 else actions.unsqueeze(2)
        masks = batch.mask().split(batch.actions.nvec, dim=2)
        for part, mask in zip(chosen.unbind(2), masks, strict=True):
            counted["orders"] += part.numel()
            counted["illegal"] += int((~mask.gather(2, part.unsqueeze(2))).sum())
        transition = step(batch, actions)
        counted["episodes"] += int(transition.record.truncated.sum())
        return transition

    monkeypatch.setattr(MarketBatch, "step", counting)
    return counted


@pytest.mark.filterwarnings("default")  # the clients' own
@pytest.mark.parametrize("section", cases())
def test_the_client_plays_whole_episodes(
    section: str, counts: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = SNIPPETS[section]
    missing = sorted(name for name in modules(code) if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f"{missing} not installed: tests/clients/run.sh {slug(section)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # a module, since some clients pickle its classes
    name = f"client_{slug(section).replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(code)
    importlib.import_module(name)
    assert counts["episodes"] >= 2
    assert counts["orders"] > 0
    if section in LEGAL_ONLY:
        assert counts["illegal"] == 0


def test_the_table_has_the_versions_that_are_run() -> None:
    assert set(ENVIRONMENTS) <= {slug(section) for section in SNIPPETS}
    for requirements in ENVIRONMENTS.values():
        name, version = re.findall(r"^([\w-]+)(?:\[\w+\])?==([\d.]+)", requirements)[0]
        assert f"| {name} {version} |".lower() in PAGE.lower()
