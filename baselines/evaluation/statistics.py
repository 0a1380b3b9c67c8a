"""How good is a policy? Each one in every seat beside every population, on the same seeds, with honest statistics.

The statistics are those of Agarwal et al., *Deep reinforcement learning at the edge of the statistical precipice*
(NeurIPS 2021): a task is a seat beside a population, a run is a seed; intervals come from a bootstrap that is
stratified by task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.console import Group
from rich.table import Table
from scipy import stats

from baselines.evaluation.play import Arm, Episode, closed, play
from baselines.evaluation.welfare import returns
from baselines.policies.decisions import POLICIES
from paramarket_env.config import MarketConfig, require

POPULATIONS = ("train", "paper", "patient", "greedy", "random")
"""Who has the other seats unless it is told: those that ``paramarket train`` learns beside, and one it never meets."""

MEANS = {"advantage": "advantage", "surplus": "surplus", "test_accuracy": "test acc.", "all_better_off": "all better"}
"""Measures of which the mean is told, besides the statistics of the return, and their labels."""

AGAINST = "beside "
"""Before a population's name: the mean return beside it."""

RESAMPLES = 2000
CONFIDENCE = 0.95

Samples = tuple[np.ndarray, ...]
"""The scores of a policy's runs, ``[runs]`` for each task."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Of all scores together, along the last axis."""

STATISTICS: dict[str, Statistic] = {
    "mean": lambda scores: scores.mean(-1),
    "median": lambda scores: np.median(scores, axis=-1),
    "IQM": lambda scores: stats.trim_mean(scores, 0.25, axis=-1),
}
"""IQM: the mean of the middle half."""


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % interval; all NaN where a run is missing."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "–" if np.isnan(self.value) else f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def brief(self) -> str:
        """The value without its interval."""
        return "–" if np.isnan(self.value) else f"{self.value:.2f}"


HOLE = Estimate(float("nan"), float("nan"), float("nan"))


def evaluate(
    config: MarketConfig,
    policies: Sequence[str],
    populations: Sequence[str],
    seeds: Sequence[int],
    device: str | torch.device = "auto",
    on_task: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """Play every policy in every seat while a population's policy has all other seats, one batch of seeds each.

    One row a run: policy, population, seat, seed, ``return`` of the seat, ``advantage`` (the return above that out of
    the market), ``surplus`` (what all purchases in the market were worth to their buyers, in units of reward),
    ``test_accuracy`` of the seat, ``all_better_off`` (0 or 1). The figures of a policy that cannot play here are NaN,
    and ``error`` says why.
    """
    require(len(seeds) >= 2, "seeds", len(seeds), "at least 2")
    for name in (*policies, *populations):
        POLICIES.parse(name)  # what does not exist is refused before anything is played
    outside = returns(play(config, Arm("out of market", ("train",), closed), seeds, device, closing_trade=False))
    tables = []
    for policy, population, seat in product(policies, populations, range(config.agents)):
        names = [population] * config.agents
        names[seat] = policy
        task = {"policy": policy, "population": population, "seat": seat}
        try:
            episode = play(config, Arm(policy, tuple(names)), seeds, device, closing_trade=False)
        except ValueError as error:
            missing = dict.fromkeys(("return", *MEANS), float("nan"))
            figures = pd.DataFrame({"seed": list(seeds), **missing, "error": str(error)})
        else:
            figures = _metrics(episode, seat, outside)
        tables.append(figures.assign(**task))
        on_task()
    found: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return found


def _metrics(episode: Episode, seat: int, outside: pd.Series) -> pd.DataFrame:
    """What one seat had of an episode, by seed."""
    last = episode.steps[(episode.steps.cycle == episode.steps.cycle.max()) & (episode.steps.agent == seat)]
    total = returns(episode)
    advantages = total - outside
    figures: pd.DataFrame = pd.DataFrame(
        {
            "return": total.xs(seat, level="agent"),
            "advantage": advantages.xs(seat, level="agent"),
            "surplus": episode.trades.groupby("seed").value.sum().reindex(last.seed, fill_value=0.0),
            "test_accuracy": last.set_index("seed").test_accuracy,
            "all_better_off": (advantages > 0).groupby("seed").all().astype(float),
            "error": "",
        }
    )
    table: pd.DataFrame = figures.reset_index()
    return table


def samples(runs: pd.DataFrame, policy: str, measure: str = "return") -> Samples:
    """The scores of a policy, task by task in a fixed order."""
    mine = runs[runs.policy == policy].sort_values(["population", "seat", "seed"])
    return tuple(group[measure].to_numpy(dtype=float) for _, group in mine.groupby(["population", "seat"], sort=True))


def estimate(scores: Samples, statistic: Statistic) -> Estimate:
    """A statistic of all scores, with the percentile interval of a bootstrap that resamples each task's runs."""

    def together(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        every: np.ndarray = statistic(np.concatenate(tasks, axis=axis))
        return every

    return _bootstrap(scores, together)


def improvement(mine: Samples, theirs: Samples) -> Estimate:
    """The chance that a run of mine has a higher score than one of theirs on the same task, on average over tasks.

    Equal scores count half (Agarwal et al. 2021, section 4.3).
    """

    def chance(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(tasks[: len(mine)], tasks[len(mine) :], strict=True)
        average: np.ndarray = np.mean([_chance(ours, others) for ours, others in pairs], axis=0)
        return average

    return _bootstrap((*mine, *theirs), chance)


def _chance(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    ours, others = mine[..., :, None], theirs[..., None, :]
    wins: np.ndarray = ((ours > others) + 0.5 * (ours == others)).mean((-2, -1))
    return wins


def _bootstrap(tasks: Samples, statistic: Callable[..., np.ndarray]) -> Estimate:
    if not all(np.isfinite(scores).all() for scores in tasks):
        return HOLE
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


def summary(runs: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """The statistics of every policy's returns, its chance to beat the first one, and its means.

    The means are those of the other measures, and those of the return beside each population.
    """
    policies, populations = runs.policy.unique().tolist(), runs.population.unique().tolist()
    first = samples(runs, policies[0])
    table = {}
    for policy in policies:
        scores = samples(runs, policy)
        estimates = {name: estimate(scores, statistic) for name, statistic in STATISTICS.items()}
        estimates[f"P(> {policies[0]})"] = improvement(scores, first)
        for population in populations:
            beside = samples(runs[runs.population == population], policy)
            estimates[f"{AGAINST}{population}"] = estimate(beside, STATISTICS["mean"])
        for measure in MEANS:
            estimates[measure] = estimate(samples(runs, policy, measure), STATISTICS["mean"])
        table[policy] = estimates
    return table


def estimates_table(estimates: dict[str, dict[str, Estimate]], title: str) -> Group:
    """The summary for the terminal, what is missing as a dash: the return with its intervals, then the means."""
    names = list(next(iter(estimates.values())))
    brief = [name for name in names if name.startswith(AGAINST) or name in MEANS]
    exact = [name for name in names if name not in ("median", *brief)]
    cells = {policy: [str(row[name]) for name in exact] for policy, row in estimates.items()}
    means = {policy: [row[name].brief() for name in brief] for policy, row in estimates.items()}
    # The first policy's name would make a wide column of what may be a long path.
    statistics = [name if name in STATISTICS else "P(> first)" for name in exact]
    labels = [MEANS.get(name, name.removeprefix(AGAINST)) for name in brief]
    others = "mean return beside each population; other means"
    return Group(_table(cells, statistics, title), _table(means, labels, others))


def _table(rows: dict[str, list[str]], labels: Sequence[str], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for label, column in zip(labels, zip(*rows.values(), strict=True), strict=True):
        # Where there is little room, names are cut short, not figures.
        table.add_column(label, justify="right", no_wrap=True, min_width=max(map(len, [label, *column])))
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


ESTIMATES_LEGEND = (
    "mean and interquartile mean of a seat's return, over seats, populations and seeds, [95 % interval] of a bootstrap "
    "stratified by seat and population; P: the chance of a higher return than the first policy's on the same task; "
    "advantage: return above that out of the market; surplus: what all purchases were worth to their buyers; "
    "all better: share of the markets in which every agent has a positive advantage"
)


def write_evaluation(
    folder: Path, config: MarketConfig, runs: pd.DataFrame, estimates: dict[str, dict[str, Estimate]], origin: Any
) -> None:
    """Keep an evaluation: ``config.json``, ``runs.csv`` (one row a run, failed ones too), ``summary.json``."""

    def plain(figure: float) -> float | None:
        return None if np.isnan(figure) else figure

    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
    runs.to_csv(folder / "runs.csv", index=False)
    policies = {
        policy: {name: [plain(found.value), plain(found.low), plain(found.high)] for name, found in row.items()}
        for policy, row in estimates.items()
    }
    kept = {"policies": policies, **origin}
    (folder / "summary.json").write_text(json.dumps(kept, indent=2, allow_nan=False) + "\n")
