"""The command ``paramarket evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import tyro
from rich.console import Console

from paramarket_baselines.commands.options import MarketOptions, result_folder, say_played
from paramarket_baselines.evaluation import statistics
from paramarket_baselines.evaluation.display import new_progress
from paramarket_baselines.evaluation.names import without_folders
from paramarket_baselines.evaluation.protocol import held_out_rules, met, trained_against
from paramarket_baselines.evaluation.results import provenance, write_results
from paramarket_baselines.evaluation.statistics import ESTIMATES_LEGEND, estimates_table, summary
from paramarket_env.config import MarketConfig
from paramarket_env.files import claimed
from paramarket_env.interface.policy import POLICIES
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.engine import Engine
from paramarket_env.seeding import as_seeds
from paramarket_env.validation import require


@dataclass(frozen=True)
class Evaluate(MarketOptions):
    """Play each policy in every seat against given populations, on the same seeds, and compare their returns."""

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Policies to evaluate, such as `patient:7` or `paper+fixed:3`. The others are compared with the first. A folder of
    numbered trainings, `learned:FOLDER/*`, is one policy."""
    populations: tuple[str, ...] = ()
    """Policies that have all other seats, one at a time. Without any: the rules that are held out in this market, which
    no training should meet."""
    seeds: int = 20
    """Number of seeds for each seat and population."""
    first_seed: int = 0
    """The first seed; the others follow it."""
    out: Path | None = None
    """Folder for the results. Without it: a new one under `runs/`."""
    overwrite: bool = False
    """Write into `out` even if it exists."""
    device: str = "auto"
    """`auto` (the GPU if there is one), `cpu` or `cuda`."""
    config: Annotated[MarketConfig, tyro.conf.arg(name="")] = field(default_factory=MarketConfig)

    def __post_init__(self) -> None:
        require(self.seeds >= 2, "seeds", self.seeds, "an integer >= 2")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "an integer >= 0")


def evaluate(options: Evaluate, console: Console) -> None:
    """Evaluate, print the tables and save the results."""
    options = replace(options, populations=options.populations or tuple(held_out_rules(options.config)))
    for field_name in ("policies", "populations"):
        names = getattr(options, field_name)
        require(0 < len(set(names)) == len(names), field_name, names, "one or more different names")
    config, device = options.config, resolve_device(options.device)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    folder = result_folder(options.out, f"evaluate-{options.market_name}-{config.action_mode}")
    as_seeds(seeds, len(seeds), device)
    Engine(config, 1, device)  # refuse invalid settings and data before making a folder
    for name in (*options.policies, *options.populations):
        POLICIES.parse(name)
    with claimed(folder, existing=options.overwrite):
        runs = _evaluate_all(options, seeds, device, console)
        estimates, origin = summary(runs), provenance(seeds, device)
        populations = ", ".join(without_folders(options.populations))
        title = f"{options.shown_name}, {config.action_mode} mode, against {populations}, {len(seeds)} seeds"
        console.print(estimates_table(estimates, title))
        console.print(ESTIMATES_LEGEND)
        for error in sorted(set(runs.error) - {""}):
            console.print(f"could not be played: {error}", soft_wrap=True)
        _name_met(options, console)
        about = {"market": options.market_name, "policies": estimates, **origin, "populations": options.populations}
        files = write_results(folder, config, {"runs": runs}, about)
    console.print(f"saved in {folder}: {', '.join(files)}", soft_wrap=True)


def _name_met(options: Evaluate, console: Console) -> None:
    """Name the policies that were trained against a population: they have not met it as an unseen opponent."""
    populations = {name: name for name in options.populations}
    for policy in options.policies:
        if known := met(trained_against(policy), populations):
            console.print(f"{policy} was trained against {', '.join(known)}", soft_wrap=True)


def _evaluate_all(options: Evaluate, seeds: Sequence[int], device: torch.device, console: Console) -> pd.DataFrame:
    each = len(options.populations) * options.config.agents
    names = iter(options.policies)
    with new_progress(console, transient=True) as progress:
        task = progress.add_task("seats, populations", total=each * len(options.policies))

        def on_task() -> None:
            progress.advance(task)
            if progress.tasks[task].completed % each == 0:
                say_played(next(names), console)

        return statistics.evaluate(options.config, options.policies, options.populations, seeds, device, on_task)
