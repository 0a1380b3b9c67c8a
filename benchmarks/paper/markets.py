"""The markets and arms from which the experiments are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from paramarket_baselines.evaluation.play import PAPER_ARMS, Arm, closed
from paramarket_baselines.policies.decisions import Paper
from paramarket_baselines.policies.pricing import Fields, cycle_of
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import Seat
from paramarket_env.learning.alignment.aligner import NoAlignment
from paramarket_env.learning.data.endowments import Complementary
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.parameter_sets import trunk
from paramarket_env.learning.training import SGD
from paramarket_env.scenarios import scenario
from paramarket_env.validation import Count, configuration


def alone(config: MarketConfig) -> MarketConfig:
    """The same market, closed and with a broker of no effect, so that markets that differ in these are played once."""
    return closed(config).changed(aligner=NoAlignment(), merger=Linear(), parameter_sets=trunk, trade_every=1)


def bank(config: MarketConfig) -> MarketConfig:
    """The same market, but every agent has all training data and none trades."""
    return alone(config).changed(endowment=Complementary(scarcity=1.0))


OUT, UNALIGNED, ALIGNED, FEDERATED = (arm.name for arm in PAPER_ARMS)
BANK = "bank"
TRADE_ARMS = (replace(PAPER_ARMS[0], market=alone), *PAPER_ARMS[1:3])
"""Out of the market, and in the market without and with alignment."""
FEDERATED_ARM = replace(PAPER_ARMS[3], market=alone)
BANK_ARM = Arm(BANK, ("train",), bank)
"""The arm whose networks learn from everybody's data in as many passes."""


def digits(**changes: Any) -> MarketConfig:
    """Two firms with digits that train and trade in every round."""
    return scenario("digits", action_mode="round").changed(**changes)


def mlp(width: int, depth: int = 2) -> MLP:
    """A multilayer perceptron with hidden layers of the same width."""
    return MLP(hidden=(width,) * depth)


def once(config: MarketConfig) -> MarketConfig:
    """The same market, but it opens only once, after the last round of training."""
    return config.changed(opens_at=config.max_cycles)


def from_period(config: MarketConfig, period: int, frequency: int) -> MarketConfig:
    """The same market, open as in the authors' scripts: in epochs from ``period`` on that ``frequency`` divides.

    Their epochs are counted from 0, and their trades follow the training of the epoch.
    """
    first = -(-period // frequency) * frequency
    return config.changed(opens_at=first + 1, trade_every=frequency)


def grown_apart(width: int = 128, depth: int = 2, rounds: int = 38) -> MarketConfig:
    """Two firms whose networks have grown apart: they trade only once, after all training."""
    return once(digits(architecture=mlp(width, depth), max_cycles=rounds, optimizer=SGD(lr=0.05)))


def fashion(quick: bool) -> MarketConfig:
    """The authors' MLP on Fashion-MNIST: their whole setting, or a tenth of the samples in fewer rounds."""
    market = scenario("fashion")
    if not quick:
        return market
    small = market.changed(train_samples=6000, validation_samples=2000, test_samples=2000)
    return small.changed(batch_size=64, max_cycles=20)


@configuration
class Late(Paper):
    """The paper's rule of a firm that begins to train later than the others. It can buy before."""

    start: Count = 10
    """The first cycle in which it trains."""

    def train(self, seat: Seat, fields: Fields) -> Tensor:
        """See :meth:`Rule.train`."""
        return cycle_of(fields, seat) >= self.start
