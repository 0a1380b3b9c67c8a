"""The README's picture: one episode of three firms that train, trade and price: ``python -m benchmarks.picture``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from matplotlib.image import imsave

from baselines.policy import seat_of
from baselines.rules import build_policy
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.render import History, draw
from paramarket_env.scenarios import scenario
from paramarket_env.seeding import stream


@dataclass(frozen=True)
class Picture:
    """Play one episode and draw it."""

    out: Path = Path("docs/market.png")
    """Where to write the picture."""
    scenario: str = "three-firms"
    """A name that `paramarket list` shows."""
    policies: tuple[str, ...] = ("patient:4", "paper", "patient:7")
    """One for each agent."""
    seed: int = 0
    """The market's seed."""


def main() -> None:
    """Play and draw."""
    options = tyro.cli(Picture)
    batch = MarketBatch(scenario(options.scenario), 1, "cpu")
    seeds = torch.tensor([options.seed])
    batch.reset(seeds)
    players = [
        build_policy(name, seat_of(batch, stream(seeds, "policy", agent)))
        for agent, name in enumerate(options.policies)
    ]
    history = History([f"trader_{agent}: {name}" for agent, name in enumerate(options.policies)])
    history.add(batch.engine)
    for _ in range(batch.config.max_cycles):
        observation, mask = batch.observe(), batch.mask()
        actions = [player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players)]
        history.add(batch.engine, batch.step(torch.stack(actions, dim=1)).record)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    imsave(options.out, draw(history))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
