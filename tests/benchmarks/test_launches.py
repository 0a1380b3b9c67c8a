"""The counts of what a step asks of a GPU."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from benchmarks.claimed_cuda import compiler_is_missing
from benchmarks.launches import Launches, run

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or compiler_is_missing(), reason="only without a GPU, and with a C++ compiler"
)


def test_the_counts_do_not_depend_on_the_number_of_markets() -> None:
    out = io.StringIO()
    found = run(Launches(scenarios=("three-firms",), num_markets=(2, 3)), Console(file=out, width=100))
    two, three = found.values()
    assert two == three
    assert 0 < two["waits"] <= 4
    assert two["copies"] <= 2
    assert "three-firms, M = 2" in out.getvalue()
    assert all(place in out.getvalue() for place in two["places"])


def test_a_number_of_markets_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_markets.*at least 1"):
        Launches(num_markets=(0,))
