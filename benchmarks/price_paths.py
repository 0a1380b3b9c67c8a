"""The asks of one seller in one market and the values of its buyers, cycle by cycle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paramarket_baselines.evaluation.results import write_picture
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.pictures import new_figure
from paramarket_env.market.orders import StepRecord


class PricePath:
    """Records the last seller of a batch's first market in each step, in ticks."""

    def __init__(self) -> None:
        self.asks: list[float] = []
        """The ask in each coming step; NaN while withheld."""
        self.values: list[list[float]] = []
        """The value of the offer to each buyer in each coming step."""
        self.sales: list[tuple[int, float]] = []
        """The cycle and the price of each sale."""

    def __call__(self, batch: MarketBatch, record: StepRecord | None) -> None:
        """See ``paramarket_baselines.evaluation.play.OnStep``."""
        engine, seller = batch.engine, batch.config.agents - 1
        if record is not None:
            bought = (record.seller[0] == seller).nonzero().flatten().tolist()
            self.sales += [(len(self.asks) - 1, float(record.paid[0, buyer])) for buyer in bought]
        ask = int(engine.asks[0, seller, 0])
        self.asks.append(ask if ask >= 0 else math.nan)
        values = engine.broker.to_sellers(engine.state, engine.values)[0, seller].unflatten(
            0, (batch.config.agents - 1, -1)
        )
        self.values.append((values.amax(1).clamp_min(0) / engine.config.economy.tick).tolist())


def draw_paths(paths: Mapping[str, PricePath], title: str, file: Path) -> None:
    """One panel for each rule: the ask, the buyers' values, and the sales."""
    columns = math.ceil(len(paths) / 2)
    figure = new_figure(figsize=(4 * columns, 7), dpi=110, layout="constrained")
    panels = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (name, path) in zip(panels, paths.items(), strict=False):
        # The last row describes the market after the episode, where it is closed.
        values = np.asarray(path.values[:-1])
        for buyer, value in enumerate(values.T):
            axes.plot(value, color="#7a9cc6", linewidth=1, label="value to a buyer" if buyer == 0 else None)
        axes.step(range(len(values)), path.asks[:-1], where="mid", color="#c0392b", linewidth=1.5, label="asked")
        if path.sales:
            cycles, prices = zip(*path.sales, strict=True)
            axes.scatter(cycles, prices, s=18, color="#2e7d32", zorder=3, label="sold")
        axes.set_yscale("symlog", linthresh=10)
        axes.set_title(name)
        axes.grid(alpha=0.25)
    for axes in panels[len(paths) :]:
        axes.set_axis_off()
    panels[0].legend(loc="lower right")
    panels[0].set_ylabel("ticks")
    figure.supxlabel("cycle")
    figure.suptitle(title)
    write_picture(file, figure)
