"""An experiment of seconds. As a program it adds it to the experiments and runs the command."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.paper.__main__ import main
from benchmarks.paper.cells import Setting
from benchmarks.paper.experiment import Experiment, Order
from benchmarks.paper.experiments import EXPERIMENTS
from benchmarks.paper.markets import OUT, TRADE_ARMS, UNALIGNED
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.datasets import FashionMNIST
from tests.helpers import tiny_market


def markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Two lengths."""
    for rounds in (2, 3):
        yield {"rounds": rounds}, tiny_market(max_cycles=rounds, action_mode="round")


def with_clothes(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """The first of them, and one with data that are not there."""
    yield {"data": "digits"}, tiny_market(max_cycles=2, action_mode="round")
    yield {"data": "clothes"}, tiny_market(max_cycles=2, action_mode="round", dataset=FashionMNIST())


ORDER = Order((OUT, UNALIGNED), "Trade helps")
TINY = Experiment("Does it work?", markets, TRADE_ARMS[:2], (ORDER,), across="rounds")
CLOTHES = Experiment("Does it work with clothes?", with_clothes, TRADE_ARMS[:2], (ORDER,), claim=2)

if __name__ == "__main__":
    EXPERIMENTS["tiny"] = TINY
    main()
