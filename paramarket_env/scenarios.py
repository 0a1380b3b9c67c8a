"""Named configurations. Each is one function; its docstring says what is hard about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from paramarket_env.config import EconomyConfig, MarketConfig
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.learning.data.datasets import CIFAR10, EMNIST, KMNIST, MNIST, DatasetSource, FashionMNIST
from paramarket_env.learning.data.endowments import Complementary, Dirichlet
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.training import SGD
from paramarket_env.plugins import Registry


@runtime_checkable
class Scenario(Protocol):
    """A named configuration: a plug-in. Its docstring says what is hard about it."""

    def __call__(self) -> MarketConfig:
        """The configuration."""


SCENARIOS: Registry[Scenario] = Registry("scenario", Scenario)


def scenario(name: str, **changes: Any) -> MarketConfig:
    """The scenario of that name, with ``changes`` of any of its fields (see ``MarketConfig.changed``).

    Raises ``ValueError`` that lists the names for one that does not exist.
    """
    return SCENARIOS.parse(name)().changed(**changes)


def short(market: MarketConfig) -> MarketConfig:
    """The market in 12 cycles, in which a training pass does four times as much: a horizon that a CPU can learn on."""
    return market.changed(max_cycles=12, optimizer=SGD(lr=0.2))


def _with_short_form(rule: Callable[[], MarketConfig]) -> Callable[[], MarketConfig]:
    """Register a scenario that agents learn on, and its short form."""

    def shortened() -> MarketConfig:
        return short(rule())

    name = rule.__name__.replace("_", "-")
    shortened.__doc__ = f"{name} in 12 cycles that do more: for learning on a CPU."
    SCENARIOS.register(rule)
    SCENARIOS.register(shortened, f"{name}-short")
    return rule


@_with_short_form
def digits() -> MarketConfig:
    """Two firms, handwritten digits, free parameters: when is it worth a step to buy?

    Each firm has a tenth of the samples of the classes that the other has in full. A purchase mixes the two networks,
    and training pulls them apart again: to buy always starves training, to train only forgets half of the classes.
    """
    return MarketConfig()


@_with_short_form
def digits_priced() -> MarketConfig:
    """The same two firms, with prices: what is a network worth to one who will not say?

    Budgets are short, so that every purchase has to be chosen, and every seller has to find the price that the other
    firm still pays.
    """
    levels = (0, 25, 50, 100, 150, 200, 300, 400, 600, 800)
    return MarketConfig(economy=EconomyConfig(ask_levels=levels, initial_ask=3, budget=2000))


@_with_short_form
def digits_layers() -> MarketConfig:
    """Two firms that sell their layers one by one: which part of a network is worth having?"""
    return digits().changed(parameter_sets="layers")


@_with_short_form
def three_firms() -> MarketConfig:
    """Three firms, priced, each short of a third of the classes: whom to buy from, and at which price?"""
    return digits_priced().changed(agents=3)


@_with_short_form
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
        reward_terms=(TrainCost(0.01),),
    )
    return MarketConfig(economy=economy)


@_with_short_form
def costly_training() -> MarketConfig:
    """Three firms for whom a training pass is dear: who trains, and who lives on what the others have learned?

    Who trains bears the cost alone; all may buy the result. Without income from sales nobody might bother.
    """
    return three_firms().changed(reward_terms=(TrainCost(0.05),), broker_fee=0.05)


@_with_short_form
def rivals() -> MarketConfig:
    """Two rivals with private values: a sale earns its price, and helps the competitor.

    Half of each nat that the other gains is lost to oneself, so that some sales are not worth their price.
    """
    return private_values().changed(reward_terms=(TrainCost(0.01), Rivalry(0.5)))


@_with_short_form
def crowd() -> MarketConfig:
    """Eight firms, priced, with a few samples of a few classes each: whom to buy from, when many sell?

    The samples are divided unevenly, by a Dirichlet distribution, and nobody's are enough to learn from alone; but what
    seven others sell has its price driven down by competition.
    """
    return digits_priced().changed(agents=8, endowment=Dirichlet(concentration=0.3))


def _authors(
    dataset: DatasetSource, hidden: tuple[int, ...], scarcity: float, epochs: int, period: int
) -> MarketConfig:
    """The authors' two-agent setting with SGD: whole dataset, one pass a round, free trade every round.

    They trade after the pass of epoch ``period``, counted from 0; our cycle t trades on networks trained t times.
    """
    return MarketConfig().changed(
        max_cycles=epochs,
        action_mode="round",
        dataset=dataset,
        train_samples=None,
        validation_samples=10_000,
        test_samples=None,
        endowment=Complementary(scarcity=scarcity),
        architecture=MLP(hidden=hidden),
        optimizer=SGD(lr=1e-2),
        batch_size=512,
        opens_at=period + 1,
    )


@SCENARIOS.register
def mnist() -> MarketConfig:
    """The authors' MNIST setting: five-layer MLP of width 32, SGD, a tenth of the scarce classes."""
    return _authors(MNIST(), (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


@SCENARIOS.register
def fashion() -> MarketConfig:
    """The authors' MNIST setting on Fashion-MNIST."""
    return _authors(FashionMNIST(), (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


@SCENARIOS.register
def kmnist() -> MarketConfig:
    """The authors' MNIST setting on Kuzushiji-MNIST."""
    return _authors(KMNIST(), (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


@SCENARIOS.register
def emnist() -> MarketConfig:
    """The authors' MNIST setting on EMNIST (balanced, 47 classes)."""
    return _authors(EMNIST(), (32, 32, 32, 16), scarcity=0.1, epochs=50, period=5)


@SCENARIOS.register
def cifar10() -> MarketConfig:
    """The authors' CIFAR-10 setting for MLPs: width 256, a fifth of the scarce classes, without augmentation."""
    return _authors(CIFAR10(), (256, 256, 256, 128), scarcity=0.2, epochs=80, period=0)
