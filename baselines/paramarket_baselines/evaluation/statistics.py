"""Evaluation of policies: each one plays in every seat against every population, on the same seeds.

In the terms of Agarwal et al. (2021), a task is a seat against a population, and a run is a seed. Their statistics are
in :mod:`paramarket_baselines.evaluation.estimates`. Means and differences of policies that were trained several times
are in :mod:`paramarket_baselines.evaluation.trainings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from rich.console import Group

from paramarket_baselines.evaluation.display import table
from paramarket_baselines.evaluation.estimates import (
    STATISTICS,
    Estimate,
    Scores,
    Summary,
    probability_of_improvement,
    student_mean,
)
from paramarket_baselines.evaluation.play import Arm, Episode, closed, play
from paramarket_baselines.evaluation.trainings import Trainings, difference, mean
from paramarket_baselines.evaluation.welfare import returns
from paramarket_baselines.policies.learned import trainings_of
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import POLICIES, PolicyFactory
from paramarket_env.validation import require

MEANS = {"advantage": "adv.", "surplus": "surplus", "test_accuracy": "test acc.", "all_better_off": "all better"}
"""Labels of the measures that are shown by their mean, in addition to the statistics of the return."""

DIFFERENCE = "minus first"
"""The label of the mean return minus that of the first policy."""

AGAINST = "against "
"""The prefix of a population's name in the label of the mean return against it."""


def evaluate(
    config: MarketConfig,
    policies: Sequence[str],
    populations: Sequence[str],
    seeds: Sequence[int],
    device: str | torch.device = "auto",
    on_task: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Play every policy in every seat while a population has all other seats; the seeds of a task are one batch.

    The table has one row for each run: policy, training (a number; see :func:`trainings_of`), population, seat, seed,
    the seat's ``return``, its ``advantage`` (the return minus that out of the market), ``surplus`` (the value of all
    purchases in the market to their buyers, in units of reward), the seat's ``test_accuracy``, ``all_better_off`` (1 if
    every agent has a positive advantage, otherwise 0) and ``error``. If a policy cannot play in this market, its
    measures are NaN and ``error`` says why.
    """
    require(len(seeds) >= 2, "seeds", len(seeds), "at least 2")
    for field_name, given in (("policies", policies), ("populations", populations), ("seeds", seeds)):
        require(len(set(given)) == len(given), field_name, tuple(given), "different from each other")
    for name in (*policies, *populations):
        POLICIES.parse(name)  # refuse unknown names before playing
    outside = returns(play(config, Arm("out of market", ("train",), closed), seeds, device, closing_trade=False))
    tables = []
    for policy, population, seat in product(policies, populations, range(config.agents)):
        for number, training in enumerate(trainings_of(policy)):
            names = [population] * config.agents
            names[seat] = training
            task = {"policy": policy, "training": number, "population": population, "seat": seat}
            try:
                episode = play(config, Arm(policy, tuple(names)), seeds, device, closing_trade=False)
            except ValueError as error:
                missing = dict.fromkeys(("return", *MEANS), float("nan"))
                measures = pd.DataFrame({"seed": list(seeds), **missing, "error": str(error)})
            else:
                measures = _measures(episode, seat, outside)
            tables.append(measures.assign(**task))
        on_task()
    runs: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return runs


def _measures(episode: Episode, seat: int, outside: pd.Series) -> pd.DataFrame:
    """The measures of one seat of an episode, by seed."""
    last = episode.steps[(episode.steps.cycle == episode.steps.cycle.max()) & (episode.steps.agent == seat)]
    total = returns(episode)
    advantages = total - outside
    measures: pd.DataFrame = pd.DataFrame(
        {
            "return": total.xs(seat, level="agent"),
            "advantage": advantages.xs(seat, level="agent"),
            "surplus": episode.trades.groupby("seed").value.sum().reindex(last.seed, fill_value=0.0),
            "test_accuracy": last.set_index("seed").test_accuracy,
            "all_better_off": (advantages > 0).groupby("seed").all().astype(float),
            "error": "",
        }
    ).reset_index()
    return measures


def compare_with_random(
    config: MarketConfig, learned: PolicyFactory, seeds: Sequence[int], device: str | torch.device = "auto"
) -> dict[str, Estimate]:
    """The mean return of an agent with the policy ``learned`` in all seats, and with ``random`` in all seats, by name.

    Both play the same seeds; the intervals are over seeds.
    """
    estimates = {}
    for arm in (Arm("random", ("random",)), Arm("learned", (learned,))):
        by_seed = returns(play(config, arm, seeds, device, closing_trade=False)).groupby("seed").mean()
        estimates[arm.name] = student_mean(by_seed.tolist())
    return estimates


def scores(runs: pd.DataFrame, policy: str, measure: str = "return") -> Trainings:
    """The scores of a policy, ``[trainings, tasks, seeds]``, in a fixed order; NaN where a task lacks a seed."""
    mine = runs[runs.policy == policy]
    by_task: pd.DataFrame = mine.pivot(index=["training", "population", "seat"], columns="seed", values=measure)
    found: Trainings = by_task.to_numpy(dtype=float).reshape(mine.training.nunique(), -1, by_task.shape[1])
    return found


def summary(runs: pd.DataFrame) -> Summary:
    """The estimates of every policy.

    They are the statistics of its return, its mean minus that of the first policy, its probability of improvement over
    the first policy, its mean return against each population, and the means of the other measures. Of a policy with
    several trainings, only means and differences have intervals.
    """
    return {policy: _estimates(runs, policy) for policy in runs.policy.unique().tolist()}


def _estimates(runs: pd.DataFrame, policy: str) -> dict[str, Estimate]:
    first, mine = runs.policy.iloc[0], scores(runs, policy)
    theirs = scores(runs, first)
    against = {str(name): scores(rows, policy) for name, rows in runs.groupby("population", sort=False)}
    return {
        **{name: _statistic(statistic, mine) for name, statistic in STATISTICS.items()},
        "mean": mean(mine),
        DIFFERENCE: difference(mine, theirs),
        f"P(> {first})": _improvement(mine, theirs),
        **{f"{AGAINST}{population}": mean(returned) for population, returned in against.items()},
        **{measure: mean(scores(runs, policy, measure)) for measure in MEANS},
    }


def _statistic(statistic: Callable[[Scores], Estimate], mine: Trainings) -> Estimate:
    """A statistic of all runs. Its interval is over seeds, so it has none for several trainings."""
    found = statistic(mine.reshape(-1, mine.shape[2]))
    return found if len(mine) == 1 else Estimate(found.value)


def _improvement(mine: Trainings, theirs: Trainings) -> Estimate:
    """The probability of improvement of a training of mine over one of theirs; no interval for several trainings."""
    found = [probability_of_improvement(*pair) for pair in product(mine, theirs)]
    return found[0] if len(found) == 1 else Estimate(float(np.mean([one.value for one in found])))


def estimates_table(summary: Summary, title: str) -> Group:
    """A summary for the terminal: a table of the returns with their intervals, and a table of the means."""
    names = list(next(iter(summary.values())))
    brief = [name for name in names if name.startswith(AGAINST) or name in MEANS]
    exact = [name for name in names if name not in ("median", *brief)]
    # The first policy's name may be a long path, too wide for a column.
    labels = [name if name in (*STATISTICS, DIFFERENCE) else "P(> first)" for name in exact]
    returned = {policy: [str(row[name]) for name in exact] for policy, row in summary.items()}
    means = {policy: [row[name].brief() for name in brief] for policy, row in summary.items()}
    populations = [MEANS.get(name, name.removeprefix(AGAINST)) for name in brief]
    return Group(
        table(returned, labels, title),
        table(means, populations, "mean return against each population; other means"),
    )


ESTIMATES_LEGEND = (
    "mean and IQM (interquartile mean) of a seat's return over seats, populations and seeds, with the [95 % interval] "
    "over trainings and seeds; minus first: the mean minus that of the first policy, paired by seat, population and "
    "seed; P: probability of a higher return than the first policy's in the same seat, against the same "
    "population, on the same seed; adv.: advantage, the return minus that out of the market; surplus: value of all "
    "purchases to their buyers; all better: share of the markets in which every agent has a positive advantage"
)
