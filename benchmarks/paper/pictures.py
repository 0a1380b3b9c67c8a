"""The picture of an experiment: measures over a setting, or differences between arms in all settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.paper.experiment import KINDS
from benchmarks.paper.findings import differences
from benchmarks.paper.grouped import Grouped
from benchmarks.paper.page import Page
from paramarket_baselines.evaluation.estimates import Estimate
from paramarket_env.interface.pictures import literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(page: Page) -> Figure:
    """The experiment's picture."""
    return _lines(page) if page.experiment.across else _forest(page)


def _forest(page: Page) -> Figure:
    """The differences that the orders compare, with their intervals: a panel for each, a line for each setting."""
    pairs, settings = differences(page.experiment), list(page.grouped.means)
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    figure = new_figure(figsize=(3 + 3.2 * columns, rows * (1.2 + 0.26 * len(settings))), dpi=100, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for panel, (worse, better, measure) in zip(panels, pairs, strict=False):
        found = [page.grouped.difference(setting, better, worse, measure) for setting in settings]
        _intervals(panel, found)
        panel.axvline(0, color="0.5", linewidth=0.8)
        panel.set_title(f"{literal(better)}\n− {literal(worse)}", fontsize=9)
        panel.set_xlabel(f"{KINDS[measure].label.lower()}, {KINDS[measure].unit}", fontsize=8)
    panels[0].set_yticks(range(len(settings)), [literal(setting) for setting in settings])
    for panel in panels[::columns]:
        panel.tick_params(axis="y", labelsize=8)
    panels[0].invert_yaxis()
    for panel in panels[len(pairs) :]:
        panel.axis("off")
    return figure


def _intervals(panel: Axes, found: Sequence[Estimate]) -> None:
    """A point with its interval for each estimate, one above the other."""
    for place, one in enumerate(found):
        panel.errorbar(one.value, place, xerr=_error(one), fmt="o", markersize=4, capsize=2, color="C0")
    panel.grid(axis="x", alpha=0.3)


def _lines(page: Page) -> Figure:
    """Each arm's measure over the values of one setting; a panel for each combination of the other settings."""
    axis, measure = page.experiment.across, page.experiment.measures[0]
    others = [column for column in page.settings if column != axis] + ([page.experiment.by] * bool(page.experiment.by))
    groups = page.table.groupby(others, sort=False) if others else [((), page.table)]
    panels = [(", ".join(map(str, values)), Grouped.of(group, [axis])) for values, group in groups]
    figure = new_figure(figsize=(1.5 + 4.2 * len(panels), 3.8), dpi=100, layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (title, grouped) in zip(drawn, panels, strict=True):
        _sweep(panel, grouped, list(dict.fromkeys(page.table.arm)), measure)
        panel.set_title(literal(title), fontsize=9)
        panel.set_xlabel(literal(axis))
    drawn[0].set_ylabel(f"{KINDS[measure].label.lower()}, {'%' if measure == 'test_accuracy' else KINDS[measure].unit}")
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _sweep(panel: Axes, grouped: Grouped, arms: Sequence[str], measure: str) -> None:
    names = list(grouped.means)
    for arm in arms:
        found = [grouped.estimate(name, arm, measure) for name in names]
        errors = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
        panel.errorbar(range(len(names)), [one.value for one in found], yerr=errors, marker="o", capsize=2, label=arm)
    panel.set_xticks(range(len(names)), [literal(name.rpartition(" ")[2]) for name in names])
    panel.grid(alpha=0.3)


def _error(one: Estimate) -> list[list[float]]:
    return [[one.value - one.low], [one.high - one.value]]
