"""The benchmark of crowds: its markets, and what it measures in each."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.crowds import ARMS, MEASURES, Crowds, measures
from paramarket_baselines.evaluation.play import play
from paramarket_env.scenarios import scenario

SMALL: dict[str, Any] = {"max_cycles": 3, "validation_samples": 40, "test_samples": 40, "opens_at": 1}


def test_the_series_vary_the_firms_and_the_partners() -> None:
    firms, partners = (list(markets.values()) for _, markets in Crowds().series())
    assert [(market.agents, market.num_partners) for market in firms] == [(6, 4), (16, 4), (64, 4), (256, 4)]
    assert [(market.agents, market.num_partners) for market in partners] == [(64, k) for k in (1, 2, 4, 8, 16)]


def test_the_measures_are_those_of_the_paper_s_rule_in_each_market() -> None:
    market = scenario("crowd-64", agents=6, action_mode="round", **SMALL)
    found = measures("N = 6", market, range(2), "cpu")
    trades = play(market, ARMS[1], range(2), "cpu").trades
    assert found.columns.tolist() == ["seed", *MEASURES, "arm"]
    for _, row in found.iterrows():
        bought = trades[trades.seed == row.seed]
        assert row.purchases == pytest.approx(len(bought) / 6)
        assert row.price == pytest.approx(bought.price.mean())
        assert row.value == pytest.approx(1000 * bought.value.mean())


def test_intervals_need_two_seeds() -> None:
    with pytest.raises(ValueError, match="seeds=1 is not allowed: it must be an integer >= 2"):
        Crowds(seeds=1)
