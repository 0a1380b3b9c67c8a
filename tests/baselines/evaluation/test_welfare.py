"""The measures of a market against hand-made episodes and what the engine says."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paramarket_baselines.evaluation.play import Arm, Episode, closed, play
from paramarket_baselines.evaluation.welfare import WELFARE, gini, hindsight_revenue, returns, welfare
from paramarket_env.config import EconomyConfig
from paramarket_env.economics.clearing import REFUSALS
from tests.helpers import priced_market

ECONOMY = EconomyConfig(ask_levels=(100, 200, 400), budget=1000, tick=0.001, broker_fee=0.1)


# --- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [([5, 5, 5], 0.0), ([0, 0, 9], 2 / 3), ([0, 1], 1 / 2), ([1, 3], 1 / 4), ([0, 0], 0.0), ([7], 0.0)],
)
def test_the_gini_coefficient(amounts: list[int], expected: float) -> None:
    assert gini(np.array(amounts)) == pytest.approx(expected)


@given(arrays(np.int64, st.integers(1, 8), elements=st.integers(0, 10**6)))
def test_the_gini_coefficient_is_half_the_mean_difference_over_the_mean(amounts: np.ndarray) -> None:
    mean = amounts.mean()
    expected = np.abs(amounts[:, None] - amounts).mean() / (2 * mean) if mean > 0 else 0.0
    assert gini(amounts) == pytest.approx(expected)


def test_the_best_fixed_price_in_hindsight() -> None:
    values = np.array([[0.15, 0.30], [0.25, 0.45], [0.0, 0.41]])
    # 100 ticks sell five times, 200 four times, 400 twice.
    assert hindsight_revenue(values, EconomyConfig(ask_levels=(100, 200, 400))) == 800
    assert hindsight_revenue(values, EconomyConfig(ask_levels=(100, 450))) == 500
    assert hindsight_revenue(values, EconomyConfig(ask_levels=(450,))) == 450  # a value of exactly the price buys
    assert hindsight_revenue(np.zeros((0, 2)), EconomyConfig(ask_levels=(100,))) == 0


# --- an episode made by hand ----------------------------------------------------------------------------------------


def episode(arm: str, rewards: list[list[float]], *, trades: bool) -> Episode:
    """Two agents, one seed, two cycles and the start; agent 0 buys from agent 1 for 200 ticks in the first."""
    rows = []
    for cycle in range(3):
        for agent in range(2):
            bought, sold = (trades and cycle == 1 and agent == who for who in (0, 1))
            rows.append(
                {
                    "arm": arm,
                    "seed": 3,
                    "cycle": cycle,
                    "agent": agent,
                    "best_value": [[0.3, 0.1], [0.2, 0.0], [0.0, 0.0]][cycle][agent] if trades else 0.0,
                    "paid": 200 if bought else 0,
                    "received": 180 if sold else 0,
                    "balance": [800, 1180][agent] if trades and cycle > 0 else 1000,
                    "reward": rewards[agent][cycle],
                    "refused": 3 * agent * cycle,
                    **{f"refused_{cause}": agent * cycle for cause in REFUSALS},
                }
            )
    bought_rows = [{"arm": arm, "seed": 3, "cycle": 1, "buyer": 0, "seller": 1, "price": 200, "value": 0.3}]
    bought_table = pd.DataFrame(bought_rows if trades else [], columns=list(bought_rows[0]))
    return Episode(pd.DataFrame(rows), bought_table, classes=pd.DataFrame(), confusions=pd.DataFrame())


def test_measures_of_a_market_by_hand() -> None:
    outside = episode("out", [[0, 0.5, 0.5], [0, 0.4, 0.4]], trades=False)
    inside = episode("in", [[0, 0.9, 0.4], [0, 0.5, 0.2]], trades=True)
    table = welfare([outside, inside], ECONOMY).set_index("arm")
    found = table.loc["in"]
    assert found.efficiency == pytest.approx(100 * 0.3 / 0.6)
    assert found.buyers_share == pytest.approx(100 * 0.1 / 0.3)
    assert found.sellers_share == pytest.approx(100 * 0.18 / 0.3)
    assert found.revenue == 90
    assert found.omniscient_share == pytest.approx(100 * 0.2 / 0.6)
    assert found.regret == (400 - 200) / 2  # 200 ticks would have sold twice
    assert found.gini == pytest.approx((1180 - 800) / (2 * 1980))
    assert found.advantage == pytest.approx((0.3 - 0.1) / 2)
    assert found.better_off == 50
    assert found.refused == 3
    assert found.refused_underbid == 1
    alone = table.loc["out"]
    assert (alone.advantage, alone.better_off, alone.revenue, alone.gini) == (0, 0, 0, 0)
    assert math.isnan(alone.efficiency)
    assert math.isnan(alone.sellers_share)


# --- episodes that were played --------------------------------------------------------------------------------------


def test_measures_of_a_played_market_add_up() -> None:
    config = priced_market(action_mode="round", broker_fee=0.2, kappa=5.0, budget=200)
    arms = [Arm("out", ("train",), closed), Arm("in", ("paper+fixed:1",))]
    episodes = [play(config, arm, (0, 1), "cpu") for arm in arms]
    table = welfare(episodes, config.economy).set_index(["arm", "seed"])
    assert set(WELFARE) <= set(table.columns)
    for seed in (0, 1):
        row, trades = table.loc[("in", seed)], episodes[1].trades[episodes[1].trades.seed == seed]
        assert len(trades) > 0
        fees = 0.2 * trades.price.sum()  # the prices of 10 ticks leave no rounding
        assert row.revenue * 3 == pytest.approx(trades.price.sum() - fees)
        kept = 100 * fees * config.economy.tick / trades.value.sum()
        assert row.buyers_share + row.sellers_share + kept == pytest.approx(100)
        assert 0 < row.efficiency <= 100 + 1e-6
        last = episodes[1].steps[(episodes[1].steps.seed == seed) & (episodes[1].steps.cycle == config.max_cycles + 1)]
        assert last.balance.sum() == 600 - fees
        gains = returns(episodes[1])[seed] - returns(episodes[0])[seed]
        assert row.advantage == pytest.approx(gains.mean())


def test_a_purchase_is_never_worth_more_than_the_best_offer_that_stood() -> None:
    config = priced_market(action_mode="round", kappa=5.0)
    played = play(config, Arm("greedy", ("greedy",)), (0, 1), "cpu")
    stood = played.steps.assign(cycle=played.steps.cycle + 1).set_index(["seed", "cycle", "agent"]).best_value
    for trade in played.trades.itertuples():
        assert trade.value == pytest.approx(stood[(trade.seed, trade.cycle, trade.buyer)])  # greedy takes the best
