"""Intervals cover the truth as often as they say, although a seed gives the same market in every task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from paramarket_baselines.evaluation import estimates
from paramarket_baselines.evaluation.estimates import STATISTICS, Estimate, mean, probability_of_improvement

REPETITIONS = 300
LEVELS = np.linspace(-1, 1, 12)[:, None]
"""The level of each task. They are symmetric, so the true mean, median and interquartile mean are 0."""


def drawn(repetition: int, seeds: int) -> np.ndarray:
    """Scores ``[tasks, seeds]`` in which most of the noise is the seed's, the same in all tasks."""
    rng = np.random.default_rng((repetition, seeds))
    return LEVELS + rng.normal(size=seeds) + 0.5 * rng.normal(size=(len(LEVELS), seeds))


def coverage(estimate: Callable[[int], Estimate], truth: float) -> float:
    """The share of the repetitions in which the interval contains the truth."""
    found = [estimate(repetition) for repetition in range(REPETITIONS)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize("seeds", [2, 5, 20])
@pytest.mark.parametrize("name", STATISTICS)
def test_an_interval_of_95_percent_covers_about_95_percent(
    name: str, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 100)
    statistic = STATISTICS[name]
    assert 0.92 <= coverage(lambda repetition: statistic(drawn(repetition, seeds)), 0.0) <= 0.985


@pytest.mark.parametrize("seeds", [5, 20, 40])
def test_an_interval_of_a_paired_difference_covers_as_often(seeds: int) -> None:
    def difference(repetition: int) -> Estimate:
        ours = drawn(repetition, seeds)
        return mean(ours + 0.1 + 0.3 * drawn(repetition + REPETITIONS, seeds) - ours)

    assert 0.92 <= coverage(difference, 0.1) <= 0.985


@pytest.mark.parametrize("seeds", [5, 20, 40])
def test_an_interval_of_a_probability_of_improvement_covers_as_often(seeds: int) -> None:
    def improvement(repetition: int) -> Estimate:
        return probability_of_improvement(drawn(repetition, seeds), drawn(repetition + REPETITIONS, seeds))

    assert 0.92 <= coverage(improvement, 0.5) <= 0.985
