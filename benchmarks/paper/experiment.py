"""An experiment: its question, its markets and arms, and the orders of arms that it is to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from benchmarks.paper.cells import Cell, Setting
from benchmarks.paper.grouped import Grouped
from paramarket_baselines.evaluation.play import Arm
from paramarket_env.config import MarketConfig

Markets = Callable[[bool], Iterator[tuple[Setting, MarketConfig]]]
"""The markets of an experiment with their settings, from whether they are to be quick."""


@dataclass(frozen=True)
class Kind:
    """The form in which a page shows a measure."""

    label: str
    digits: int
    unit: str


KINDS = {
    "test_accuracy": Kind("Test accuracy", 1, "points"),
    "validation_loss": Kind("Validation loss", 3, "nats"),
    "purchases": Kind("Purchases of an agent", 1, "purchases"),
    "received": Kind("Revenue of an agent", 0, "ticks"),
    "surplus": Kind("Buyer's surplus of an agent", 2, "units of reward"),
    "return": Kind("Return of an agent", 2, "units of reward"),
}
"""The measures that a page can show."""


@dataclass(frozen=True)
class Order:
    """Arms of which each is expected to have a higher measure than the one before."""

    arms: tuple[str, ...]
    says: str
    """A sentence without its full stop, of what holds if the order does."""
    measure: str = "test_accuracy"

    @property
    def steps(self) -> list[tuple[str, str]]:
        """The pairs of neighbouring arms."""
        return list(pairwise(self.arms))


@dataclass(frozen=True)
class Experiment:
    """One question to the market."""

    question: str
    markets: Markets
    arms: tuple[Arm, ...]
    orders: tuple[Order, ...]
    """The orders that the page judges."""
    claim: int | None = None
    """The claim of the paper that the experiment tests."""
    by: Literal["", "task", "agent"] = ""
    """The page has a line for each task or each agent; without it, figures are means over the agents."""
    across: str = ""
    """The column of the settings that is the horizontal axis of the picture, if their values are numbers in order."""
    measures: tuple[str, ...] = ("test_accuracy",)
    """The tables of the page."""
    needs_gpu: bool = False
    """Whether a CPU would take too long for the full run."""
    summary: Callable[[Grouped], list[str]] | None = None
    """Further sentences that are computed from the figures."""
    note: str = ""
    """A note to the reader on the setting."""

    def cells(self, seeds: int, *, quick: bool) -> Iterator[Cell]:
        """Every arm in every market."""
        for setting, config in self.markets(quick):
            for arm in self.arms:
                yield Cell(setting, config, arm, seeds)
