"""Estimates and their intervals: Student's, and those of a bootstrap of seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramarket_baselines.evaluation.estimates import (
    MISSING,
    STATISTICS,
    Estimate,
    bootstrap,
    mean,
    probability_of_improvement,
    student_mean,
)

# --- how they are shown ---------------------------------------------------------------------------------------------


def test_an_estimate_is_shown_with_bounds_with_its_half_width_or_alone() -> None:
    estimate = Estimate(1.0, 0.875, 1.125)
    assert str(estimate) == "1.00 [0.88, 1.12]"
    assert estimate.symmetric(3) == "1.000 ± 0.125"
    assert estimate.brief(0) == "1"


def test_what_is_missing_is_a_dash_and_what_has_no_interval_stands_alone() -> None:
    assert {str(MISSING), MISSING.brief(), MISSING.symmetric()} == {"–"}
    assert Estimate(1.0).symmetric(1) == "1.0"


# --- Student's interval ---------------------------------------------------------------------------------------------


def test_the_interval_is_students() -> None:
    mean = student_mean([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t(0.975, 3 degrees of freedom)
    assert mean.value == 2.5
    assert (mean.low, mean.high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-5)


def test_a_single_value_has_no_interval_and_missing_values_do_not_count() -> None:
    single = student_mean([1.0])
    assert (single.value, math.isnan(single.low), math.isnan(single.high)) == (1.0, True, True)
    assert student_mean([math.nan, 1.0, 3.0]) == student_mean([1.0, 3.0])
    assert student_mean([math.nan]) == MISSING


# --- intervals over seeds -------------------------------------------------------------------------------------------

SCORES = np.array([[0.0, 1.0, 2.0, 100.0], [3.0, -50.0, 4.0, 5.0]])


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert STATISTICS["IQM"](SCORES).value == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert STATISTICS["mean"](SCORES).value == pytest.approx(65 / 8)
    assert STATISTICS["median"](SCORES).value == pytest.approx(2.5)


def test_the_interval_of_a_mean_is_students_of_the_seeds_means() -> None:
    assert mean(SCORES) == student_mean([1.5, -24.5, 3.0, 52.5])
    resampled = bootstrap(SCORES, lambda scores: scores.mean(-1))
    assert (resampled.low, resampled.high) == pytest.approx((mean(SCORES).low, mean(SCORES).high), rel=0.05)


@pytest.mark.parametrize("name", STATISTICS)
def test_differences_between_tasks_do_not_widen_an_interval(name: str) -> None:
    assert STATISTICS[name](np.array([[1.0] * 5, [9.0] * 5])) == Estimate(5.0, 5.0, 5.0)


@pytest.mark.parametrize("name", STATISTICS)
def test_seeds_that_move_all_tasks_together_are_independent_units(name: str) -> None:
    seeds = np.random.default_rng(0).normal(size=20)
    once, often = STATISTICS[name](seeds[None]), STATISTICS[name](np.tile(seeds, (9, 1)))
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_a_missing_run_leaves_nothing_to_estimate(missing: float) -> None:
    scores = np.array([[1.0, 2.0], [3.0, missing]])
    assert {str(statistic(scores)) for statistic in STATISTICS.values()} == {str(MISSING)}
    assert np.isnan(probability_of_improvement(scores[:1], scores[1:]).value)


@pytest.mark.parametrize(
    ("mine", "theirs", "chance"),
    [
        ([[2.0, 3.0]], [[0.0, 1.0]], 1.0),
        ([[0.0, 1.0]], [[2.0, 3.0]], 0.0),
        ([[1.0, 1.0]], [[1.0, 1.0]], 0.5),
        ([[0.0, 2.0]], [[1.0, 2.0]], 1 / 4),  # one lost, one even: only runs on the same seed are compared
        ([[2.0, 3.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 3.0]], 0.5),  # tasks are compared each for itself
    ],
)
def test_the_probability_of_improvement_compares_runs_on_the_same_task_and_seed(
    mine: list[list[float]], theirs: list[list[float]], chance: float
) -> None:
    assert probability_of_improvement(np.array(mine), np.array(theirs)).value == pytest.approx(chance)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=2, max_size=4))
def test_who_improves_on_whom_adds_up_to_one(tasks: list[list[int]]) -> None:
    scores, half = np.array(tasks, dtype=float), len(tasks) // 2
    mine, theirs = scores[:half], scores[half : 2 * half]
    one_way, other_way = probability_of_improvement(mine, theirs), probability_of_improvement(theirs, mine)
    assert one_way.value + other_way.value == pytest.approx(1)
    assert 0 <= one_way.low <= one_way.value <= one_way.high <= 1
