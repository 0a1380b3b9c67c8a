"""Intervals over trainings and seeds: they cover the truth as often as they say, and agree with a bootstrap."""

from __future__ import annotations

from functools import cache
from itertools import product
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramarket_baselines.evaluation import estimates
from paramarket_baselines.evaluation.estimates import MISSING, Estimate
from paramarket_baselines.evaluation.trainings import Trainings, _rest, _variance, difference, mean

DRAWS = 1000
TASKS = 6
SIZES = [(5, 20), (5, 40), (10, 10), (1, 20)]
DEVIATIONS = {  # of the trainings' effects, the seeds', their interaction, and noise
    "trainings": (1.0, 0.3, 0.3, 0.3),
    "seeds": (0.1, 1.0, 0.3, 0.3),
    "interaction": (0.3, 0.3, 1.0, 0.3),
    "noise": (0.1, 0.1, 0.1, 1.0),
    "noise alone": (0.0, 0.0, 0.0, 1.0),
}


def drawn(rng: np.random.Generator, trainings: int, seeds: np.ndarray, source: str) -> Trainings:
    """Scores of mean 0 on seeds with these effects; one training is a rule, which has no part of a training's."""
    training, _, interaction, noise = DEVIATIONS[source]
    learned = trainings > 1
    return (
        np.linspace(-1, 1, TASKS)[:, None]
        + learned * training * rng.normal(size=(trainings, 1, 1))
        + seeds
        + learned * interaction * rng.normal(size=(trainings, 1, len(seeds)))
        + noise * rng.normal(size=(trainings, TASKS, len(seeds)))
    )


@cache
def coverage(trainings: int, seeds: int, source: str) -> dict[str, float]:
    """The shares of the draws in which the interval of each kind of estimate contains its true value, 0."""
    rng = np.random.default_rng(0)
    covered = dict.fromkeys(["mean", "two learned", "learned and rule", "independent runs"], 0)
    for _ in range(DRAWS):
        mine, theirs = DEVIATIONS[source][1] * np.array([[1.0, 0.0], [1.0, 0.5]]) @ rng.normal(size=(2, seeds))
        scores, other = drawn(rng, trainings, mine, source), drawn(rng, trainings, theirs, source)
        found = {
            "mean": mean(scores),
            "two learned": difference(scores, other),
            "learned and rule": difference(scores, drawn(rng, 1, theirs, source)),
            "independent runs": estimates.student_mean(scores.mean(1).reshape(-1).tolist()),
        }
        for name, one in found.items():
            covered[name] += one.low <= 0 <= one.high
    return {name: count / DRAWS for name, count in covered.items()}


@pytest.mark.parametrize(("size", "source"), list(product(SIZES, list(DEVIATIONS)[:4])))
def test_an_interval_of_95_percent_covers_between_92_and_97_percent(size: tuple[int, int], source: str) -> None:
    found = coverage(*size, source)
    assert all(0.92 <= found[name] <= 0.97 for name in ("mean", "two learned", "learned and rule")), found


@pytest.mark.parametrize("size", SIZES)
def test_if_trainings_do_not_differ_at_all_an_interval_is_rather_too_wide(size: tuple[int, int]) -> None:
    found = coverage(*size, "noise alone")
    assert all(0.93 <= found[name] <= 0.98 for name in ("mean", "two learned", "learned and rule")), found


@pytest.mark.parametrize("source", ["trainings", "seeds"])
def test_intervals_of_runs_that_are_taken_as_independent_are_far_too_narrow(source: str) -> None:
    assert coverage(5, 20, source)["independent runs"] < 0.75


def test_the_uncorrected_variance_is_that_of_a_bootstrap_of_trainings_and_seeds() -> None:
    rng = np.random.default_rng(1)
    trainings, seeds = 5, 20
    scores = drawn(rng, trainings, rng.normal(size=seeds), "interaction").mean(1)
    rows, columns = (rng.integers(count, size=(20_000, count)) for count in (trainings, seeds))
    resampled = scores[rows[:, :, None], columns[:, None, :]].mean((1, 2))
    parts = _variance(scores.mean(1)) * 4 / 5, _variance(scores.mean(0)) * 19 / 20, _rest(scores) * 4 / 5 * 19 / 20
    assert resampled.var() == pytest.approx(sum(parts), rel=0.05)


def test_percentiles_of_a_bootstrap_undercover_with_five_trainings() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        scores = drawn(rng, 5, 0.3 * rng.normal(size=20), "trainings").mean(1)
        rows, columns = rng.integers(5, size=(500, 5)), rng.integers(20, size=(500, 20))
        low, high = np.quantile(scores[rows[:, :, None], columns[:, None, :]].mean((1, 2)), [0.025, 0.975])
        covered += low <= 0 <= high
    assert covered / 200 < 0.9


# --- equal to what is known -------------------------------------------------------------------------------------------

SCORES = np.random.default_rng(3).normal(size=(5, 4, 7))


def as_tuple(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def test_the_interval_of_a_rule_is_that_over_seeds() -> None:
    mine, theirs = SCORES[:1], SCORES[1:2]
    assert as_tuple(mean(mine)) == pytest.approx(as_tuple(estimates.mean(mine[0])))
    assert as_tuple(difference(mine, theirs)) == pytest.approx(as_tuple(estimates.mean((mine - theirs)[0])))


def test_with_hardly_any_effect_of_seeds_the_interval_is_that_of_independent_trainings() -> None:
    by_training = np.array([1.0, 2.0, 4.0, 7.0])
    scores = by_training[:, None, None] + 1e-6 * SCORES[:4]
    assert as_tuple(mean(scores)) == pytest.approx(as_tuple(estimates.student_mean(by_training.tolist())), rel=1e-4)


def test_equal_trainings_are_no_more_than_a_rule() -> None:
    assert as_tuple(mean(np.repeat(SCORES[:1], 5, 0))) == pytest.approx(as_tuple(mean(SCORES[:1])))


def test_without_any_variance_the_interval_is_a_point() -> None:
    ones = np.ones((5, 2, 3))
    assert mean(ones) == Estimate(1.0, 1.0, 1.0)
    assert difference(SCORES[:1], SCORES[:1]) == Estimate(0.0, 0.0, 0.0)


def test_one_seed_gives_no_interval_and_a_missing_score_no_estimate() -> None:
    assert isnan(mean(SCORES[:, :, :1]).low)
    assert mean(SCORES[:0]) is MISSING
    assert difference(SCORES, np.where(SCORES[0, 0, 0] == SCORES, np.nan, SCORES)) is MISSING


def test_policies_on_other_seeds_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="same tasks and seeds"):
        difference(SCORES, SCORES[:, :, 1:])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.1, 10))
def test_estimates_shift_and_scale_and_a_difference_changes_its_sign_with_its_order(
    seed: int, shift: float, scale: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=(2, 3, 4, 5))
    found, moved = mean(scores[0]), mean(scale * scores[0] + shift)
    assert as_tuple(moved) == pytest.approx(tuple(scale * bound + shift for bound in as_tuple(found)), abs=1e-9)
    one, other = difference(scores[0], scores[1, :2]), difference(scores[1, :2], scores[0])
    assert as_tuple(one) == pytest.approx((-other.value, -other.high, -other.low), abs=1e-9)
