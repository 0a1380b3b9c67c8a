"""The README's picture, an episode of three firms that train, trade and price: ``python -m benchmarks.picture``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from matplotlib.image import imsave

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_env.files import staged
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.render import History, draw
from paramarket_env.market.orders import StepRecord
from paramarket_env.scenarios import scenario


@dataclass(frozen=True)
class Picture:
    """Play one episode and draw it."""

    out: Path = Path("docs/market.png")
    """File for the picture."""
    scenario: str = "three-firms"
    """A name that `paramarket list` shows."""
    policies: tuple[str, ...] = ("patient:4", "paper", "patient:7")
    """One policy for each agent."""
    seed: int = 0
    """The market's seed."""


def main() -> None:
    """Play and draw."""
    options = tyro.cli(Picture)
    names = [f"trader_{agent}: {policy}" for agent, policy in enumerate(options.policies)]
    history = History(names)

    def on_step(batch: MarketBatch, record: StepRecord | None) -> None:
        history.add(batch, record)

    play(scenario(options.scenario), Arm("picture", options.policies), [options.seed], "cpu", on_step)
    with staged(options.out) as new:
        imsave(new, draw(history))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
