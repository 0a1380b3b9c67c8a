"""The report of ``paramarket run``: measures by seed, their summary with intervals, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import RenderableType

from paramarket_baselines.evaluation.display import table
from paramarket_baselines.evaluation.estimates import Summary, student_mean
from paramarket_baselines.evaluation.names import fit
from paramarket_baselines.evaluation.play import Episode
from paramarket_env.interface.pictures import literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measure:
    """The label and format of a measure."""

    label: str
    digits: int
    """Decimal places."""


MEASURES = {
    "test_accuracy": Measure("test acc. %", 1),
    "accuracy_difference": Measure("vs. first", 1),
    "validation_loss": Measure("val. loss", 2),
    "purchases": Measure("bought", 1),
    "paid": Measure("paid", 0),
    "return": Measure("return", 2),
}
"""Columns of the table. Each has a number for every arm and seed: the mean over the agents. A run's results contain
more measures."""

LEGEND = (
    "mean ± half-width of the 95 % interval over seeds, each seed with the mean over its agents; vs. first: "
    "test accuracy minus that of the first line, paired by seed, in percentage points; val. loss: nats; bought: number "
    "of purchases; paid: ticks"
)

BY_TASK_LEGEND = (
    "test accuracy on each task, in percent, the mean over the agents that have it; vs. first: that minus the accuracy "
    "in the first line, paired by seed, in percentage points"
)

ARM_NAME_WIDTH = 40
"""Characters of an arm's name in the legend of a picture."""

CLASS_LABELS = 40
"""The number of classes from which only every second class has a label in a picture, or fewer have."""


def per_seed(episodes: Sequence[Episode]) -> pd.DataFrame:
    """``MEASURES`` and more of the last cycle for each arm (in order) and seed.

    ``accuracy_difference`` is the difference from the first arm on the same seed, so that effects of the seed on all
    arms cancel out.
    """
    frames: pd.DataFrame = pd.concat([_episode_measures(episode) for episode in episodes]).reset_index()
    first = frames[frames.arm == frames.arm.iloc[0]].set_index("seed").test_accuracy
    frames["accuracy_difference"] = frames.test_accuracy - frames.seed.map(first)
    return frames


def _episode_measures(episode: Episode) -> pd.DataFrame:
    steps, keys = episode.steps, ["arm", "seed"]
    last = steps[steps.cycle == steps.cycle.max()].groupby(keys, sort=False)
    accuracies = ["test_accuracy", "scarce_accuracy", "other_accuracy"]
    frame: pd.DataFrame = last[[*accuracies, "validation_loss"]].mean()
    frame[accuracies] *= 100
    agents, prices = steps.agent.nunique(), episode.trades.groupby(keys).price
    frame["purchases"] = (prices.size() / agents).reindex(frame.index, fill_value=0)
    frame["paid"] = (prices.sum() / agents).reindex(frame.index, fill_value=0)
    returns = steps.groupby([*keys, "agent"], sort=False).reward.sum()
    frame["return"] = returns.groupby(keys, sort=False).mean()
    return frame


def per_task(episodes: Sequence[Episode]) -> pd.DataFrame:
    """The test accuracy of each task at the end, and its difference from the first arm, for each arm and seed.

    They are in percent and in percentage points, and the columns are those of :func:`task_measures`.
    """
    last = pd.concat([episode.steps[episode.steps.cycle == episode.steps.cycle.max()] for episode in episodes])
    means = 100 * last.groupby(["arm", "seed", "task"], sort=False).test_accuracy.mean().unstack("task", sort=False)
    first = means.xs(means.index[0][0]).reindex(means.index, level="seed")
    frame = pd.concat([means.add_prefix(ACCURACY), (means - first).add_prefix(DIFFERENCE)], axis=1)
    table: pd.DataFrame = frame.reset_index()
    return table


ACCURACY, DIFFERENCE = "test accuracy of ", "difference of "
"""The prefixes of a task's name in the columns of :func:`per_task`."""


def task_measures(tasks: Sequence[str]) -> dict[str, Measure]:
    """Columns of the summary for each of the ``tasks``, by name."""
    measures = {}
    for task in tasks:
        measures[ACCURACY + task] = Measure(f"{task} %", 1)
        measures[DIFFERENCE + task] = Measure("vs. first", 1)
    return measures


def summarise(measures: pd.DataFrame) -> Summary:
    """The mean over seeds of every measure, by arm; ``measures`` has one row for each arm and seed."""
    names = [column for column in measures.columns if column not in ("arm", "seed")]
    return {
        str(arm): {name: student_mean(rows[name].tolist()) for name in names}
        for arm, rows in measures.groupby("arm", sort=False)
    }


def summary_table(summary: Summary, title: str, measures: Mapping[str, Measure] = MEASURES) -> RenderableType:
    """The ``measures`` of a summary for the terminal, a line for each arm."""
    rows = {
        arm: [estimates[name].symmetric(measure.digits) for name, measure in measures.items()]
        for arm, estimates in summary.items()
    }
    return table(rows, [measure.label for measure in measures.values()], title)


def draw_curves(episodes: Sequence[Episode], title: str) -> Figure:
    """Test accuracy and validation loss over the cycles: means over seeds with their 95 % intervals."""
    figure = new_figure(figsize=(12, 4.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, episodes, "test_accuracy", "test accuracy (%)", 100)
    _draw_curve(right, episodes, "validation_loss", "validation loss (nats)", 1)
    left.legend()
    figure.suptitle(literal(title), wrap=True)
    return figure


def _draw_curve(axes: Axes, episodes: Sequence[Episode], column: str, label: str, factor: float) -> None:
    arms = fit([str(episode.steps.arm.iloc[0]) for episode in episodes], ARM_NAME_WIDTH)
    for arm, episode in zip(arms, episodes, strict=True):
        draw_band(axes, episode.steps.groupby(["cycle", "seed"])[column].mean().unstack() * factor, arm)
    axes.set_xlabel("cycle")
    axes.set_title(label)
    axes.grid(alpha=0.25)


def draw_band(axes: Axes, by_seed: pd.DataFrame, label: str, **style: Any) -> None:
    """Draw the mean of each row over the seeds, which are the columns, and its 95 % interval, over the index."""
    means = [student_mean(row) for row in by_seed.to_numpy().tolist()]
    (line,) = axes.plot(by_seed.index, [mean.value for mean in means], label=literal(label), **style)
    bounds = [mean.low for mean in means], [mean.high for mean in means]
    axes.fill_between(by_seed.index, *bounds, color=line.get_color(), alpha=0.15)


def draw_classes(episodes: Sequence[Episode], title: str) -> Figure:
    """Test accuracy on the scarce and on the other classes, if there are any: over the cycles, and by class."""
    found = set(episodes[0].classes.scarce)
    kinds = [(name, scarce) for name, scarce in (("scarce", True), ("other", False)) if scarce in found]
    figure = new_figure(figsize=(12, 7.2), dpi=100, layout="constrained")
    panels = figure.subplots(2, len(kinds), sharey=True, squeeze=False)
    for (name, scarce), (upper, lower) in zip(kinds, panels.T, strict=True):
        _draw_curve(upper, episodes, f"{name}_accuracy", f"test accuracy on {name} classes (%)", 100)
        _draw_by_class(lower, episodes, scarce=scarce)
        lower.set_title(f"{name} classes one by one, at the end (%)")
    panels[0, 0].legend()
    figure.suptitle(literal(title), wrap=True)
    return figure


def _draw_by_class(axes: Axes, episodes: Sequence[Episode], *, scarce: bool) -> None:
    """A mark with its interval for each class and arm. The arms stand side by side."""
    for place, episode in enumerate(episodes):
        rows = episode.classes[episode.classes.scarce == scarce]
        by_seed = rows.groupby(["task", "class", "seed"]).test_accuracy.mean().unstack() * 100
        means = [student_mean(row) for row in by_seed.to_numpy().tolist()]
        where = np.arange(len(means)) + 0.7 * ((place + 0.5) / len(episodes) - 0.5)
        halves = [(mean.high - mean.low) / 2 for mean in means]
        axes.errorbar(where, [mean.value for mean in means], halves, fmt="o", markersize=4, linewidth=1)
    every = 1 + len(by_seed) // CLASS_LABELS
    names = [f"{task} {number}" if by_seed.index.levshape[0] > 1 else f"{number}" for task, number in by_seed.index]
    rotation = 90 if max(map(len, names)) > 3 else 0
    axes.set_xticks(np.arange(len(names))[::every], [literal(name) for name in names[::every]], rotation=rotation)
    axes.set_xlabel("class")
    axes.grid(alpha=0.25)
