"""Count what a step asks of a GPU, without one: ``python -m benchmarks.launches``.

The markets are played on tensors that claim to be on a GPU (:mod:`benchmarks.claimed_cuda`). The table counts, for one
step of the engine, the kernels it launches, how often the host waits for the device, and the copies from the host.
Networks are trained and tried by torch's kernels; the fused ones of a GPU replace many of those by one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from rich.console import Console

from benchmarks.claimed_cuda import Device, claimed_cuda
from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require


@dataclass(frozen=True)
class Launches:
    """Count what a step asks of a GPU in which all agents train, buy and ask."""

    scenarios: tuple[str, ...] = ("digits", "digits-layers", "digits-priced", "three-firms", "crowd-64")
    """Scenarios to count."""
    num_markets: tuple[int, ...] = (1, 64)
    """Numbers of markets."""

    def __post_init__(self) -> None:
        require(min(self.num_markets, default=0) >= 1, "num_markets", self.num_markets, "numbers of at least 1")


def counts(config: MarketConfig, num_markets: int, device: Device) -> dict[str, Any]:
    """Kernels, waits and copies of the second step, and the places in the code at which the host waits."""
    config = replace(config, action_mode="round")
    batch = MarketBatch(config, num_markets, "cuda")
    batch.reset(batch.next_seeds(0))
    everything = torch.ones(num_markets, config.agents, len(batch.actions.nvec), dtype=torch.int64).to("cuda")
    for _ in range(2):
        device.forget()
        batch.engine.step(batch.actions.decode(everything))
    return {
        "kernels": device.kernels.total(),
        "waits": device.waits.total(),
        "copies": device.copies.total(),
        "places": dict(device.waits),
    }


def run(options: Launches, console: Console) -> dict[str, dict[str, Any]]:
    """Count and print. Returns the counts by scenario and number of markets."""
    console.print(machine(provenance([0], torch.device("cpu"), dated=False)))
    found = {}
    with forced("torch"), claimed_cuda() as device:
        for name in options.scenarios:
            for markets in options.num_markets:
                found[f"{name}, M = {markets}"] = counts(scenario(name), markets, device)
    labels = ["kernels", "waits", "copies"]
    rows = {name: [f"{counted[label]:,}" for label in labels] for name, counted in found.items()}
    console.print(table(rows, labels, "one step of the engine on a GPU", "scenario"))
    places = sorted({place for counted in found.values() for place in counted["places"]})
    console.print(f"the host waits at {', '.join(places)}")
    return found


def main() -> None:
    """Count and print."""
    run(tyro.cli(Launches), new_console(100))


if __name__ == "__main__":
    main()
