"""What each mechanism costs: the share of a step that goes into clearing: ``python -m benchmarks.clearing``.

Many markets of eight agents, in rounds: everybody trains, orders one purchase at random, and re-prices, so that all
orders of a step meet in the book.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro
from rich import box
from rich.table import Table

from baselines.evaluation.report import new_console, provenance
from benchmarks.phases import Phases, phase_seconds
from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.market.engine import Engine, resolve_device
from paramarket_env.market.exchange import Exchange
from paramarket_env.market.orders import Orders
from paramarket_env.scenarios import scenario
from paramarket_env.seeding import as_seeds
from paramarket_env.validation import require

PHASES: Phases = (
    ("clear", Exchange, "clear"),
    ("settle", Exchange, "settle"),
    ("merge", Engine, "_merge"),
)


@dataclass(frozen=True)
class Clearing:
    """Time a step, and the clearing in it, with each mechanism."""

    num_markets: int = 1024
    """M."""
    agents: int = 8
    """N."""
    steps: int = 3
    """Steps of which the median is shown, after one that is not counted."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "an integer >= 1")


def any_orders(engine: Engine, generator: torch.Generator) -> Orders:
    """Everybody trains, wants some offer at some bid, and posts some level."""
    shape = (engine.num_markets, engine.config.agents)

    def draw(high: int, *extra: int) -> torch.Tensor:
        return torch.randint(high, (*shape, *extra), generator=generator).to(engine.device)

    levels = len(engine.config.economy.ask_levels)
    return Orders(
        train=torch.ones(shape, dtype=torch.bool, device=engine.device),
        offer=draw(engine.offers),
        bid=draw(engine.exchange.bid_levels),
        ask=draw(levels + 1, engine.exchange.ask_slots),
    )


def measure(config: MarketConfig, options: Clearing) -> dict[str, float]:
    """Median seconds of each phase of a step."""
    engine = Engine(config, options.num_markets, options.device)
    engine.reset(as_seeds(0, options.num_markets, engine.device))
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(1 + options.steps):
        orders = any_orders(engine, generator)
        runs.append(phase_seconds(lambda orders=orders: engine.step(orders), engine.device, PHASES))  # type: ignore[misc]
    return {phase: float(np.median([run[phase] for run in runs[1:]])) for phase in runs[0]}


def main() -> None:
    """Measure and print the table."""
    options = tyro.cli(Clearing)
    base = replace(scenario("private-values"), agents=options.agents, action_mode="round")
    console = new_console()
    table = Table(title=f"{options.num_markets} markets of {options.agents} agents, ms of a step", box=box.SIMPLE_HEAD)
    for label in ("", "step", "clear", "settle", "merge", "clear and settle"):
        table.add_column(label, justify="right" if label else "left")
    for mechanism in MECHANISMS:
        seconds = measure(base.changed(mechanism=mechanism), options)
        step = sum(seconds.values())
        share = (seconds["clear"] + seconds["settle"]) / step
        figures = (step, seconds["clear"], seconds["settle"], seconds["merge"])
        table.add_row(mechanism, *(f"{1000 * figure:.1f}" for figure in figures), f"{100 * share:.2f} %")
    console.print(table)
    origin = provenance(range(options.num_markets), resolve_device(options.device))
    console.print(f"{origin['device']}, torch {origin['versions']['torch']}", highlight=False)


if __name__ == "__main__":
    main()
