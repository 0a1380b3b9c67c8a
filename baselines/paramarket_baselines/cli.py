"""The command ``paramarket``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.progress import TaskID, TextColumn
from rich.text import Text

from paramarket_baselines.checks.command import CheckPolicy, check
from paramarket_baselines.evaluation import statistics
from paramarket_baselines.evaluation.display import PlainConsole, new_console, new_progress
from paramarket_baselines.evaluation.merge_curves import PurchaseCurves, curve_table, draw_merge_curves
from paramarket_baselines.evaluation.names import fit, printable, without_folders
from paramarket_baselines.evaluation.play import PAPER_ARMS, RULE_ARMS, Arm, Episode, play
from paramarket_baselines.evaluation.protocol import held_out_rules, met, trained_against
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
from paramarket_baselines.evaluation.statistics import ESTIMATES_LEGEND, estimates_table, summary
from paramarket_baselines.evaluation.welfare import WELFARE, WELFARE_LEGEND, welfare
from paramarket_baselines.plugin_options import PLUGINS, UsageError, list_names
from paramarket_baselines.policies.learned import algorithm
from paramarket_baselines.training.sb3 import TRAINING_OPPONENTS, Plan, check_resume, learn, tuned, tuned_league
from paramarket_env.config import MarketConfig
from paramarket_env.files import claimed, expanded
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import StepRecord
from paramarket_env.scenarios import scenario
from paramarket_env.seeding import as_seeds
from paramarket_env.validation import require

ConfigFile = Annotated[Path | None, tyro.conf.arg(name="config")]
"""The option ``--config``."""


@dataclass(frozen=True)
class Run:
    """Play rules in the market and out of it, on the same seeds, and compare them."""

    scenario: str = "digits"
    """The scenario that gives the defaults of the settings below: a name that `paramarket list` shows."""
    config_file: ConfigFile = None
    """A file with these defaults instead of a scenario, such as the `config.json` of a run."""
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


@dataclass(frozen=True)
class Evaluate:
    """Play each policy in every seat against given populations, on the same seeds, and compare their returns."""

    policies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Policies to evaluate, such as `patient:7` or `paper+fixed:3`. The others are compared with the first. A folder of
    numbered trainings, `learned:FOLDER/*`, is one policy."""
    scenario: str = "digits"
    """The scenario that gives the defaults of the settings below: a name that `paramarket list` shows."""
    config_file: ConfigFile = None
    """A file with these defaults instead of a scenario, such as the `config.json` of a run."""
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


@dataclass(frozen=True)
class Train:
    """Train a policy with Stable-Baselines3, and save it in a folder; `learned:FOLDER` plays it like a rule."""

    scenario: str = "digits"
    """The scenario that gives the defaults of the settings below: a name that `paramarket list` shows."""
    config_file: ConfigFile = None
    """A file with these defaults instead of a scenario, such as the `config.json` of a run."""
    out: Path | None = None
    """Folder for the policy. Without it: a new one under `runs/`."""
    overwrite: bool = False
    """Write into `out` even if it exists."""
    resume: bool = False
    """Continue from the checkpoint in `out`. Only `timesteps` may differ from its settings."""
    device: str = "auto"
    """Device of the markets: `auto`, `cpu` or `cuda`. The policy's small network stays on the CPU."""
    plan: Annotated[Plan, tyro.conf.arg(name="")] = field(default_factory=lambda: Plan(MarketConfig()))

    def __post_init__(self) -> None:
        require(
            not self.resume or self.out is not None,
            "resume",
            self.resume,
            "used together with out, the folder of the training",
        )


@dataclass(frozen=True)
class List:
    """Show the scenarios, the policies and all other plug-ins."""


def run(options: Run, console: Console) -> None:
    """Play, print the tables and save the results."""
    config = options.config
    arms = _arms(options)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    device = resolve_device(options.device)
    folder = _folder(options.out, f"{_market_name(options)}-{config.action_mode}")
    origin = provenance(seeds, device)
    span = "rounds" if config.action_mode == "round" else "cycles"
    title = f"{_shown_name(options)}, {config.action_mode} mode, {config.max_cycles} {span}, {len(seeds)} seeds"
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
        about = {"title": title, "market": _market_name(options), "arms": arms_summary, **origin}
        files = write_results(folder, config, tables | {"merge_curves": merge_curves}, about, pictures)
    console.print(f"saved in {folder}: {', '.join(files)}", soft_wrap=True)


def evaluate(options: Evaluate, console: Console) -> None:
    """Evaluate, print the tables and save the results."""
    options = replace(options, populations=options.populations or tuple(held_out_rules(options.config)))
    for field_name in ("policies", "populations"):
        names = getattr(options, field_name)
        require(0 < len(set(names)) == len(names), field_name, names, "one or more different names")
    config, device = options.config, resolve_device(options.device)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    folder = _folder(options.out, f"evaluate-{_market_name(options)}-{config.action_mode}")
    as_seeds(seeds, len(seeds), device)
    Engine(config, 1, device)  # refuse invalid settings and data before making a folder
    for name in (*options.policies, *options.populations):
        POLICIES.parse(name)
    with claimed(folder, existing=options.overwrite):
        runs = _evaluate_all(options, seeds, device, console)
        estimates, origin = summary(runs), provenance(seeds, device)
        populations = ", ".join(without_folders(options.populations))
        title = f"{_shown_name(options)}, {config.action_mode} mode, against {populations}, {len(seeds)} seeds"
        console.print(estimates_table(estimates, title))
        console.print(ESTIMATES_LEGEND)
        for error in sorted(set(runs.error) - {""}):
            console.print(f"could not be played: {error}", soft_wrap=True)
        _name_met(options, console)
        about = {"market": _market_name(options), "policies": estimates, **origin, "populations": options.populations}
        files = write_results(folder, config, {"runs": runs}, about)
    console.print(f"saved in {folder}: {', '.join(files)}", soft_wrap=True)


def _name_met(options: Evaluate, console: Console) -> None:
    """Name the policies that were trained against a population: they have not met it as an unseen opponent."""
    populations = {name: name for name in options.populations}
    for policy in options.policies:
        if known := met(trained_against(policy), populations):
            console.print(f"{policy} was trained against {', '.join(known)}", soft_wrap=True)


def train(options: Train, console: Console) -> None:
    """Train, and save the policy."""
    plan, device = options.plan, resolve_device(options.device)
    folder = _folder(options.out, f"{plan.algo}-{_market_name(options)}-{plan.config.action_mode}")
    algorithm(plan.algo)
    for name in plan.against:
        POLICIES.parse(name)
    Engine(plan.config, plan.num_markets, device)  # refuse invalid settings before making a folder
    if options.resume:
        check_resume(plan, folder)
    with claimed(folder, existing=options.overwrite or options.resume):
        _train(options, folder, device, console)


def _train(options: Train, folder: Path, device: torch.device, console: Console) -> None:
    plan = options.plan
    met = f"against {', '.join(without_folders(plan.against))}" if plan.against else "in self-play"
    opponents = "in a league" if plan.league else met
    console.print(f"{plan.algo} on {_shown_name(options)}, {plan.config.action_mode} mode, {opponents}")
    with new_progress(console, TextColumn("return {task.fields[returned]:.2f}")) as progress:
        task = progress.add_task(plan.algo, total=plan.timesteps, returned=float("nan"))

        def on_rollout(steps: int, returned: float) -> None:
            progress.update(task, completed=min(steps, plan.timesteps), returned=returned)

        def on_evaluation(steps: int, returned: float, best: float) -> None:
            console.print(f"{steps:>9,} steps: return {returned:.2f} in the evaluation, best {best:.2f}")

        learn(plan, folder, device, on_rollout, on_evaluation, resume=options.resume)
    scores = pd.read_csv(folder / "evaluations.csv")
    best = scores.iloc[int(scores["return"].to_numpy().argmax())]
    console.print(
        f"best of {len(scores)} evaluations: return {best['return']:.2f} after {best.timesteps:,.0f} steps; "
        f"saved in {folder}; play it as learned:{folder}",
        soft_wrap=True,
    )


Market = Run | Evaluate | Train


def _market_name(options: Market) -> str:
    """The scenario or the file that gives the defaults of the market."""
    return options.scenario if options.config_file is None else str(options.config_file)


def _shown_name(options: Market) -> str:
    return without_folders([_market_name(options)])[0]


FOLDER_LENGTH = 100
"""Largest number of characters of a new folder's name, without the time."""


def _folder(out: Path | None, name: str) -> Path:
    """The folder for results: the one that is given, or a new one under `runs/`."""
    if out is not None:
        return expanded(out)
    # The scenario may be the path of a file, which must not lead out of the folder.
    one_part = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:FOLDER_LENGTH]
    # Runs that begin in the same second have different folders.
    return Path("runs") / f"{one_part}-{datetime.now().strftime('%Y%m%d-%H%M%S')}-{token_hex(3)}"


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
            _say_played(arm.name, console)
    return episodes, curve_table(curves)


BAR_NAME_WIDTH = 16
"""Characters of the name next to a progress bar."""


def _evaluate_all(options: Evaluate, seeds: Sequence[int], device: torch.device, console: Console) -> pd.DataFrame:
    each = len(options.populations) * options.config.agents
    names = iter(options.policies)
    with new_progress(console, transient=True) as progress:
        task = progress.add_task("seats, populations", total=each * len(options.policies))

        def on_task() -> None:
            progress.advance(task)
            if progress.tasks[task].completed % each == 0:
                _say_played(next(names), console)

        return statistics.evaluate(options.config, options.policies, options.populations, seeds, device, on_task)


def _say_played(name: str, console: Console) -> None:
    """Report progress where there are no progress bars."""
    if not console.is_interactive:
        console.print(f"played {name}", soft_wrap=True)


def _parse(arguments: Sequence[str]) -> Market | CheckPolicy | List:
    """The command and its options. The market is read first, since it gives the defaults of all settings."""
    given = _given_market(arguments)
    name, file = given.scenario or "digits", given.config
    config = scenario(name) if file is None else _read_config(file)
    # The paper's comparison plays in rounds, so that every arm trains equally often.
    compared = replace(config, action_mode="round") if file is None else config
    if given.league:
        plan = tuned_league(config, name if file is None else "")
    else:
        plan = tuned(name) if file is None else Plan(config, against=TRAINING_OPPONENTS)
    commands: Any = (
        Annotated[Run, tyro.conf.subcommand("run", default=Run(name, file, config=compared))]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate", default=Evaluate((), name, file, config=config))]
        | Annotated[Train, tyro.conf.subcommand("train", default=Train(name, file, plan=plan))]
        | Annotated[CheckPolicy, tyro.conf.subcommand("check")]
        | Annotated[List, tyro.conf.subcommand("list")]
    )
    chosen: Market | CheckPolicy | List = tyro.cli(
        commands,
        prog="paramarket",
        description="ParaMarket: agents train networks and trade their parameters.",
        args=list(arguments),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        registry=PLUGINS,
    )
    return chosen


def _given_market(arguments: Sequence[str]) -> argparse.Namespace:
    """The values of ``--scenario``, ``--config`` (None if not given) and ``--league``: they give the defaults."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--scenario", nargs="?")
    early.add_argument("--config", nargs="?", type=Path)
    early.add_argument("--league", action="store_true")
    given = early.parse_known_args(arguments)[0]
    alone = given.scenario is None or given.config is None
    require(alone, "config", str(given.config), "given without --scenario, since both give all settings")
    return given


def _read_config(file: Path) -> MarketConfig:
    try:
        return MarketConfig.from_json(expanded(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"config={str(file)!r} cannot be used: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 1 if a check fails, or 2 after an error message."""
    console = new_console()
    try:
        chosen = _parse(sys.argv[1:] if arguments is None else arguments)
        if isinstance(chosen, Run):
            run(chosen, console)
        elif isinstance(chosen, Evaluate):
            evaluate(chosen, console)
        elif isinstance(chosen, Train):
            train(chosen, console)
        elif isinstance(chosen, CheckPolicy):
            return check(chosen, console)
        else:
            list_names(console)
    except BrokenPipeError:
        raise  # it is no error of the command that its reader has seen enough
    except (UsageError, ValueError, OSError, ImportError) as error:
        message = Text.assemble(("error:", "bold red"), " ", printable(str(error)))
        PlainConsole(stderr=True).print(message, soft_wrap=True)
        return 2
    return 0
