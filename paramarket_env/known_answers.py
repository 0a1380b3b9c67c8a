"""Scenarios with a known answer: gains are given in advance, so theory says what is best.

The networks are stubs (see ``learning.stubs``); engine, exchange, ledger and adapters are those of every market. A
policy that cannot find these answers should not be trusted elsewhere. ``docs/known-answers.md`` has them in a table.

Where there is a seller, it is trader_0. It alone can learn, in one training pass, the one nat that a network lacks. A
purchase brings that nat, so its value to a buyer is the buyer's kappa, drawn uniformly from 0 to 1.
"""

from __future__ import annotations

from typing import Any

from paramarket_env.config import MarketConfig
from paramarket_env.economics.mechanisms import DoubleAuction, SecondPrice
from paramarket_env.economics.rewards import RelativeGain
from paramarket_env.learning.alignment.aligner import NoAlignment
from paramarket_env.learning.data.endowments import IID
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.parameter_sets import layers
from paramarket_env.learning.stubs import KnownLoss, KnownSteps, OneHot
from paramarket_env.scenarios import SCENARIOS


def _known(**changes: Any) -> MarketConfig:
    """A market of stubs, in which a purchase brings the seller's parameters as they are."""
    return MarketConfig().changed(
        dataset=OneHot(),
        train_samples=12,
        validation_samples=2,
        test_samples=2,
        endowment=IID(),
        batch_size=2,
        local_steps=1,
        aligner=NoAlignment(),
        merger=Linear(weights=(1.0,)),
        **changes,
    )


def _one_seller(steps: int, buyers: int = 1, **changes: Any) -> MarketConfig:
    """A market in which trader_0 sells a nat that is worth nothing to it, with prices from 0 to 1 in equal steps."""
    values = {
        "agents": 1 + buyers,
        "optimizer": (KnownSteps(moves=(-1.0,)), *(KnownSteps(moves=(0.0,)),) * buyers),
        "kappa_distribution": "uniform",
        "kappa": 0.0,
        "kappa_high": (0.0, *(1.0,) * buyers),
        "ask_levels": tuple(range(steps + 1)),
        "initial_ask": steps + 1,
        "tick": 1 / steps,
        "budget": steps,
    }
    return _known(architecture=KnownLoss(gaps=(1.0,)), **values | changes)


@SCENARIOS.register
def known_posted_price() -> MarketConfig:
    """A seller posts one price for a buyer whose value is uniform on [0, 1]: it should ask 1/2, and earn 1/4.

    The price p sells with probability 1 - p. The revenue p (1 - p) is largest where the virtual value p - (1 - F) / f =
    2 p - 1 is the seller's cost, 0 (Myerson, *Optimal auction design*, 1981). There are two steps to train and to ask
    in, and one to buy in. The buyer's best is to buy if its value is above the price.
    """
    return _one_seller(steps=6, max_cycles=3, opens_at=2)


@SCENARIOS.register
def known_price_skimming() -> MarketConfig:
    """A seller posts two prices in turn for one buyer: it should ask 2/3 and then 1/3, and earn 1/3.

    The buyer, whose value is uniform on [0, 1], buys as soon as its value is above the price (``paper``). A refusal at
    p thus leaves a value that is uniform on [0, p]. With n prices left, the best is n / (n + 1) of that bound, and n
    prices earn n / (2 (n + 1)) (Lazear, *Retail pricing and clearance sales*, 1986).
    """
    return _one_seller(steps=6, max_cycles=4, opens_at=2)


@SCENARIOS.register
def known_second_price() -> MarketConfig:
    """Two buyers bid for one copy in a second-price auction: each should bid its value, whatever the other bids.

    The own bid decides whether a buyer wins, but not what it pays. So the value is a dominant strategy (Vickrey,
    *Counterspeculation, auctions, and competitive sealed tenders*, 1961). The reserve is 0. Two truthful buyers gain
    1/6 each on average, and the seller, which only has to train first, 1/3.
    """
    return _one_seller(steps=10, buyers=2, max_cycles=2, opens_at=1, initial_ask=0, mechanism=SecondPrice(copies=1))


@SCENARIOS.register
def known_double_auction() -> MarketConfig:
    """Bid and ask meet halfway: the buyer should bid 2/3 of its value + 1/12, the seller ask 2/3 of its cost + 1/4.

    These strategies are an equilibrium if value and cost are uniform on [0, 1] (Chatterjee and Samuelson, *Bargaining
    under incomplete information*, 1983). They trade if the value is at least the cost + 1/4, which happens with
    probability 9/32. Of the 1/6 that trade could gain, it gains 9/64, the most that any mechanism can (Myerson and
    Satterthwaite 1983).

    The seller's cost is its own kappa, because it values its lead: a nat that the other gains costs as much as a nat of
    its own brings (``relative-gain``). There are two steps to train and to ask in, and one to bid in.
    """
    return _one_seller(
        steps=24,
        max_cycles=3,
        opens_at=2,
        mechanism=DoubleAuction(k=0.5),
        kappa_high=1.0,
        reward_terms=(RelativeGain(),),
    )


@SCENARIOS.register
def known_last_round() -> MarketConfig:
    """Two firms with a skill each and free purchases: train eleven times, and buy the other's skill in the last step.

    A pass lowers the gap in the own skill by 0.2 nats, and raises that in the other by 0.05. A purchase replaces the
    gap in the other skill by the seller's, which the seller's next passes lower further, and the own next passes raise
    again. So only the last purchase counts, and each earlier one costs a pass. By backward induction from the last
    step, the best is to train until then and to buy there (``patient:11``): 4.4 nats, against 1.8 by training alone.
    """
    return _known(
        max_cycles=12,
        architecture=KnownLoss(gaps=(3.0, 3.0)),
        optimizer=(KnownSteps(moves=(-0.2, 0.05)), KnownSteps(moves=(0.05, -0.2))),
        parameter_sets=layers,
    )
