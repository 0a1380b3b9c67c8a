"""Welfare and prices as a market grows: ``python -m benchmarks.crowds``.

All firms play the paper's rule in ``round`` mode in the scenario ``crowd-64``, with other numbers of firms and of
partners. The data of a firm, and the network with which all begin, stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import tyro
from rich.progress import track

from paramarket_baselines.evaluation.display import new_console
from paramarket_baselines.evaluation.play import Arm, Episode, closed, play
from paramarket_baselines.evaluation.report import Measure, per_seed, summarise, summary_table
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_baselines.evaluation.welfare import welfare
from paramarket_env.config import MarketConfig
from paramarket_env.market.devices import resolve_device
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require

ARMS = (Arm("out of market", ("train",), closed), Arm("paper", ("paper",)))

MEASURES = {
    "test_accuracy": Measure("test acc. %", 1),
    "accuracy_difference": Measure("vs. out", 1),
    "purchases": Measure("bought", 1),
    "price": Measure("price", 0),
    "value": Measure("value", 0),
    "sellers_share": Measure("sellers %", 0),
    "gini": Measure("Gini", 2),
    "advantage": Measure("adv.", 2),
}

LEGEND = (
    "mean ± half-width of the 95 % interval over seeds; vs. out: test accuracy minus that of the same firms out of the "
    "market, in points; bought: purchases per firm; price, value: mean ticks of a purchase, paid and worth to its "
    "buyer; the other columns are those of `paramarket run`"
)


@dataclass(frozen=True)
class Crowds:
    """Play the paper's rule with each number of firms, and then with each number of partners."""

    agents: tuple[int, ...] = (6, 16, 64, 256)
    """Numbers of firms, with four partners each."""
    partners: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of partners, among 64 firms."""
    seeds: int = 8
    """Number of seeds, from 0 on."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        require(self.seeds >= 2, "seeds", self.seeds, "an integer >= 2")

    def series(self) -> Iterator[tuple[str, dict[str, MarketConfig]]]:
        """Titles, each with its markets by label: N firms with k partners."""
        base = scenario("crowd-64", action_mode="round")
        yield "four partners", {f"N = {count}": base.changed(agents=count) for count in self.agents}
        yield "64 firms", {f"k = {count}": base.changed(partners=count) for count in self.partners}


def measures(label: str, config: MarketConfig, seeds: Sequence[int], device: str) -> pd.DataFrame:
    """``MEASURES`` of the paper's rule in a market, a row for each seed."""
    episodes = [play(config, arm, seeds, device) for arm in ARMS]
    tables = [per_seed(episodes), welfare(episodes, config.economy)]
    learning, economy = (table[table.arm == ARMS[1].name].set_index("seed") for table in tables)
    found = learning.drop(columns="arm").join(economy).join(_purchases(episodes[1], config))
    frame: pd.DataFrame = found[list(MEASURES)].reset_index().assign(arm=label)
    return frame


def _purchases(episode: Episode, config: MarketConfig) -> pd.DataFrame:
    """The mean price and the mean value of a purchase in ticks, by seed."""
    means: pd.DataFrame = episode.trades.groupby("seed")[["price", "value"]].mean()
    means["value"] /= config.economy.tick
    return means


def main() -> None:
    """Play and print the tables."""
    options = tyro.cli(Crowds)
    console, seeds = new_console(120), range(options.seeds)
    for title, markets in options.series():
        rows = [
            measures(label, config, seeds, options.device)
            for label, config in track(markets.items(), title, console=console, transient=True)
        ]
        if rows:
            console.print(summary_table(summarise(pd.concat(rows, ignore_index=True)), title, MEASURES))
    console.print(LEGEND)
    console.print(f"{machine(provenance(seeds, resolve_device(options.device)))}, seeds {seeds}")


if __name__ == "__main__":
    main()
