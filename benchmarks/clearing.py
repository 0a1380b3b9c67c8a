"""The cost of each mechanism, as clearing's share of a step: ``python -m benchmarks.clearing``.

Many markets of eight agents play in rounds. All agents train, order one purchase at random and post new asks, so that
all orders of a step clear together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import tyro

from benchmarks.phases import Phases, phase_seconds
from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.engine import Engine
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
    """Measure the time of a step, and of clearing in it, with each mechanism."""

    num_markets: int = 1024
    """Number of markets."""
    agents: int = 8
    """Agents of a market."""
    steps: int = 3
    """Steps to measure, after one to warm up. The table shows the median."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "an integer >= 1")


def _random_orders(engine: Engine, generator: torch.Generator) -> Orders:
    """Orders in which all agents train and draw an offer, a bid and ask levels at random."""
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
    engine.reset(as_seeds(range(options.num_markets), options.num_markets, engine.device))
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(1 + options.steps):
        orders = _random_orders(engine, generator)
        runs.append(phase_seconds(lambda orders=orders: engine.step(orders), engine.device, PHASES))  # type: ignore[misc]
    return {phase: float(np.median([run[phase] for run in runs[1:]])) for phase in runs[0]}


def _cells(seconds: dict[str, float]) -> list[str]:
    step = sum(seconds.values())
    share = (seconds["clear"] + seconds["settle"]) / step
    shown = (step, seconds["clear"], seconds["settle"], seconds["merge"])
    return [*(f"{1000 * phase:.1f}" for phase in shown), f"{100 * share:.2f} %"]


def main() -> None:
    """Measure and print the table."""
    options = tyro.cli(Clearing)
    base = replace(scenario("private-values"), agents=options.agents, action_mode="round")
    console = new_console()
    markets = {name: base.changed(mechanism=name) for name in MECHANISMS}
    rows = {name: _cells(measure(config, options)) for name, config in markets.items()}
    labels = ("step", "clear", "settle", "merge", "clear and settle")
    console.print(table(rows, labels, f"{options.num_markets} markets of {options.agents} agents, ms per step"))
    origin = provenance(range(options.num_markets), resolve_device(options.device))
    console.print(machine(origin))


if __name__ == "__main__":
    main()
