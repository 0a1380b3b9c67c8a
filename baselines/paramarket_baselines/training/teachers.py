"""The teachers of a league: the best of many sensible rules against its opponents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from paramarket_baselines.training.comparison import compared
from paramarket_env.config import MarketConfig

PATIENCE = (0.25, 0.42, 0.5, 0.58, 0.67, 0.75, 0.92)
"""The patience of sensible rules, as shares of the episode. In 12 cycles none of them is a held-out rule."""

EPISODES = 96
"""The number of episodes in which rules are compared, over all seats."""


def sensible_rules(config: MarketConfig) -> list[str]:
    """Patient rules that keep the ask of the start or, in a market with prices, post one of the upper levels."""
    levels = config.economy.ask_levels
    places = range(len(levels) // 2, len(levels)) if levels[-1] > 0 else range(0)
    waits = sorted({round(share * config.max_cycles) for share in PATIENCE})
    return [f"patient:{wait}{price}" for wait in waits for price in ("", *(f"+fixed:{place}" for place in places))]


@dataclass(frozen=True)
class Teachers:
    """The best of the sensible rules against the opponents of a training. Its candidates share them."""

    config: MarketConfig
    opponents: tuple[str, ...]
    count: int
    device: str | torch.device

    @cached_property
    def rules(self) -> list[str]:
        """The rules, best first."""
        rules = sensible_rules(self.config)
        scores = compared(self.config, rules, self.opponents, EPISODES, self.device)
        return [rules[place] for place in (-scores).argsort(kind="stable")[: self.count]]
