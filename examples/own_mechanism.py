"""A mechanism of your own: how purchase orders become trades.

Run it with ``python examples/own_mechanism.py``. ``file:`` finds the mechanism by the name ``mechanism``, in any
market: ``paramarket run --scenario three-firms --mechanism "file:examples/own_mechanism.py(copies=2)"``.
"""

import os

from rich.console import Console
from torch import Tensor

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.economics.clearing import Book
from paramarket_env.economics.mechanisms import SecondPrice
from paramarket_env.scenarios import scenario
from paramarket_env.validation import configuration

MARKET = scenario("three-firms-short", max_cycles=8, action_mode="round", budget=20_000)


@configuration
class FirstPrice(SecondPrice):
    """The highest bids of at least the seller's reserve win, as in the second-price auction; each winner pays its bid.

    A buyer that bids its value gets no surplus here, so it should bid less.
    """

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """The price of each order if it becomes a trade, in ticks: int64 ``[M, N]``."""
        return book.bid


mechanism = FirstPrice


def main() -> None:
    """Compare the auctions by the return of the paper's rule, which bids its value, against agents that only train."""
    for text in ("second-price", f"file:{os.path.relpath(__file__)}"):
        market = MARKET.changed(mechanism=text)
        runs = evaluate(market, ["train", "paper"], populations=["train"], seeds=range(4), device="cpu")
        Console(width=110).print(estimates_table(summary(runs), text))


if __name__ == "__main__":
    main()
