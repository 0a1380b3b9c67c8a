"""The markets in which policies and pricing rules are checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from functools import cached_property
from itertools import product
from typing import Any, get_args

from paramarket_baselines.checks.check import NotClaimed
from paramarket_env.config import ActionMode, Disclosure, MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.scenarios import scenario

DEFAULT_SCENARIOS = ("digits-short", "digits-priced-short", "three-firms-short", "crowd-short")
"""Scenarios with two, three and eight firms, without prices and with them."""

PARTNERS = 2
"""The number of partners in a step where an agent meets only some of the others."""


def variants(market: str | MarketConfig) -> dict[str, MarketConfig]:
    """A market, or the scenario of that name, and its variants by name.

    They have each action mode with each mechanism, each disclosure, and few partners where there are enough firms.
    Networks, data and the length of the episode stay the same. Raises ``ValueError`` for an unknown scenario.
    """
    config = scenario(market) if isinstance(market, str) else market
    name = market if isinstance(market, str) else f"{config.agents} firms"
    changes: list[dict[str, Any]] = [
        {"action_mode": mode, "mechanism": mechanism} for mode, mechanism in product(get_args(ActionMode), MECHANISMS)
    ]
    changes += [{"disclosure": disclosure} for disclosure in get_args(Disclosure)]
    changes += [{"partners": PARTNERS}] if config.agents > PARTNERS + 1 else []
    found = {config: name}
    for change in changes:
        with suppress(ValueError):  # some settings exclude each other
            label = ", ".join(f"{field}={value}" for field, value in change.items())
            found.setdefault(config.changed(**change), f"{name}, {label}")
    return {label: varied for varied, label in found.items()}


class MarketTrial(ABC):
    """A plug-in in a market. Its text is the name of the market."""

    def __init__(self, name: str, market: MarketConfig) -> None:
        self.name, self.market = name, market

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def take_seat(self) -> None:
        """Let the plug-in take a seat in the market; raises the exception by which it refuses."""

    @cached_property
    def refusal(self) -> Exception | None:
        """The exception by which the plug-in refuses the market, if it does."""
        try:
            self.take_seat()
        except Exception as error:  # a check judges whether it is a proper refusal
            return error
        return None

    def require_claimed(self) -> None:
        """Raise :class:`NotClaimed` if the plug-in refuses the market, whether it does so properly or not."""
        if self.refusal is not None:
            raise NotClaimed(str(self.refusal))
