"""Estimates for policies that are trained several times, with 95 % intervals over trainings and seeds.

A learned policy is a distribution over *trainings*; a rule has one training, without any variance between trainings.
All trainings play all tasks on the same seeds, so the score of a training on a seed, averaged over tasks, is the sum of
four parts: the mean, the training's effect, the seed's effect, and the rest (both their interaction and noise). In a
difference of two policies on the same seeds, the seeds' common effect cancels, and the trainings of both are
independent.

A hierarchical bootstrap resamples trainings and whole seeds. Its variance of a mean has a closed form: with V_T the
variance of the trainings' means divided by their number, V_S that of the seeds' means and V_E that of the rest,
resampling T trainings and S seeds gives V_T (T - 1)/T + V_S (S - 1)/S + V_E (T - 1)(S - 1)/(T S). This counts the rest
three times, since V_T and V_S contain it too (Owen, *The pigeonhole bootstrap*, 2007), and its percentiles are too
narrow for five trainings. The intervals here correct both. The variance is that of a crossed analysis of variance,
V_S + (V_T - V_E), which is unbiased except that V_T - V_E is set to 0 if it is negative. The quantile is Student's with
Satterthwaite's degrees of freedom (*An approximate distribution of estimates of variance components*, 1946). For a
difference, V_S is that of the paired differences, and V_T and V_E are the sums of those of the two policies.

In simulations with 5 trainings and 20 or 40 seeds, or 10 and 10, an interval of 95 % covers between 93 and 97 %. If
trainings do not differ at all, it covers up to 97.5 %.

Seats and populations are not resampled: every seat is played, and an estimate speaks of the given populations alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from paramarket_baselines.evaluation.estimates import MISSING, Estimate, student
from paramarket_env.validation import require

Trainings = np.ndarray
"""The scores of a policy, float64 ``[trainings, tasks, seeds]``. All trainings and tasks have the same seeds."""


def mean(scores: Trainings) -> Estimate:
    """The mean of all scores, with its interval over trainings and seeds.

    Scores of one training are a rule's: the interval is Student's over seeds. Scores on one seed give no interval. The
    estimate is ``MISSING`` if there are no scores or one is not finite.
    """
    return _estimate([scores], [1])


def difference(mine: Trainings, theirs: Trainings) -> Estimate:
    """The mean of my scores minus the mean of theirs, paired by task and seed, with its interval.

    Both have the same tasks and seeds, in the same order. Their numbers of trainings may differ; each training of one
    policy is compared with all trainings of the other. The estimate is ``MISSING`` as in :func:`mean`.
    """
    require(mine.shape[1:] == theirs.shape[1:], "theirs", theirs.shape, f"of the same tasks and seeds as {mine.shape}")
    return _estimate([mine, theirs], [1, -1])


def _estimate(policies: Sequence[Trainings], signs: Sequence[int]) -> Estimate:
    """The signed sum of the policies' means."""
    if not all(scores.size and np.isfinite(scores).all() for scores in policies):
        return MISSING
    runs = [scores.mean(1) for scores in policies]
    by_seed = sum(sign * scores.mean(0) for sign, scores in zip(signs, runs, strict=True))
    value, seeds = float(np.mean(by_seed)), policies[0].shape[2]
    if seeds < 2:
        return Estimate(value)
    between, uncertainty, share = _between_trainings([scores for scores in runs if len(scores) > 1])
    over_seeds = _variance(by_seed)
    variance, uncertainty = over_seeds + share * between, over_seeds**2 / (seeds - 1) + sqrt(share) * uncertainty
    return student(value, sqrt(variance), variance**2 / uncertainty if uncertainty else seeds - 1)


def _between_trainings(learned: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """V_T of policies with scores ``[trainings, seeds]``, its uncertainty and the share (V_T - V_E) / V_T that counts.

    The uncertainty is the sum of squares over degrees of freedom of Satterthwaite's formula. It counts by the root of
    the share, without a jump where the share becomes 0; simulations cover 95 % best with that power.
    """
    variances = [_variance(runs.mean(1)) for runs in learned]
    uncertainty = sum(one * one / (len(runs) - 1) for one, runs in zip(variances, learned, strict=True))
    between, rest = sum(variances), sum(map(_rest, learned))
    return between, uncertainty, max(0.0, 1 - rest / between) if between else 0.0


def _rest(runs: np.ndarray) -> float:
    """V_E of scores ``[trainings, seeds]``."""
    rest = runs - runs.mean(0) - runs.mean(1, keepdims=True) + runs.mean()
    trainings, seeds = runs.shape
    return float((rest**2).sum() / ((trainings - 1) * (seeds - 1) * trainings * seeds))


def _variance(values: np.ndarray) -> float:
    """The variance of the mean of independent values."""
    return float(values.var(ddof=1)) / len(values)
