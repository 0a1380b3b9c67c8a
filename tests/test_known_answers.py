"""Scenarios with a known answer: in the real engine no deviation from theory's answer pays, and other rules lose."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from benchmarks.scripts import BUY, HOLD, TRAIN, asks, played, script
from examples.own_mechanism import FirstPrice
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.scenarios import scenario
from tests.known import grid, midpoints

# --- the posted price -------------------------------------------------------------------------------------------------

POSTED = scenario("known-posted-price")
CASES: dict[str, tuple[dict[str, Any], Any, int]] = {
    "uniform": ({}, stats.uniform(0, 1), 3),
    "no low values": ({"kappa": (0.0, 0.7)}, stats.uniform(0.7, 0.3), 4),
    "no high values": ({"kappa_high": (0.0, 0.3)}, stats.uniform(0, 0.3), 1),
    "log-uniform": (
        {"kappa_distribution": "log-uniform", "kappa": (1e-6, 0.05), "kappa_high": (1e-6, 1.0)},
        stats.loguniform(0.05, 1),
        2,
    ),
}
"""Distributions of the buyer's kappa, each with the level of the best price."""
DISTRIBUTIONS = pytest.mark.parametrize(("changes", "values", "best"), CASES.values(), ids=CASES)


def chance_of_at_least(values: Any, price: float) -> float:
    """The probability that a value is at least the price, by integration of its density."""
    low, high = values.support()
    return float(integrate.quad(values.pdf, max(price, low), high)[0]) if price < high else 0.0


@DISTRIBUTIONS
def test_the_best_posted_price_is_myersons(changes: dict[str, Any], values: Any, best: int) -> None:
    config = POSTED.changed(**changes)
    prices = np.array(config.economy.ask_levels) * config.economy.tick
    expected = [price * chance_of_at_least(values, price) for price in prices]
    ask, value = grid(asks(config, *range(len(prices))), values.ppf(midpoints(600)))
    sells = script(np.stack([np.full_like(ask, TRAIN), ask, np.full_like(ask, HOLD)], axis=1).astype(int))
    earned = played(config, (sells, "paper"), len(ask), (0.0, value))[:, 0].reshape(len(prices), -1).mean(1)
    assert earned == pytest.approx(expected, abs=1 / 600)
    assert earned.argmax() == np.argmax(expected) == best
    assert np.sort(expected)[-1] - np.sort(expected)[-2] > 2 / 600  # so another price does lose


@DISTRIBUTIONS
def test_values_are_drawn_from_the_known_distribution(changes: dict[str, Any], values: Any, best: int) -> None:
    batch = MarketBatch(POSTED.changed(**changes), 3000, "cpu")
    batch.reset(torch.arange(3000))
    assert stats.kstest(batch.engine.state.kappa[:, 1], values.cdf).pvalue > 0.01


def earnings_of_all_plans(config: MarketConfig) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Every sequence of the seller's actions before the last step, in which nothing can be earned, and its earnings.

    They are the mean over values that are uniform on [0, 1].
    """
    actions, value = range(MarketBatch(config, 1, "cpu").actions.mask_size), midpoints(12)
    plans = [(*plan, HOLD) for plan in product(actions, repeat=config.max_cycles - 1)]
    rows = np.repeat(plans, len(value), axis=0)
    returns = played(config, (script(rows), "paper"), len(rows), (0.0, np.tile(value, len(plans))))
    return plans, returns[:, 0].reshape(len(plans), -1).mean(1)


def best_of(plans: list[tuple[int, ...]], earned: np.ndarray) -> set[tuple[int, ...]]:
    """The plans that earn the most."""
    return {plan for plan, each in zip(plans, earned, strict=True) if each > earned.max() - 1e-6}


def test_no_other_plan_of_the_seller_earns_a_quarter() -> None:
    plans, earned = earnings_of_all_plans(POSTED)
    (half,) = asks(POSTED, 3)
    assert earned.max() == pytest.approx(1 / 4)
    assert best_of(plans, earned) == {(TRAIN, half, HOLD), (half, TRAIN, HOLD)}
    rule = played(POSTED, ("train+fixed:3", "paper"), 12, (0.0, midpoints(12)))
    assert rule[:, 0].mean() == pytest.approx(1 / 4)


def test_a_buyer_can_do_no_better_than_to_buy_below_its_value() -> None:
    choices = range(MarketBatch(POSTED, 1, "cpu").actions.mask_size)
    ask, value, last = grid(asks(POSTED, *range(7)), midpoints(12), choices)
    steps = [np.full_like(ask, TRAIN), ask, np.full_like(ask, HOLD)]
    sells = script(np.stack(steps, axis=1).astype(int))
    buys = script(np.stack([np.full_like(last, HOLD)] * 2 + [last], axis=1).astype(int))
    deviating, paper = (
        played(POSTED, (sells, buyer), len(ask), (0.0, value))[:, 1].reshape(7, 12, -1) for buyer in (buys, "paper")
    )
    assert (deviating.max(2) <= paper.max(2) + 1e-6).all()
    assert deviating[..., BUY].min() == pytest.approx(midpoints(12)[0] - 1)  # a purchase at any price can lose


# --- price skimming ---------------------------------------------------------------------------------------------------

SKIMMING = scenario("known-price-skimming")


def skimmed(prices: np.ndarray, chances: int) -> tuple[float, list[float]]:
    """The best revenue of so many prices in turn for a value uniform on [0, 1], and the prices, by backward induction.

    All that matters of the past is the lowest price that was refused, which bounds the value.
    """
    bounds = [*prices, 1.0]
    revenue, plan = dict.fromkeys(bounds, 0.0), {bound: [] for bound in bounds}
    for _ in range(chances):
        options = {
            bound: [
                ((bound - price) * price + revenue[price], [price, *plan[price]]) for price in prices if price <= bound
            ]
            for bound in bounds
        }
        best = {bound: max(each) for bound, each in options.items()}
        revenue, plan = ({bound: each[place] for bound, each in best.items()} for place in (0, 1))
    return revenue[1.0], plan[1.0]


def test_the_best_prices_in_turn_are_lazears() -> None:
    prices = np.array(SKIMMING.economy.ask_levels) * SKIMMING.economy.tick
    revenue, best = skimmed(prices, 2)
    assert (revenue, best) == (pytest.approx(1 / 3), pytest.approx([2 / 3, 1 / 3]))
    plans, earned = earnings_of_all_plans(SKIMMING)
    first, second = asks(SKIMMING, 4, 2)
    assert earned.max() == pytest.approx(1 / 3)
    assert best_of(plans, earned) == {(TRAIN, first, second, HOLD), (first, TRAIN, second, HOLD)}
    half = (TRAIN, *asks(SKIMMING, 3, 3), HOLD)
    assert earned[plans.index(half)] == pytest.approx(1 / 4)  # Myerson's price loses a twelfth


def test_more_prices_in_turn_earn_more() -> None:
    assert skimmed(np.arange(9) / 8, 3) == (3 / 8, [3 / 4, 1 / 2, 1 / 4])
    config = SKIMMING.changed(max_cycles=5, ask_levels=tuple(range(9)), initial_ask=9, tick=1 / 8, budget=8)
    value = midpoints(8)
    plan = script([[TRAIN, *asks(config, 6, 4, 2), HOLD]] * len(value))
    assert played(config, (plan, "paper"), len(value), (0.0, value))[:, 0].mean() == pytest.approx(3 / 8)


# --- the second-price auction -----------------------------------------------------------------------------------------

AUCTION = scenario("known-second-price")
LEVELS = range(len(AUCTION.economy.ask_levels))


def bids(level: np.ndarray) -> Any:
    """The script that bids these levels for the seller's network; a level of -1 does not bid."""
    return script(np.stack([np.full_like(level, HOLD), np.where(level < 0, HOLD, BUY + level)], axis=1).astype(int))


def returns_of_bids(config: MarketConfig) -> np.ndarray:
    """The return of a buyer by its value, the other's bid and its own bid (-1: none), on the grid of levels."""
    value, other, own = grid(np.array(LEVELS) * 0.1, [-1, *LEVELS], [-1, *LEVELS])
    returns = played(config, ("train", bids(own), bids(other)), len(value), (0.0, value, 0.5))
    return returns[:, 1].reshape(len(LEVELS), len(LEVELS) + 1, len(LEVELS) + 1)


def test_no_bid_is_better_than_the_value_in_second_price_whatever_the_other_bids() -> None:
    returns = returns_of_bids(AUCTION)
    truthful = np.stack([returns[level, :, 1 + level] for level in LEVELS])
    assert (returns.max(2) <= truthful + 1e-6).all()
    # With a value of 0.8: half of it loses 0.3 against a bid of 0.5, and 1 loses 0.1 against one of 0.9.
    assert truthful[8, 1 + 5] - returns[8, 1 + 5, 1 + 4] == pytest.approx(0.3)
    assert truthful[8, 1 + 9] - returns[8, 1 + 9, 1 + 10] == pytest.approx(0.1)


def test_the_paper_rule_bids_its_value() -> None:
    returns = returns_of_bids(AUCTION)
    value, other = grid(np.array(LEVELS) * 0.1 + 1e-6, [-1, *LEVELS])
    paper = played(AUCTION, ("train", "paper", bids(other)), len(value), (0.0, value, 0.5))[:, 1]
    truthful = np.stack([returns[level, :, 1 + level] for level in LEVELS])
    assert paper.reshape(truthful.shape) == pytest.approx(truthful, abs=1e-5)


def test_in_first_price_the_value_is_no_answer() -> None:
    returns = returns_of_bids(AUCTION.changed(mechanism=FirstPrice(copies=1)))
    truthful = np.stack([returns[level, :, 1 + level] for level in LEVELS])
    assert truthful.max() == pytest.approx(0, abs=1e-6)
    assert returns[8, 1 + 3, 1 + 4] == pytest.approx(0.4)  # a bid just above the other's


def test_truthful_buyers_and_the_seller_earn_order_statistics() -> None:
    value = midpoints(30)
    first, second = grid(value, value)
    returns = played(AUCTION, ("train", "paper", "paper"), len(first), (0.0, first, second)).mean(0)
    floors = np.floor(np.minimum(first, second) * 10) / 10
    assert returns[0] == pytest.approx(floors.mean())
    assert returns[0] == pytest.approx(1 / 3, abs=0.05)  # bids are rounded down by half a level on average
    assert returns[1:] == pytest.approx([1 / 6 + 0.025] * 2, abs=0.01)


# --- the double auction -----------------------------------------------------------------------------------------------

DOUBLE = scenario("known-double-auction")
STEP = DOUBLE.economy.tick
EQUILIBRIUM = "linear-equilibrium"


def profits(players: Any, seat: int, types: list[np.ndarray]) -> np.ndarray:
    """The profit from trade of the seat by market: its return without what it gets or loses if nobody trades.

    That is its own kappa: the seller gains it in training, and the seller's lead costs the buyer as much.
    """
    returns = played(DOUBLE, players, len(types[0]), types)[:, seat]
    return returns + types[1] if seat == 1 else returns - types[0]


def expected_profits(seat: int, player: Any = EQUILIBRIUM, own: int = 12, others: int = 144) -> np.ndarray:
    """The mean profit of each type of the seat against the equilibrium, for a rule."""
    mine, theirs = grid(midpoints(own), midpoints(others))
    players, types = [EQUILIBRIUM, EQUILIBRIUM], [theirs, theirs]
    players[seat], types[seat] = player, mine
    return profits(players, seat, types).reshape(own, others).mean(1)


def profits_of_levels(seat: int, own: int = 12, others: int = 144) -> np.ndarray:
    """The mean profit of each type of the seat from each level that it can ask or bid, against the equilibrium."""
    mine, theirs, level = grid(midpoints(own), midpoints(others), DOUBLE.economy.ask_levels)
    hold = np.full_like(level, HOLD)
    (first,) = asks(DOUBLE, 0)
    steps = [np.full_like(level, TRAIN), first + level, hold] if seat == 0 else [hold, hold, BUY + level]
    players, types = [EQUILIBRIUM, EQUILIBRIUM], [theirs, theirs]
    players[seat], types[seat] = script(np.stack(steps, axis=1)), mine  # type: ignore[call-overload]
    return profits(players, seat, types).reshape(own, others, -1).mean(1)


def closed_form(seat: int, worth: float) -> float:
    """The expected profit of a cost or value in the continuous equilibrium, by integration over the other's types."""
    own = 2 / 3 * worth + (1 / 4 if seat == 0 else 1 / 12)

    def profit(other: float) -> float:
        theirs = 2 / 3 * other + (1 / 12 if seat == 0 else 1 / 4)
        price, trades = (own + theirs) / 2, theirs >= own if seat == 0 else theirs <= own
        return (price - worth if seat == 0 else worth - price) if trades else 0.0

    meets = np.clip(worth + (1 / 4 if seat == 0 else -1 / 4), 0, 1)
    return float(integrate.quad(profit, 0, 1, points=[meets])[0])


@pytest.mark.parametrize("seat", [0, 1])
def test_no_bid_or_ask_is_better_than_the_linear_equilibrium(seat: int) -> None:
    equilibrium, levels = expected_profits(seat), profits_of_levels(seat)
    gains = np.maximum(levels.max(1), 0) - equilibrium
    assert gains.max() <= 2 * STEP**2  # rounding to levels leaves no more
    assert equilibrium == pytest.approx([closed_form(seat, worth) for worth in midpoints(12)], abs=STEP / 2)
    assert equilibrium.mean() == pytest.approx(9 / 128, abs=0.01)


def test_truthful_bids_and_asks_lose_in_the_double_auction() -> None:
    assert expected_profits(1, "paper").mean() < expected_profits(1).mean() - 0.01
    levels, truthful = profits_of_levels(0), np.ceil(midpoints(12) / STEP).astype(int)
    assert np.take_along_axis(levels, truthful[:, None], 1).mean() < expected_profits(0).mean() - 0.01


def test_the_equilibrium_trades_where_the_value_exceeds_the_cost_by_a_quarter() -> None:
    cost, value = grid(midpoints(96), midpoints(96))
    profit = sum(profits((EQUILIBRIUM, EQUILIBRIUM), seat, [cost, value]) for seat in (0, 1))
    trades = profit > 1e-6
    assert not trades[value < cost + 1 / 4 - 1e-9].any()
    assert trades[value > cost + 1 / 4 + 2.25 * STEP].all()  # both round to their own side
    assert trades.mean() == pytest.approx(9 / 32, abs=0.03)
    assert profit.mean() == pytest.approx(9 / 64, abs=0.01)


# --- the last round ---------------------------------------------------------------------------------------------------

LAST_ROUND = scenario("known-last-round")
BUY_OTHERS_SKILL = BUY + 1
"""The action of trader_0 that buys trader_1's skill."""


def best_plans(config: MarketConfig, choices: Any) -> tuple[float, list[list[int]]]:
    """The highest return of trader_0 over all sequences of these actions, and the sequences that have it."""
    plans = np.array(list(product(choices, repeat=config.max_cycles)))
    returns = played(config, (script(plans), "train"), len(plans))[:, 0]
    return returns.max(), plans[returns > returns.max() - 1e-4].tolist()


def test_the_best_is_to_train_until_the_last_step_and_to_buy_there() -> None:
    value, plans = best_plans(LAST_ROUND, (TRAIN, BUY_OTHERS_SKILL))
    assert value == pytest.approx(4.4, abs=1e-4)
    assert plans == [[TRAIN] * 11 + [BUY_OTHERS_SKILL]]
    for rule, expected in (("patient:11", 4.4), ("patient:5", 4.2), ("train", 12 * 0.15), ("greedy", 0.2 + 11 * 0.2)):
        assert played(LAST_ROUND, (rule, "train"), 1)[0, 0] == pytest.approx(expected, abs=1e-4), rule


def test_no_other_verb_is_better_in_a_shorter_episode() -> None:
    short = LAST_ROUND.changed(max_cycles=5)
    value, plans = best_plans(short, range(MarketBatch(short, 1, "cpu").actions.mask_size))
    assert value == pytest.approx(4 * 0.2 + 4 * 0.2, abs=1e-4)
    assert plans == [[TRAIN] * 4 + [BUY_OTHERS_SKILL]]


def test_the_best_plan_follows_the_market() -> None:
    once = LAST_ROUND.changed(opens_at=5, trade_every=12)
    value, plans = best_plans(once, (TRAIN, BUY_OTHERS_SKILL))
    assert plans == [[TRAIN] * 5 + [BUY_OTHERS_SKILL] + [TRAIN] * 6]  # the market opens only here
    assert value == pytest.approx(11 * 0.2 + 5 * 0.2 - 6 * 0.05, abs=1e-4)
