"""The pricing experiment: what its tables and its verdict are made of, on tiny markets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import clearing, pricing
from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.scenarios import scenario
from tests.helpers import tiny_market


def tiny(name: str) -> MarketConfig:
    """The scenario of that name with tiny networks and few levels."""
    economy = replace(scenario(name).economy, ask_levels=(1, 5, 20), initial_ask=1)
    return replace(tiny_market(max_cycles=3, agents=2), economy=economy)


def seats(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame([{"arm": arm, "seed": 0, "revenue": revenue, "advantage": 0.0} for arm, revenue in rows])


def test_the_median_and_the_best_fixed_price_are_found_by_their_revenue() -> None:
    alone = seats(("fixed:0", 5), ("fixed:1", 9), ("fixed:2", 7), ("bayesian", 100))
    assert pricing.median_fixed(alone) == "fixed:2"
    assert pricing.best_fixed(alone) == "fixed:1"


def test_the_experiment_prints_every_rule_and_mechanism_and_keeps_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pricing, "scenario", tiny)
    monkeypatch.setenv("COLUMNS", "200")  # so that no name is cut
    arguments = ["pricing", "--agents", "2", "--seeds", "2", "--out", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", arguments)
    pricing.main()
    printed = capsys.readouterr().out
    for name in (*pricing.RULES, *MECHANISMS, "out of market", "rival-aware", "fixed, median", "viable", "nats"):
        if name != "posted":  # the one in which all rules are compared
            assert name in printed
    kept = json.loads((tmp_path / "pricing.json").read_text())
    assert kept["seeds"] == [0, 1]
    assert set(kept["2 agents"]["alone"]) == {"fixed:0", "fixed:1", "fixed:2", *pricing.RULES}
    assert (tmp_path / "pricing-2.png").read_bytes().startswith(b"\x89PNG")


def test_a_price_path_is_that_of_the_last_seller_of_the_first_market() -> None:
    batch = MarketBatch(tiny("private-values"), 2, "cpu")
    batch.reset(batch.next_seeds(5))
    path = pricing.PricePath()
    path(batch, None)
    for action in (1, 1, 2):  # train, train, buy
        path(batch, batch.step(batch.mask().new_full((2, 2), action, dtype=int)).record)
    assert path.asks == [5.0] * 4
    worth = batch.engine.state.kappa[0, 0] * 1000
    assert np.shape(path.values) == (4, 1)
    assert path.values[-1] == [0.0]  # closed
    assert all(0 <= value <= float(worth) * 10 for [value] in path.values)
    assert path.sales in ([], [(2, 5.0)])


def test_the_clearing_benchmark_times_every_phase() -> None:
    options = clearing.Clearing(num_markets=2, agents=2, steps=1, device="cpu")
    for mechanism in MECHANISMS:
        market = tiny("private-values")
        config = replace(market, economy=replace(market.economy, mechanism=mechanism))
        seconds = clearing.measure(config, options)
        assert set(seconds) == {"clear", "settle", "merge", "rest"}
        assert min(seconds.values()) > 0
