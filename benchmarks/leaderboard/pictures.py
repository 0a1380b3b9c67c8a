"""The pictures of the leaderboard: the payoffs of all entries against all, and the courses of the trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.leaderboard.boards import Board
from benchmarks.leaderboard.entries import slug
from benchmarks.leaderboard.plays import Stored
from paramarket_baselines.evaluation.results import read_json
from paramarket_env.interface.pictures import literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTER = (10, 90)
"""The percentiles of the payoffs that have the outer colours."""


def draw_payoffs(boards: Mapping[str, Board]) -> Figure:
    """A heat map for each scenario: the mean return of the row's entry while the column's has all other seats.

    The colours leave out the highest and the lowest payoffs, such as those against `greedy`, which pays any price.
    """
    figure, panels = _panels(boards, 5.6)
    for panel, board in panels:
        names = [literal(name) for name in board.strategies]
        if not names:
            panel.axis("off")
            continue
        table = board.payoffs.table
        lowest, highest = np.percentile(table, OUTER)
        image = panel.imshow(table, cmap="viridis", vmin=lowest, vmax=highest)
        figure.colorbar(image, ax=panel, shrink=0.8, extend="both")
        panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        panel.set_yticks(range(len(names)), names, fontsize=7)
    return figure


def draw_curves(boards: Mapping[str, Board]) -> Figure:
    """A line for each stored training: the return in its evaluations over its agent-steps; a colour for each entry."""
    records = {name: _all_records(board) for name, board in boards.items()}
    figure, panels = _panels({name: board for name, board in boards.items() if any(records[name].values())}, 3.2)
    for panel, board in panels:
        for place, (name, found) in enumerate(records[board.venue.name].items()):
            for number, record in enumerate(found):
                curve, label = record["curve"], literal(name) if number == 0 else None
                panel.plot(curve["timesteps"], curve["return"], color=f"C{place}", alpha=0.7, label=label)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=7)
    figure.supxlabel("agent-steps")
    figure.supylabel("return in evaluations")
    return figure


def _all_records(board: Board) -> dict[str, list[Stored]]:
    """The stored trainings of every entry that the leaderboard trains."""
    return {name: training_records(board, name) for name, entry in board.entries.items() if entry.is_trained_here}


def training_records(board: Board, entry: str) -> list[Stored]:
    """The courses and costs of an entry's trainings that are stored, by seed."""
    files = (board.venue.folder / "trainings").glob(f"{slug(entry)}.*.json")
    return [read_json(file) for file in sorted(files)]


def _panels(boards: Mapping[str, Board], height: float) -> tuple[Figure, Iterator[tuple[Axes, Board]]]:
    """A figure with a titled panel for each scenario, two in a row."""
    rows = -(-len(boards) // 2) or 1
    figure = new_figure(figsize=(12, height * rows), dpi=100, layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).flatten()
    for panel, name in zip(panels, boards, strict=False):
        panel.set_title(literal(name), loc="left", fontsize=10)
    for panel in panels[len(boards) :]:
        panel.axis("off")
    return figure, zip(panels, boards.values(), strict=False)
