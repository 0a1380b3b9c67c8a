"""The benchmark of batching times both ways for every architecture that is made of a module."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks import batching
from paramarket_env.learning.networks.network import ARCHITECTURES
from tests.helpers import new_engine, tiny_market


def test_every_architecture_of_a_module_is_timed() -> None:
    new_engine(tiny_market())  # imports all architectures
    assert {text.partition("(")[0] for text, _ in batching.CASES} == set(ARCHITECTURES) - {"mlp", "known-loss"}


def test_the_table_has_a_row_for_each_case_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CASES", (("cnn(channels=(2, 2), hidden=4)", (1, 8, 8)),))
    out = io.StringIO()
    options = batching.Batching(device="cpu", networks=2, batches=(3, 5000), repeats=1)
    found = batching.run(options, Console(file=out, width=120))
    assert len(found) == 2
    assert all(seconds > 0 for taken in found.values() for seconds in taken.values())
    rows = [line.split() for line in out.getvalue().splitlines() if "cnn" in line]
    assert [row[-1] for row in rows] == ["vmap", "loop"]
    assert [row[-2] for row in rows][1] == "1.00"  # the loop, compared with itself
