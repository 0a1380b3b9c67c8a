"""From episodes to a summary with intervals, a picture and a folder that keeps the run."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy import stats

from baselines.evaluation.play import Episode
from paramarket_env import __version__
from paramarket_env.config import MarketConfig

CONFIDENCE = 0.95

Summary = dict[str, dict[str, tuple[float, float | None]]]
"""``{arm: {measure: (mean, half-width of its interval)}}``."""

MEASURES = {
    "test_accuracy": "test acc. %",
    "accuracy_difference": "vs. first",
    "validation_loss": "val. loss",
    "trades": "bought",
    "money": "paid",
    "return": "return",
}
"""Columns of the summary: each is a number for every arm and seed, the mean over the agents."""

LEGEND = (
    "mean ± half-width of the 95 % interval over seeds, each seed the mean over its agents; vs. first: accuracy points "
    "above the first line, paired by seed; val. loss in nats; bought: purchases; paid: ticks"
)


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the half-width of its 95 % Student interval (None for a single value).

    Values that are NaN do not count; if there are no others the mean is NaN.
    """
    sample = np.asarray(values, dtype=float)
    sample = sample[~np.isnan(sample)]
    if len(sample) < 2:
        return (float(sample[0]) if len(sample) else float("nan")), None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1) * stats.sem(sample)
    return float(sample.mean()), float(half)


def per_seed(episodes: Sequence[Episode]) -> pd.DataFrame:
    """``MEASURES`` of the last cycle for each arm (in order) and seed.

    ``accuracy_difference`` is the difference from the first arm on the same seed, so that what a seed makes easy or
    hard for all cancels out.
    """
    frames = []
    for episode in episodes:
        steps, trades = episode.steps, episode.trades
        last = steps[steps.cycle == steps.cycle.max()].groupby(["arm", "seed"], sort=False)
        rewards = steps.groupby(["arm", "seed", "agent"], sort=False).reward.sum().groupby(["arm", "seed"], sort=False)
        frame = last[["test_accuracy", "validation_loss"]].mean()
        frame["test_accuracy"] *= 100
        agents = steps.agent.nunique()
        by_seed = trades.groupby(["arm", "seed"]).price
        frame["trades"] = (by_seed.size() / agents).reindex(frame.index, fill_value=0)
        frame["money"] = (by_seed.sum() / agents).reindex(frame.index, fill_value=0)
        frame["return"] = rewards.mean()
        frames.append(frame)
    table: pd.DataFrame = pd.concat(frames).reset_index()
    first = table[table.arm == table.arm.iloc[0]].set_index("seed").test_accuracy
    table["accuracy_difference"] = table.test_accuracy - table.seed.map(first)
    return table


def summarise(table: pd.DataFrame) -> Summary:
    """Mean and half-width of every measure of a table with one row for each arm and seed, by arm."""
    measures = [column for column in table.columns if column not in ("arm", "seed")]
    return {
        str(arm): {measure: interval(rows[measure].tolist()) for measure in measures}
        for arm, rows in table.groupby("arm", sort=False)
    }


def provenance(seeds: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What a figure depends on besides the configuration."""
    packages = ("torch", "numpy", "scipy", "gymnasium", "pettingzoo")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "seeds": list(seeds),
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "python": platform.python_version(),
        "versions": {"paramarket-env": __version__} | {package: version(package) for package in packages},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


COLUMNS = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
"""Of progress bars; the remaining time comes behind them."""


def new_console() -> Console:
    """A console that is as wide as the tables where its output is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 112)


def as_table(summary: Summary, title: str, measures: Mapping[str, str] = MEASURES) -> Table:
    """The ``measures`` of a summary, with their labels, for the terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for label in measures.values():
        table.add_column(label, justify="right", no_wrap=True)
    for arm, figures in summary.items():
        table.add_row(arm, *(_cell(measure, *figures[measure]) for measure in measures))
    return table


DIGITS = {
    "validation_loss": 2,
    "return": 2,
    "advantage": 2,
    "gini": 2,
    "money": 0,
    "revenue": 0,
    "regret": 0,
} | dict.fromkeys(("efficiency", "sellers_share", "omniscient_share", "better_off"), 0)
"""Decimals of the measures that are not shown with one."""


def _cell(measure: str, mean: float, half: float | None) -> str:
    digits = DIGITS.get(measure, 1)
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" if half is None else f"{mean:.{digits}f} ± {half:.{digits}f}"


def draw_curves(episodes: Sequence[Episode], title: str) -> Figure:
    """Test accuracy and validation loss over the cycles: means over seeds with their 95 % intervals."""
    figure = Figure(figsize=(12, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, column, label, factor in zip(
        panels,
        ("test_accuracy", "validation_loss"),
        ("test accuracy (%)", "validation loss (nats)"),
        (100, 1),
        strict=True,
    ):
        for episode in episodes:
            by_seed = episode.steps.groupby(["cycle", "seed"])[column].mean().unstack() * factor
            means, halves = zip(*(interval(row) for row in by_seed.to_numpy().tolist()), strict=True)
            mean, half = np.array(means), np.array([half or 0.0 for half in halves])
            (line,) = axes.plot(by_seed.index, mean, label=episode.steps.arm.iloc[0])
            axes.fill_between(by_seed.index, mean - half, mean + half, color=line.get_color(), alpha=0.15)
        axes.set_xlabel("cycle")
        axes.set_title(label)
        axes.grid(alpha=0.25)
    panels[0].legend()
    figure.suptitle(title)
    return figure


def claim_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the run folder, or raise ``FileExistsError`` if there is one already and it may not be overwritten."""
    if folder.exists() and not overwrite:
        raise FileExistsError(f"out={str(folder)!r} exists already: choose another folder, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)


def write_run(
    folder: Path,
    config: MarketConfig,
    episodes: Sequence[Episode],
    summary: Summary,
    origin: dict[str, Any],
    title: str,
) -> None:
    """Keep a run: ``config.json``, ``steps.csv``, ``trades.csv``, ``summary.json``, ``curves.png``."""
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    pd.concat([episode.steps for episode in episodes]).to_csv(folder / "steps.csv", index=False)
    pd.concat([episode.trades for episode in episodes]).to_csv(folder / "trades.csv", index=False)
    arms = {
        arm: {
            measure: {"mean": None if math.isnan(mean) else mean, "half_width_95": half}
            for measure, (mean, half) in measures.items()
        }
        for arm, measures in summary.items()
    }
    (folder / "summary.json").write_text(
        json.dumps({"title": title, "arms": arms, **origin}, indent=2, allow_nan=False) + "\n"
    )
    draw_curves(episodes, title).savefig(folder / "curves.png")
