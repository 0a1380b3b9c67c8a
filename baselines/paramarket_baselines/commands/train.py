"""The command ``paramarket train``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.progress import TextColumn

from paramarket_baselines.commands.options import MarketOptions, result_folder
from paramarket_baselines.evaluation.display import new_progress
from paramarket_baselines.evaluation.names import without_folders
from paramarket_baselines.policies.learned import MANIFEST, algorithm, read_manifest
from paramarket_baselines.training.plan import Plan, check_resume
from paramarket_baselines.training.sb3 import learn
from paramarket_env.config import MarketConfig
from paramarket_env.files import claimed
from paramarket_env.interface.policy import POLICIES
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.engine import Engine
from paramarket_env.validation import require


@dataclass(frozen=True)
class Train(MarketOptions):
    """Train a policy with Stable-Baselines3, and save it in a folder; `learned:FOLDER` plays it like a rule."""

    out: Path | None = None
    """Folder for the policy. Without it: a new one under `runs/`."""
    overwrite: bool = False
    """Write into `out` even if it exists."""
    resume: bool = False
    """Continue from the checkpoint in `out`. Only `timesteps` may differ from its settings, and `candidates` may be
    more."""
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


def train(options: Train, console: Console) -> None:
    """Train, and save the policy."""
    plan, device = options.plan, resolve_device(options.device)
    folder = result_folder(options.out, f"{plan.algo}-{options.market_name}-{plan.config.action_mode}")
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
    console.print(f"{plan.algo} on {options.shown_name}, {plan.config.action_mode} mode, {opponents}")
    with new_progress(console, TextColumn("return {task.fields[returned]:.2f}")) as progress:
        total = plan.candidates * plan.timesteps
        task = progress.add_task(plan.algo, total=total, returned=float("nan"))

        def on_rollout(steps: int, returned: float) -> None:
            progress.update(task, completed=min(steps, total), returned=returned)

        def on_evaluation(steps: int, returned: float, best: float) -> None:
            console.print(f"{steps:>9,} steps: return {returned:.2f} in the evaluation, best {best:.2f}")

        learn(plan, folder, device, on_rollout, on_evaluation, resume=options.resume)
    console.print(f"{_kept(plan, folder)}; saved in {folder}; play it as learned:{folder}", soft_wrap=True)


def _kept(plan: Plan, folder: Path) -> str:
    """The policy that was kept."""
    if plan.candidates > 1:
        chances = read_manifest(folder / MANIFEST).chances
        return f"{len(chances)} of {plan.candidates} candidates, with the chances {', '.join(map(str, chances))}"
    scores = pd.read_csv(folder / "evaluations.csv")
    chosen = scores.iloc[-1 if plan.league else int(scores["return"].to_numpy().argmax())]
    which = "last" if plan.league else "best"
    steps = f"after {chosen.timesteps:,.0f} steps"
    return f"{which} of {len(scores)} evaluations: return {chosen['return']:.2f} {steps}"
