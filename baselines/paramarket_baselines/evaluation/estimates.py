"""Estimates with 95 % intervals: Student's t over seeds, and a stratified bootstrap over the runs of several tasks.

The statistics over tasks follow Agarwal et al., *Deep reinforcement learning at the edge of the statistical precipice*
(NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95

Scores = tuple[np.ndarray, ...]
"""The scores of a policy: for each task one array, float64 ``[runs]``."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""A statistic of the scores of all tasks, along the last axis."""

STATISTICS: dict[str, Statistic] = {
    "mean": lambda scores: scores.mean(-1),
    "median": lambda scores: np.median(scores, axis=-1),
    "IQM": lambda scores: stats.trim_mean(scores, 0.25, axis=-1),
}
"""The statistics by name. The IQM (interquartile mean) is the mean of the middle half."""


@dataclass(frozen=True)
class Estimate:
    """A figure with the bounds of its 95 % interval. Missing figures are NaN."""

    value: float
    low: float = nan
    high: float = nan

    def __str__(self) -> str:
        """``value [low, high]``, or a dash if the value is missing."""
        return "–" if isnan(self.value) else f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def brief(self, digits: int = 2) -> str:
        """The value without its interval, or a dash."""
        return "–" if isnan(self.value) else f"{self.value:.{digits}f}"

    def symmetric(self, digits: int = 2) -> str:
        """``value ± half-width``, the value alone if it has no interval, or a dash."""
        half = "" if isnan(self.low) else f" ± {(self.high - self.low) / 2:.{digits}f}"
        return self.brief(digits) + half


MISSING = Estimate(nan)

Summary = dict[str, dict[str, Estimate]]
"""The estimate of each measure, for each arm of a run or each policy of an evaluation."""


def student_mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with Student's t interval if there are at least two.

    NaN values are left out. If no others remain, the mean is NaN.
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    if len(sample) < 2:
        return Estimate(float(sample[0])) if len(sample) else MISSING
    mean, half = sample.mean(), stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1) * stats.sem(sample)
    return Estimate(float(mean), float(mean - half), float(mean + half))


def bootstrap(scores: Scores, statistic: Statistic) -> Estimate:
    """A statistic of all scores, with the percentile interval of a bootstrap that resamples each task's runs.

    Returns ``MISSING`` if a score is not finite.
    """

    def together(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(np.concatenate(tasks, axis=axis))

    return _bootstrap(scores, together)


def probability_of_improvement(mine: Scores, theirs: Scores) -> Estimate:
    """The probability that a run of mine scores higher than one of theirs on the same task, averaged over tasks.

    Equal scores count half (Agarwal et al. 2021, section 4.3).
    """

    def average(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(tasks[: len(mine)], tasks[len(mine) :], strict=True)
        found: np.ndarray = np.mean([_probability(ours, others) for ours, others in pairs], axis=0)
        return found

    return _bootstrap((*mine, *theirs), average)


def _probability(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    ours, others = mine[..., :, None], theirs[..., None, :]
    wins: np.ndarray = ((ours > others) + 0.5 * (ours == others)).mean((-2, -1))
    return wins


def _bootstrap(tasks: Scores, statistic: Callable[..., np.ndarray]) -> Estimate:
    if not all(np.isfinite(scores).all() for scores in tasks):
        return MISSING
    value = float(statistic(*tasks))
    if all(np.ptp(scores) == 0 for scores in tasks):
        return Estimate(value, value, value)
    found = stats.bootstrap(
        tasks,
        statistic,
        n_resamples=RESAMPLES,
        batch=100,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))
