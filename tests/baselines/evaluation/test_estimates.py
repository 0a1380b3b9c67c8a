"""Estimates and their intervals: Student's, and a stratified bootstrap's."""

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
    assert student_mean([1.0]) == Estimate(1.0)
    assert student_mean([math.nan, 1.0, 3.0]) == student_mean([1.0, 3.0])
    assert student_mean([math.nan]) == MISSING


# --- the bootstrap --------------------------------------------------------------------------------------------------


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    scores = (np.array([0.0, 1.0, 2.0, 100.0]), np.array([3.0, -50.0, 4.0, 5.0]))
    assert bootstrap(scores, STATISTICS["IQM"]).value == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert bootstrap(scores, STATISTICS["mean"]).value == pytest.approx(65 / 8)
    assert bootstrap(scores, STATISTICS["median"]).value == pytest.approx(2.5)


def test_the_bootstrap_resamples_within_tasks() -> None:
    # Tasks differ, runs of a task do not: nothing is left to chance.
    constant = (np.full(5, 1.0), np.full(5, 9.0))
    assert bootstrap(constant, STATISTICS["mean"]) == Estimate(5.0, 5.0, 5.0)
    nearly = (np.array([1.0, 1.0, 1.0, 1.5]), np.full(4, 9.0))
    found = bootstrap(nearly, STATISTICS["mean"])
    assert 5.0 <= found.low <= found.value <= found.high <= 5.25


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    scores = (np.random.default_rng(1).normal(size=100), np.random.default_rng(2).normal(size=100))
    found = bootstrap(scores, STATISTICS["mean"])
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.2)


def test_a_missing_run_leaves_nothing_to_estimate() -> None:
    assert str(bootstrap((np.array([1.0, np.nan]),), STATISTICS["mean"])) == str(MISSING)
    assert np.isnan(probability_of_improvement((np.array([1.0, 2.0]),), (np.array([np.nan, 2.0]),)).value)


@pytest.mark.parametrize(
    ("mine", "theirs", "chance"),
    [
        (([2.0, 3.0],), ([0.0, 1.0],), 1.0),
        (([0.0, 1.0],), ([2.0, 3.0],), 0.0),
        (([1.0, 1.0],), ([1.0, 1.0],), 0.5),
        (([0.0, 2.0],), ([1.0, 2.0],), 3 / 8),  # of four pairs one is won and one even
        (([2.0, 3.0], [0.0, 1.0]), ([0.0, 1.0], [2.0, 3.0]), 0.5),  # tasks are compared each for itself
    ],
)
def test_the_probability_of_probability_of_improvement(
    mine: tuple[list[float], ...], theirs: tuple[list[float], ...], chance: float
) -> None:
    ours, others = (tuple(np.array(task) for task in tasks) for tasks in (mine, theirs))
    assert probability_of_improvement(ours, others).value == pytest.approx(chance)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=2, max_size=4))
def test_who_improves_on_whom_adds_up_to_one(tasks: list[list[int]]) -> None:
    scores = tuple(np.array(task, dtype=float) for task in tasks)
    half = len(scores) // 2
    mine, theirs = scores[:half], scores[half : 2 * half]
    one_way, other_way = probability_of_improvement(mine, theirs), probability_of_improvement(theirs, mine)
    assert one_way.value + other_way.value == pytest.approx(1)
    assert one_way.low <= one_way.value <= one_way.high
