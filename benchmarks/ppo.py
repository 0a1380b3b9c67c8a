"""The time that an agent takes to learn, and the market's share of it: ``python -m benchmarks.ppo``.

Stable-Baselines3's PPO with an MLP plays the agents of many markets through the ``VecEnv`` adapter in a ``VecMonitor``,
in ``verb`` mode, the market's default, and in ``round`` mode.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import RenderableType
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecMonitor

from benchmarks.phases import Phases, phase_seconds
from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.results import machine, provenance, write_json
from paramarket_env import paramarket_v0
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.config import ActionMode
from paramarket_env.market.devices import resolve_device
from paramarket_env.market.engine import Engine

PHASES: Phases = (
    ("the engine's steps", Engine, "step"),
    ("the engine's resets", Engine, "reset"),
    ("adapter: observations, masks, infos", ParaMarketVecEnv, "step_wait"),
    ("PPO: choosing actions", ActorCriticPolicy, "forward"),
    ("PPO: learning", PPO, "train"),
)


@dataclass(frozen=True)
class Training:
    """Train PPO, and measure the time of each part."""

    scenario: str = "digits"
    """A name that `paramarket list` shows."""
    action_modes: tuple[ActionMode, ...] = ("verb", "round")
    """Modes to train in, one after the other."""
    timesteps: int = 200_000
    """Agent-steps to train for."""
    num_markets: int = 64
    """Number of markets."""
    opponents: tuple[str, ...] = ()
    """One agent of each market learns, and these policies in turn have the other seats. None: all agents learn."""
    seed: int = 0
    """Seed of PPO and of the markets."""
    device: str = "auto"
    """Device of the markets: `auto`, `cpu` or `cuda`. PPO's small networks stay on the CPU."""
    out: Path = Path("benchmarks/results")
    """Folder for `ppo-DEVICE.json`."""


class Returns(BaseCallback):
    """Keeps the mean return of the episodes that each rollout finished."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(float(np.mean([episode["r"] for episode in self.model.ep_info_buffer or ()])))


def train(options: Training, mode: ActionMode) -> tuple[dict[str, float], list[float]]:
    """Seconds of each phase, and an agent's mean return in each rollout, which is one episode of every market."""
    markets = paramarket_v0.sb3_vec_env(
        options.scenario,
        opponents=options.opponents,
        num_markets=options.num_markets,
        action_mode=mode,
        device=options.device,
        copy=False,
    )
    batch, rows, returns = markets.market_batch, markets.num_envs, Returns()
    cycles = batch.config.max_cycles
    model = PPO(
        "MlpPolicy",
        VecMonitor(markets),
        seed=options.seed,
        n_steps=cycles,
        batch_size=cycles * rows // 4,
        gamma=1.0,  # episodes are short and end
        stats_window_size=rows,
        device="cpu",
    )
    seconds = phase_seconds(lambda: model.learn(options.timesteps, returns), batch.device, PHASES)
    return seconds, returns.means


def _phases_table(seconds: dict[str, float], mode: ActionMode) -> RenderableType:
    total = sum(seconds.values())
    spent = {**seconds, "total": total}
    rows = {phase: [f"{time:.1f}", f"{100 * time / total:.1f} %"] for phase, time in spent.items()}
    return table(rows, ("s", "share"), f"{mode} mode")


def main() -> None:
    """Train, print and save the figures."""
    options = tyro.cli(Training, description=__doc__)
    console, device = new_console(), resolve_device(options.device)
    origin = provenance([options.seed], device, dated=False)
    runs = {}
    for mode in options.action_modes:
        seconds, returns = train(options, mode)
        runs[mode] = {"seconds": seconds, "returns": returns}
        total = sum(seconds.values())
        console.print(_phases_table(seconds, mode))
        console.print(
            f"{options.timesteps:,} agent-steps in {total:.0f} s: {options.timesteps / total:,.0f} per second; mean "
            f"return of an episode {returns[0]:.2f} in the first rollout, {returns[-1]:.2f} in the last",
        )
    console.print(machine(origin))
    settings = {name: value for name, value in asdict(options).items() if name != "out"}
    path = options.out / f"ppo-{device.type}.json"
    write_json(path, origin | {"options": settings, "runs": runs})
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
