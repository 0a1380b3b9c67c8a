"""The authors' settings on CIFAR-10, which need its files, and for their ResNet20 a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks.paper.cells import Setting
from benchmarks.paper.experiment import Experiment
from benchmarks.paper.markets import BANK_ARM, FEDERATED_ARM, TRADE_ARMS
from benchmarks.paper.trading import ALIGNMENT_HELPS, ALONE_OR_TRADING, RESNET, TRADE_HELPS, WHOLE_ORDER
from paramarket_env.config import MarketConfig
from paramarket_env.learning.training import Adam
from paramarket_env.scenarios import scenario

SMALL: dict[str, Any] = {
    "train_samples": 2000,
    "validation_samples": 500,
    "test_samples": 500,
    "batch_size": 64,
    "max_cycles": 8,
}


def mlp_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """The MLP of width 256 with both optimizers."""
    market = scenario("cifar10").changed(**SMALL) if quick else scenario("cifar10")
    yield {"network": "authors' MLP", "optimizer": "SGD"}, market
    yield {"network": "authors' MLP", "optimizer": "Adam"}, market.changed(optimizer=Adam(lr=1e-2))


def resnet_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """ResNet20 with both optimizers; quick runs have a narrow one of ten layers."""
    market = scenario("cifar10-resnet")
    name, market = ("ResNet-10", market.changed(architecture=RESNET, **SMALL)) if quick else ("ResNet20", market)
    yield {"network": name, "optimizer": "SGD"}, market
    yield {"network": name, "optimizer": "Adam"}, market.changed(optimizer=Adam(lr=1e-2))


CIFAR10_MLP = Experiment(
    question="Does trade help MLPs on CIFAR-10?",
    claim=2,
    markets=mlp_markets,
    arms=(*TRADE_ARMS, FEDERATED_ARM, BANK_ARM),
    orders=(ALONE_OR_TRADING, ALIGNMENT_HELPS, WHOLE_ORDER, TRADE_HELPS),
    note="The authors' setting, with disjoint validation and test data.",
)
CIFAR10_RESNET = replace(
    CIFAR10_MLP, question="Does trade help residual networks on CIFAR-10?", markets=resnet_markets, needs_gpu=True
)
