"""The command ``paramarket run``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.progress import TaskID

from paramarket_baselines.commands.options import MarketOptions, result_folder, say_played
from paramarket_baselines.evaluation.display import new_progress
from paramarket_baselines.evaluation.merge_curves import PurchaseCurves, curve_table, draw_merge_curves
from paramarket_baselines.evaluation.names import fit
from paramarket_baselines.evaluation.play import PAPER_ARMS, RULE_ARMS, Arm, Episode, play
from paramarket_baselines.evaluation.report import (
    BY_TASK_LEGEND,
    LEGEND,
    draw_classes,
    draw_curves,
    per_seed,
    per_task,
    summarise,
    summary_table,
    task_measures,
)
from paramarket_baselines.evaluation.results import provenance, write_results
from paramarket_baselines.evaluation.welfare import WELFARE, WELFARE_LEGEND, welfare
from paramarket_env.config import MarketConfig
from paramarket_env.files import claimed
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.orders import StepRecord
from paramarket_env.seeding import as_seeds
from paramarket_env.validation import require


@dataclass(frozen=True)
class Run(MarketOptions):
    """Play rules in the market and out of it, on the same seeds, and compare them."""

    seeds: int = 10
    """Number of seeds."""
    first_seed: int = 0
    """The first seed; the others follow it."""
    policies: tuple[str, ...] = ()
    """Rules to compare, each in all seats, such as `patient:7` or, with a pricing rule, `paper+fixed:3`. Without any:
    the paper's comparison in round mode, every rule in verb mode."""
    out: Path | None = None
    """Folder for the results. Without it: a new one under `runs/`."""
    overwrite: bool = False
    """Write into `out` even if it exists."""
    device: str = "auto"
    """`auto` (the GPU if there is one), `cpu` or `cuda`."""
    config: Annotated[MarketConfig, tyro.conf.arg(name="")] = field(default_factory=MarketConfig)

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "seeds", self.seeds, "an integer >= 1")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "an integer >= 0")


def run(options: Run, console: Console) -> None:
    """Play, print the tables and save the results."""
    config = options.config
    arms = _arms(options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    device = resolve_device(options.device)
    folder = result_folder(options.out, f"{options.market_name}-{config.action_mode}")
    origin = provenance(seeds, device)
    span = "rounds" if config.action_mode == "round" else "cycles"
    title = f"{options.shown_name}, {config.action_mode} mode, {config.max_cycles} {span}, {len(seeds)} seeds"
    if config.data.protocol == "authors":
        title += "; protocol=authors: validated on the TEST set"
    console.print(f"{title} on {origin['device']}")
    # Refuse invalid settings, data, seeds and policies before making a folder.
    as_seeds(seeds, len(seeds), device)
    one = MarketBatch(config, 1, device)
    for policy in {policy for arm in arms for policy in arm.policies}:
        POLICIES.check(policy)(seat_of(one, 1))
    with claimed(folder, existing=options.overwrite):
        episodes, merge_curves = _play_all(config, arms, seeds, device, console)
        economy = welfare(episodes, config.economy)
        keys = ["arm", "seed"]
        arms_summary = summarise(per_seed(episodes).merge(economy, on=keys).merge(per_task(episodes), on=keys))
        # Print first: a disk that is full costs the files, but not the figures.
        console.print(summary_table(arms_summary, title))
        console.print(LEGEND)
        if config.economy.ask_levels[-1] > 0:
            console.print(summary_table(arms_summary, "economic measures", WELFARE))
            console.print(WELFARE_LEGEND)
        if one.engine.tasks.differ:
            console.print(summary_table(arms_summary, "by task", task_measures(one.engine.tasks.names)))
            console.print(BY_TASK_LEGEND)
        tables = {part.name: pd.concat([getattr(each, part.name) for each in episodes]) for part in fields(Episode)}
        pictures = {"curves": draw_curves(episodes, title), "classes": draw_classes(episodes, title)}
        if len(merge_curves):
            pictures["merge_curves"] = draw_merge_curves(merge_curves, title)
        about = {"title": title, "market": options.market_name, "arms": arms_summary, **origin}
        files = write_results(folder, config, tables | {"merge_curves": merge_curves}, about, pictures)
    console.print(f"saved in {folder}: {', '.join(files)}", soft_wrap=True)


def _arms(options: Run) -> Sequence[Arm]:
    names = options.policies
    require(len(set(names)) == len(names), "policies", names, "different names")
    for name in names:
        POLICIES.parse(name)  # refuse unknown names before playing
    if options.policies:
        return [Arm(name, (name,)) for name in options.policies]
    return PAPER_ARMS if options.config.action_mode == "round" else RULE_ARMS


def _play_all(
    config: MarketConfig, arms: Sequence[Arm], seeds: Sequence[int], device: torch.device, console: Console
) -> tuple[list[Episode], pd.DataFrame]:
    """The episodes of all arms, and the table of their merge curves."""
    episodes, curves = [], [PurchaseCurves(arm.name, seeds) for arm in arms]
    with new_progress(console) as progress:
        tasks = [progress.add_task(name, start=False) for name in fit([arm.name for arm in arms], BAR_NAME_WIDTH)]
        for arm, task, curve in zip(arms, tasks, curves, strict=True):
            progress.start_task(task)

            def on_step(
                batch: MarketBatch, record: StepRecord | None, task: TaskID = task, curve: PurchaseCurves = curve
            ) -> None:
                progress.update(task, total=batch.config.max_cycles, advance=0 if record is None else 1)
                curve.watch(batch, record)

            episodes.append(play(config, arm, seeds, device, on_step))
            say_played(arm.name, console)
    return episodes, curve_table(curves)


BAR_NAME_WIDTH = 16
"""Characters of the name next to a progress bar."""
