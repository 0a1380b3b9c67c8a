"""The teachers of a league: the best of many sensible rules against its opponents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from paramarket_baselines.training.comparison import compared
from paramarket_env.config import MarketConfig

PATIENCE = (0.25, 0.42, 0.5, 0.58, 0.67, 0.75, 0.92)
"""The patience of sensible rules, as shares of the episode. In 12 cycles none of them is a held-out rule."""

EPISODES = 96
"""The number of episodes in which rules are compared, over all seats."""


def sensible_rules(config: MarketConfig) -> list[str]:
    """Patient rules that ask as the paper's rule does or, in a market with prices, keep one ask."""
    places = sensible_asks(config) if config.economy.ask_levels[-1] > 0 else range(0)
    waits = sorted({round(share * config.max_cycles) for share in PATIENCE})
    return [f"patient:{wait}{price}" for wait in waits for price in ("", *(f"+fixed:{place}" for place in places))]


def sensible_asks(config: MarketConfig) -> range:
    """The asks from the initial one upwards, or all of them if nothing is for sale at first.

    Whoever posts a lower one sells for less and, in verb mode, spends a step on it.
    """
    start, levels = config.economy.initial_ask, len(config.economy.ask_levels)
    return range(start if start < levels else 0, levels)


class Teachers:
    """The best of the sensible rules against some opponents. The candidates of a training share what was played."""

    def __init__(self, config: MarketConfig, device: str | torch.device) -> None:
        self.config, self.device = config, device
        self.rules = sensible_rules(config)
        self._known: dict[str, np.ndarray] = {}

    def against(self, opponents: Sequence[str], count: int) -> list[str]:
        """So many rules with the highest mean score against the opponents, best first."""
        for opponent in opponents:
            if opponent not in self._known:
                self._known[opponent] = compared(self.config, self.rules, opponent, EPISODES, self.device)
        scores = np.mean([self._known[opponent] for opponent in opponents], axis=0)
        return [self.rules[place] for place in (-scores).argsort(kind="stable")[:count]]
