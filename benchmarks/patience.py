"""The best patience, that is, the steps to wait between purchases: ``python -m benchmarks.patience``.

In ``verb`` mode a purchase takes the step of a training pass. The table shows the return of the patient rule for each
patience, from which its default is chosen. All play the same seeds, which `paramarket run` does not use by default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tyro
from rich.progress import track

from paramarket_baselines.evaluation.display import new_console
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.evaluation.report import LEGEND, per_seed, summarise, summary_table
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_env.market.devices import resolve_device
from paramarket_env.scenarios import scenario


@dataclass(frozen=True)
class Patience:
    """Play the patient rule with each patience, and training without trade."""

    scenario: str = "digits"
    """A name that `paramarket list` shows."""
    patience: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 19)
    """Steps between purchases."""
    seeds: int = 20
    """Number of seeds, from 1000 on."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""


def main() -> None:
    """Play and print the table."""
    options = tyro.cli(Patience)
    console = new_console()
    config = replace(scenario(options.scenario), action_mode="verb")
    names = ["train", *(f"patient:{patience}" for patience in options.patience)]
    seeds, device = range(1000, 1000 + options.seeds), resolve_device(options.device)
    episodes = [play(config, Arm(name, (name,)), seeds, device) for name in track(names, console=console)]
    title = f"{options.scenario}, verb mode, {options.seeds} seeds"
    console.print(summary_table(summarise(per_seed(episodes)), title))
    console.print(LEGEND)
    console.print(f"{machine(provenance(seeds, device))}, seeds {seeds}")


if __name__ == "__main__":
    main()
