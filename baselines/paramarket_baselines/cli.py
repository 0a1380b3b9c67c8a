"""The command ``paramarket``: it reads which command is meant with which options, and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.text import Text

from paramarket_baselines.commands.check import CheckPolicy, check
from paramarket_baselines.commands.evaluate import Evaluate, evaluate
from paramarket_baselines.commands.run import Run, run
from paramarket_baselines.commands.train import Train, train
from paramarket_baselines.evaluation.display import PlainConsole, new_console
from paramarket_baselines.evaluation.names import printable
from paramarket_baselines.plugin_options import PLUGINS, UsageError, list_names
from paramarket_baselines.training.plan import TRAINING_OPPONENTS, Plan, tuned, tuned_league
from paramarket_env.config import MarketConfig
from paramarket_env.files import expanded
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require


@dataclass(frozen=True)
class List:
    """Show the scenarios, the policies and all other plug-ins."""


Command = Run | Evaluate | Train | CheckPolicy | List


def _parse(arguments: Sequence[str]) -> Command:
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
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate", default=Evaluate(name, file, config=config))]
        | Annotated[Train, tyro.conf.subcommand("train", default=Train(name, file, plan=plan))]
        | Annotated[CheckPolicy, tyro.conf.subcommand("check")]
        | Annotated[List, tyro.conf.subcommand("list")]
    )
    chosen: Command = tyro.cli(
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
