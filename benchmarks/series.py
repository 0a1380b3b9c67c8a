"""Contenders of the throughput benchmark that were measured in turn, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.contenders import Memory
from paramarket_env.interface.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALED_MARKETS = 16
"""The number of markets with which agents, parameter sets and widths are compared."""


@dataclass(frozen=True)
class Measured:
    """The time of one contender's steps, and their time at the roofline. A step advances all its markets."""

    name: str
    num_markets: int
    agents: int
    goods: int
    seconds: float
    """The median of the seconds of a step."""
    phases: dict[str, float]
    """Seconds of each phase of that step."""
    all_seconds: list[float]
    """Seconds of every measured step."""
    flop: dict[str, int]
    unshared_flop: int
    """FLOP if no tries were shared; two agents that trade whole networks share theirs."""
    bytes: dict[str, int]
    roofline_seconds: float
    memory: Memory | None = None
    """The memory of a separate process; None: not measured."""

    @property
    def milliseconds(self) -> float:
        """Milliseconds per agent-step."""
        return 1000 * self.seconds / self.agent_steps

    @property
    def agent_steps(self) -> int:
        """Agent-steps in a step: the agents of all markets."""
        return self.num_markets * self.agents


@dataclass(frozen=True)
class Series:
    """Contenders measured in turn."""

    rows: list[Measured]
    product_rate: float
    """FLOP/s of a large float32 matrix product."""
    copy_bandwidth: float
    """Bytes/s that a large copy reads and writes."""
    disagreement: float | None = None
    """The largest difference between the losses of the reference and of the engine's first market, in nats."""
    loading: float | None = None
    """Seconds that the authors' scripts spend in a step on loading data, besides what the reference computes."""


def draw(digits: Series, scaling: dict[str, Series], title: str) -> Figure:
    """Milliseconds per agent-step as the number of markets, and each quantity of ``scaling``, grows."""
    figure = new_figure(figsize=(14, 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 1 + len(scaling), sharey=True, squeeze=False)[0]
    reference, *engines = digits.rows
    panels[0].axhline(reference.milliseconds, color="tab:red", label="reference")
    _draw_costs(panels[0], replace(digits, rows=engines), [str(row.num_markets) for row in engines])
    panels[0].set_xlabel("markets")
    for axes, (what, series) in zip(panels[1:], scaling.items(), strict=True):
        _draw_costs(axes, series, [row.name for row in series.rows])
        axes.set_xlabel(f"{what} ({SCALED_MARKETS} markets)")
    panels[0].set_ylabel("ms per agent-step")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    figure.suptitle(title)
    return figure


def _draw_costs(axes: Axes, series: Series, labels: Sequence[str]) -> None:
    """Draw the measurements and the roofline, numbers on a logarithmic axis, other labels at equal distances."""
    numbers = all(label.isdigit() for label in labels)
    places = [int(label) for label in labels] if numbers else range(len(labels))
    axes.set_yscale("log")
    if numbers:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, labels)
    axes.minorticks_off()
    axes.plot(places, [row.milliseconds for row in series.rows], "o-", label="engine")
    rooflines = [1000 * row.roofline_seconds / row.agent_steps for row in series.rows]
    axes.plot(places, rooflines, "k--", label="roofline")
    axes.grid(alpha=0.25)
