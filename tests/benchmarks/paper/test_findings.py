"""Verdicts are computed from the figures: supported, opposite or not told apart."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest

from benchmarks.paper.experiment import Order
from benchmarks.paper.findings import Finding, _steps
from benchmarks.paper.grouped import Grouped

NOISE = (-0.2, 0.1, 0.3, -0.1)


def table(setting: str, **arms: float) -> pd.DataFrame:
    """Two agents and four seeds with a common effect of the seed, and each arm's mean."""
    rows = [
        {
            "market": setting,
            "arm": arm,
            "seed": seed,
            "agent": agent,
            "test_accuracy": level + 10 * seed + agent + noise,
        }
        for arm, level in arms.items()
        for seed, noise in enumerate(NOISE if arm == "b" else reversed(NOISE))
        for agent in range(2)
    ]
    return pd.DataFrame(rows)


def finding(*tables: pd.DataFrame, arms: Sequence[str] = ("a", "b")) -> Finding:
    order = Order(tuple(arms), "B is better")
    return Finding(order, _steps(order, Grouped.of(pd.concat(tables), ["market"])))


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ((5,), "supported"),
        ((-5,), "not supported, the opposite in 1"),
        ((0,), "not supported"),
        ((5, 4), "supported in all 2 settings"),
        ((5, 0), "supported in 1 of 2 settings"),
        ((5, 0, -5), "supported in 1 of 3 settings, the opposite in 1"),
        ((), "not played"),
    ],
)
def test_a_verdict_counts_the_settings(effects: Sequence[float], verdict: str) -> None:
    tables = [table(f"market {place}", a=50, b=50 + effect) for place, effect in enumerate(effects)]
    empty = table("market", a=50)
    assert finding(*(tables or [empty])).verdict == verdict


def test_a_sentence_has_the_figures_of_the_clearest_setting() -> None:
    found = finding(table("weak", a=50, b=51), table("strong", a=50, b=55))
    assert found.sentence.startswith("B is better: **supported in all 2 settings**. a < b, apart by 5.0 ± ")
    assert found.sentence.endswith("points at the clearest (strong).")


def test_an_order_of_three_needs_both_steps() -> None:
    whole, half = table("whole", a=50, b=55, c=60), table("half", a=50, b=55, c=55)
    found = finding(whole, half, arms=("a", "b", "c"))
    assert found.holds == ["whole"]
    assert found.reversed == []


def test_differences_are_paired_by_seed() -> None:
    # The seeds' effect is far larger than the arms', so unpaired intervals would be wide.
    grouped = Grouped.of(table("market", a=50, b=51), ["market"])
    difference, alone = (
        grouped.difference("market", "b", "a", "test_accuracy"),
        grouped.estimate("market", "a", "test_accuracy"),
    )
    assert difference.high - difference.low < 2 < alone.high - alone.low


def test_figures_of_agents_are_told_apart_by_request() -> None:
    grouped = Grouped.of(table("market", a=50), ["market"], by="agent")
    assert list(grouped.means) == ["market, agent 0", "market, agent 1"]
    means = [grouped.estimate(setting, "a", "test_accuracy").value for setting in grouped.means]
    assert means[1] - means[0] == pytest.approx(1)
