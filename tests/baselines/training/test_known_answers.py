"""Every learning algorithm finds the known answers: it earns nearly what theory's answer earns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paramarket_baselines.policies.best_action import BestAction
from paramarket_baselines.training.sb3 import Plan, learn
from paramarket_env.scenarios import scenario
from tests.known import played


@dataclass(frozen=True)
class Market:
    """A scenario with a known answer, and what a learner can expect of it."""

    answer: str
    """The policy that plays the answer."""
    opponent: str
    """The policy in the other seats."""
    seats: tuple[int, ...]
    """The seats in which there is something to learn."""
    timesteps: int
    """Agent-steps of a training."""

    def score(self, name: str, player: Any, seat: int) -> float:
        """A player's mean return in a seat, on a scale from 0 (``train``, without trade) to 1 (the answer)."""
        config = scenario(name)

        def earned(policy: Any) -> float:
            players = [self.opponent] * config.agents
            players[seat] = policy
            return float(played(config, players, 1000)[:, seat].mean())

        nothing = earned("train")
        return (earned(player) - nothing) / (earned(self.answer) - nothing)


MARKETS = {
    "known-posted-price": Market("train+fixed:3", "paper", (0,), 40_000),
    "known-price-skimming": Market("paper", "paper", (0,), 100_000),
    "known-second-price": Market("paper+fixed:0", "paper+fixed:0", (1, 2), 60_000),
    "known-double-auction": Market("linear-equilibrium", "linear-equilibrium", (0, 1), 100_000),
    "known-last-round": Market("patient:11", "train", (0, 1), 150_000),
}
