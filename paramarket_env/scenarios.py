"""Named configurations. Each is one function; its docstring says what is hard about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from paramarket_env.config import (
    BrokerConfig,
    DataConfig,
    EconomyConfig,
    MarketConfig,
    NetworkConfig,
    TrainingConfig,
    lookup,
)


def digits() -> MarketConfig:
    """Two firms, handwritten digits, free parameters: when is it worth a step to buy?

    Each firm has a tenth of the samples of the classes that the other has in full. A purchase mixes the two networks,
    and training pulls them apart again: to buy always starves training, to train only forgets half of the classes.
    """
    return MarketConfig()


def digits_priced() -> MarketConfig:
    """The same two firms, with prices: what is a network worth to one who will not say?

    Budgets are short, so that every purchase has to be chosen, and every seller has to find the price that the other
    firm still pays.
    """
    levels = (0, 25, 50, 100, 150, 200, 300, 400, 600, 800)
    return MarketConfig(economy=EconomyConfig(ask_levels=levels, initial_ask=3, budget=2000))


def digits_layers() -> MarketConfig:
    """Two firms that sell their layers one by one: which part of a network is worth having?"""
    return replace(digits(), broker=BrokerConfig(parameter_sets="layers"))


def three_firms() -> MarketConfig:
    """Three firms, priced, each short of a third of the classes: whom to buy from, and at which price?"""
    return replace(digits_priced(), agents=3)


def private_values() -> MarketConfig:
    """Two firms with private values: what would the other pay, whose nat may be worth four times as much or as little?

    A nat is worth between 0.5 and 2 to each, drawn anew for each episode and seen by its owner alone. Money is ample,
    prices range from next to nothing to more than most purchases are worth, the broker keeps a twentieth of each, and a
    training pass has its price.
    """
    levels = (10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 453, 640, 905, 1280)
    economy = EconomyConfig(
        ask_levels=levels,
        initial_ask=7,
        budget=50_000,
        broker_fee=0.05,
        kappa_distribution="log-uniform",
        kappa=0.5,
        kappa_high=2.0,
        train_cost=0.01,
    )
    return MarketConfig(economy=economy)


def costly_training() -> MarketConfig:
    """Three firms for whom a training pass is dear: who trains, and who lives on what the others have learned?

    Who trains bears the cost alone; all may buy the result. Without income from sales nobody might bother.
    """
    market = three_firms()
    return replace(market, economy=replace(market.economy, train_cost=0.05, broker_fee=0.05))


def rivals() -> MarketConfig:
    """Two rivals with private values: a sale earns its price, and helps the competitor.

    Half of each nat that the other gains is lost to oneself, so that some sales are not worth their price.
    """
    market = private_values()
    return replace(market, economy=replace(market.economy, rivalry=0.5))


def crowd() -> MarketConfig:
    """Eight firms, priced, with a few samples of a few classes each: whom to buy from, when many sell?

    The samples are divided unevenly, by a Dirichlet distribution, and nobody's are enough to learn from alone; but what
    seven others sell has its price driven down by competition.
    """
    market = digits_priced()
    return replace(market, agents=8, data=replace(market.data, endowment="dirichlet", concentration=0.3))


def short(market: MarketConfig) -> MarketConfig:
    """The market in 12 cycles, in which a training pass does four times as much: a horizon that a CPU can learn on."""
    training = replace(market.training, lr=4 * market.training.lr)
    return replace(market, max_cycles=12, training=training)


def _authors(dataset: str, hidden: tuple[int, ...], scarcity: float, epochs: int, period: int) -> MarketConfig:
    """The authors' two-agent setting with SGD: whole dataset, one pass a round, free trade every round.

    They trade after the pass of epoch ``period``, counted from 0; our cycle t trades on networks trained t times.
    """
    return MarketConfig(
        max_cycles=epochs,
        action_mode="round",
        data=DataConfig(
            dataset=dataset, train_samples=None, validation_samples=10_000, test_samples=None, scarcity=scarcity
        ),
        network=NetworkConfig(hidden=hidden),
        training=TrainingConfig(lr=1e-2, batch_size=512),
        broker=BrokerConfig(opens_at=period + 1),
    )


def mnist() -> MarketConfig:
    """The authors' MNIST setting: five-layer MLP of width 32, SGD, a tenth of the scarce classes."""
    return _authors("mnist", (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


def fashion() -> MarketConfig:
    """The authors' MNIST setting on Fashion-MNIST."""
    return _authors("fashion_mnist", (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


def kmnist() -> MarketConfig:
    """The authors' MNIST setting on Kuzushiji-MNIST."""
    return _authors("kmnist", (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


def emnist() -> MarketConfig:
    """The authors' MNIST setting on EMNIST (balanced, 47 classes)."""
    return _authors("emnist", (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


def cifar10() -> MarketConfig:
    """The authors' CIFAR-10 setting for MLPs: width 256, a fifth of the scarce classes, without augmentation."""
    return _authors("cifar10", (256, 256, 256, 128), scarcity=0.2, epochs=80, period=0)


FIRMS = (digits, digits_priced, digits_layers, three_firms, private_values, costly_training, rivals, crowd)
"""What agents learn on: each has a short form, too."""

AUTHORS = (mnist, fashion, kmnist, emnist, cifar10)


def _named(rule: Callable[[], MarketConfig]) -> str:
    return rule.__name__.replace("_", "-")


def _short_form(rule: Callable[[], MarketConfig]) -> Callable[[], MarketConfig]:
    def shortened() -> MarketConfig:
        return short(rule())

    shortened.__doc__ = f"As {_named(rule)}, in 12 cycles that do more: for learning on a CPU."
    return shortened


SCENARIOS: dict[str, Callable[[], MarketConfig]] = {
    **{_named(rule): rule for rule in FIRMS},
    **{f"{_named(rule)}-short": _short_form(rule) for rule in FIRMS},
    **{_named(rule): rule for rule in AUTHORS},
}


def scenario(name: str) -> MarketConfig:
    """The configuration of that name; ``ValueError`` that lists the names for one that does not exist."""
    config: MarketConfig = lookup(SCENARIOS, name, "scenario")()
    return config
