"""Every experiment: its cells, arms and orders fit together, and its markets can be."""

from __future__ import annotations

import pytest
import torch

from benchmarks.paper.experiment import KINDS, Experiment
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.markets import Late, alone, bank, digits, from_period
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_env.learning.data.endowments import Complementary
from tests.helpers import tiny_market

each = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
each_length = pytest.mark.parametrize("quick", [True, False], ids=["quick", "full"])


@each
@each_length
def test_every_cell_is_a_market_or_says_why_not(experiment: Experiment, quick: bool) -> None:
    played = [cell for cell in experiment.cells(2, quick=quick) if not cell.refusal()]
    assert played
    assert len({cell.label for cell in played}) == len(played)
    assert len({tuple(cell.setting) for cell in played}) == 1  # the columns of a table
    assert not any(cell.refusal() for cell in experiment.cells(2, quick=quick) if "merger" not in cell.refusal())


@each
def test_quick_cells_are_not_more(experiment: Experiment) -> None:
    quick, full = (len(list(experiment.cells(2, quick=short))) for short in (True, False))
    assert quick <= full


@each
def test_orders_compare_arms_that_are_played_by_measures_that_are_shown(experiment: Experiment) -> None:
    arms = {arm.name for arm in experiment.arms}
    assert len(arms) == len(experiment.arms)
    for order in experiment.orders:
        assert set(order.arms) <= arms
        assert order.measure in experiment.measures
    assert set(experiment.measures) <= set(KINDS)
    assert {EXPERIMENTS[name].claim for name in EXPERIMENTS} >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("period", "frequency", "first"), [(5, 1, 6), (5, 3, 7), (5, 7, 8), (0, 1, 1), (10, 10, 11)])
def test_a_period_and_a_frequency_are_those_of_the_authors(period: int, frequency: int, first: int) -> None:
    broker = from_period(digits(), period, frequency).broker
    assert (broker.opens_at, broker.trade_every) == (first, frequency)


def test_the_bank_has_everybody_s_data_and_nobody_trades_alone() -> None:
    config = tiny_market(action_mode="round", endowment=Complementary(scarcity=0.0))
    assert bank(config).data.endowment == Complementary(scarcity=1.0)
    assert alone(config) == alone(config.changed(aligner="frank-wolfe", parameter_sets="full", trade_every=3))
    assert play(config, Arm("bank", ("paper",), bank), [0], "cpu").trades.empty


def test_a_late_firm_trains_from_its_start_on() -> None:
    config = tiny_market(action_mode="round", max_cycles=4)
    steps = play(config, Arm("late", ("train", Late(start=2))), [0, 1], "cpu").steps
    trained = torch.tensor(steps[steps.cycle > 0].pivot_table(index="cycle", columns="agent", values="trained").values)
    assert trained[:4].tolist() == [[1, 0], [1, 0], [1, 1], [1, 1]]
