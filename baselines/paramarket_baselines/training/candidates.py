"""Candidates: policies that answer each other, of which a mixture is kept.

The first candidate is a response to the opponents of the plan. Among copies of it another policy can do better: where
it asks much, one that asks little sells to it. So each later candidate meets, in half of its episodes, those before it
(policy-space response oracles; Lanctot et al. 2017, with each earlier one equally often), and also imitates the best
rule against them. A mixture can leave nothing to gain where each policy alone would, as in the game of hawk and dove
(Maynard Smith and Price 1973).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from paramarket_baselines.policies.saving import save_mixture
from paramarket_baselines.training.comparison import compared
from paramarket_baselines.training.teachers import sensible_asks
from paramarket_env.config import MarketConfig
from paramarket_env.files import write_file

CANDIDATES = "candidates"
"""The folder of the candidates in that of a training."""

COMPARED = 384
"""The number of episodes in which policies are compared, over all seats. Fewer would favour the lucky one."""

PARTS = 10
"""A mixture's probabilities are multiples of one part in so many."""


def candidate_folder(folder: Path, number: int) -> Path:
    """The folder of a candidate, which is that of a training of its own."""
    return folder / CANDIDATES / str(number)


def best_mixture(
    config: MarketConfig, candidates: Sequence[str], against: Sequence[str], device: str | torch.device
) -> np.ndarray:
    """The probabilities with which candidates are mixed, float64 ``[n]``.

    They maximise the mean score against the opponents (:func:`~.comparison.compared`) minus what one agent can take
    from others that have the mixture: the score of the best candidate or rule there, minus that of the mixture. With
    more than two agents, this assumes that the others all have the same candidate.
    """
    players = [*candidates, *responses(config)]
    scores = [compared(config, players, population, COMPARED, device) for population in [*against, *candidates]]
    returned = np.mean(scores[: len(against)], axis=0)[: len(candidates)]
    payoffs = np.stack(scores[len(against) :], axis=1)
    return max(mixtures(len(candidates)), key=lambda mixture: mixture @ returned - taken(payoffs, mixture))


def responses(config: MarketConfig) -> list[str]:
    """Rules that may take something from a policy: they train, or buy in the last step and keep one ask."""
    last = config.max_cycles - 1
    return ["train", *(f"patient:{last}+fixed:{place}" for place in sensible_asks(config))]


def taken(payoffs: np.ndarray, mixture: np.ndarray) -> float:
    """The best response takes this much, by the payoffs of all players against each candidate, ``[players, n]``."""
    against = payoffs @ mixture
    return float(against.max() - mixture @ against[: len(mixture)])


def mixtures(count: int) -> Iterator[np.ndarray]:
    """All mixtures of so many policies."""
    for parts in product(range(PARTS + 1), repeat=count):
        if sum(parts) == PARTS:
            yield np.array(parts) / PARTS


def keep_mixture(folder: Path, places: Sequence[Path], chances: np.ndarray) -> None:
    """Save the mixture of the candidates, and the evaluations of all of them, in the folder of the training."""
    tables = [pd.read_csv(place / "evaluations.csv") for place in places]
    before = np.cumsum([0, *(table["timesteps"].iloc[-1] for table in tables[:-1])])
    shifted = [table.assign(timesteps=table["timesteps"] + start) for table, start in zip(tables, before, strict=True)]
    write_file(folder / "evaluations.csv", pd.concat(shifted).to_csv(index=False))
    save_mixture(folder, places, [float(chance) for chance in chances])
