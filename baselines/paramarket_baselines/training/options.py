"""The discount factor, and the options of trainings in which all agents share one policy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paramarket_env.config import ActionMode, MarketConfig
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require

GAMMA = 1.0
"""The discount factor of Stable-Baselines3's and TorchRL's algorithms. Episodes are short, and the goal is their
undiscounted return."""


@dataclass(frozen=True)
class SelfPlayOptions:
    """The market in which one policy learns in all seats, and the length of the training."""

    scenario: str = "digits"
    """A name that `paramarket list` shows."""
    action_mode: ActionMode = "round"
    """`verb`: one of train, buy, ask and hold in a step. `round`: train, buy and ask in one step."""
    max_cycles: int = 12
    """Steps of an episode."""
    num_markets: int = 16
    """Number of markets in each process that plays."""
    iterations: int = 120
    """Number of iterations. Each plays one episode of every market and learns from it."""
    seed: int = 0
    """Seed of the training, and of its first episodes."""

    def __post_init__(self) -> None:
        for name in ("iterations", "num_markets"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an integer >= 1")
        require(self.seed >= 0, "seed", self.seed, "an integer >= 0")

    @property
    def config(self) -> MarketConfig:
        """The market's configuration."""
        return replace(scenario(self.scenario), action_mode=self.action_mode, max_cycles=self.max_cycles)
