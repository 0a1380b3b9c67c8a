"""Each agent's kappa is drawn anew for each episode, and only the agent itself observes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers import new_engine, orders, priced_market

LOWS, HIGHS = (0.5, 1.0, 2.0), (0.6, 3.0, 2.0)
DRAWN: dict[str, Any] = {"kappa": LOWS, "kappa_high": HIGHS}
DISTRIBUTIONS = pytest.mark.parametrize("distribution", ["uniform", "log-uniform"])
SEEDS = [11, 3, 7, 5, 2]


@DISTRIBUTIONS
def test_values_are_drawn_within_each_agents_range_for_each_market(distribution: str) -> None:
    value = new_engine(priced_market(kappa_distribution=distribution, **DRAWN), range(20)).state.kappa
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in (LOWS, HIGHS))
    assert value.dtype == torch.float64
    assert bool(((value >= low) & (value <= high)).all())
    assert [len(column.unique()) for column in value.T] == [20, 20, 1]


@DISTRIBUTIONS
def test_agents_of_one_range_draw_each_for_itself(distribution: str) -> None:
    config = priced_market(kappa_distribution=distribution, kappa=0.5, kappa_high=2.0)
    value = new_engine(config, range(20)).state.kappa
    assert len(value.unique()) == 60
    assert 0.5 <= float(value.min()) < 0.7
    assert 1.8 < float(value.max()) <= 2.0


def test_fixed_values_are_those_of_the_configuration_in_every_episode() -> None:
    engine = new_engine(priced_market(kappa=LOWS), SEEDS)
    assert engine.state.kappa.tolist() == [list(LOWS)] * len(SEEDS)


@DISTRIBUTIONS
def test_values_are_the_same_alone_and_as_one_of_many_and_for_the_same_seed(distribution: str) -> None:
    config = priced_market(kappa_distribution=distribution, **DRAWN)
    many = new_engine(config, SEEDS).state.kappa
    for market, seed in enumerate(SEEDS):
        assert torch.equal(new_engine(config, [seed]).state.kappa[0], many[market])


def test_values_last_an_episode_and_are_drawn_anew_for_the_next_one_alone() -> None:
    engine = new_engine(priced_market(kappa_distribution="uniform", **DRAWN), SEEDS)
    before = engine.state.kappa.clone()
    engine.step(orders(engine, train=(0, 1, 2), buy={0: 0}))
    assert torch.equal(engine.state.kappa, before)
    engine.reset(torch.tensor([99]), torch.tensor([1]))
    assert torch.equal(engine.state.kappa[[0, 2, 3, 4]], before[[0, 2, 3, 4]])
    assert bool((engine.state.kappa[1, :2] != before[1, :2]).all())


def test_nothing_but_the_values_depends_on_how_they_are_drawn() -> None:
    fixed, drawn = (
        new_engine(priced_market(**changes), SEEDS).state
        for changes in ({}, {"kappa_distribution": "uniform", **DRAWN})
    )
    for name in ("parameters", "loss", "balance"):
        assert torch.equal(getattr(fixed, name), getattr(drawn, name)), name


def test_a_reward_counts_a_nat_at_the_value_that_was_drawn() -> None:
    engine = new_engine(priced_market(kappa_distribution="log-uniform", **DRAWN), SEEDS)
    record = engine.step(orders(engine, train=(0, 1, 2)))
    torch.testing.assert_close(record.reward, engine.state.kappa * record.gain)


def test_an_offer_is_worth_its_gain_at_the_buyers_value() -> None:
    engine = new_engine(priced_market(kappa_distribution="uniform", parameter_sets="layers", **DRAWN), SEEDS)
    for market in range(len(SEEDS)):
        for buyer in range(3):
            worth = float(engine.state.kappa[market, buyer]) * engine.gains[market, buyer]
            torch.testing.assert_close(engine.values[market, buyer], worth)


def test_what_is_not_quoted_is_worth_nothing_even_to_one_to_whom_nothing_is_worth_anything() -> None:
    engine = new_engine(priced_market(kappa=(0.0, 1.0, 2.0), opens_at=1))
    assert not bool(engine.values.isnan().any())
    assert not bool((engine.values > 0).any())
