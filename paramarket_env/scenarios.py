"""Named configurations. Each is one function, and its docstring says what makes it hard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from paramarket_env.config import EconomyConfig, MarketConfig, NetworkConfig
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.learning.alignment.frank_wolfe import FrankWolfe
from paramarket_env.learning.data.datasets import (
    EMNIST,
    KMNIST,
    MNIST,
    DatasetSource,
    Digits,
    DigitsEnlarged,
    DigitsParity,
    FashionMNIST,
)
from paramarket_env.learning.data.endowments import IID, Complementary, Dirichlet, FewClasses
from paramarket_env.learning.data.images import CIFAR10, TinyImageNet
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.convolutional import ResNet20
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.network import Architecture
from paramarket_env.learning.parameter_sets import trunk
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.plugins import Registry


@runtime_checkable
class Scenario(Protocol):
    """A plug-in that makes a named configuration. Its docstring says what makes it hard."""

    def __call__(self) -> MarketConfig:
        """The configuration."""


SCENARIOS: Registry[Scenario] = Registry("scenario", Scenario, provider="paramarket_env.known_answers")


def scenario(name: str, **changes: Any) -> MarketConfig:
    """The scenario of that name, with ``changes`` of any of its fields (see ``MarketConfig.changed``).

    Raises ``ValueError``, listing the names, for an unknown name.
    """
    return SCENARIOS.check(name)().changed(**changes)


def short(market: MarketConfig) -> MarketConfig:
    """The market in 12 cycles with four times the learning rate: a horizon short enough for learning on a CPU."""
    return market.changed(max_cycles=12, optimizer=SGD(lr=0.2))


def _with_short_form(rule: Callable[[], MarketConfig]) -> Callable[[], MarketConfig]:
    """Register a scenario and its short form."""

    def shortened() -> MarketConfig:
        return short(rule())

    name = rule.__name__.replace("_", "-")
    shortened.__doc__ = f"{name} in 12 cycles with four times the learning rate, for learning on a CPU."
    SCENARIOS.register(rule)
    SCENARIOS.register(shortened, f"{name}-short")
    return rule


@_with_short_form
def digits() -> MarketConfig:
    """Two firms, handwritten digits, no prices: when is a purchase worth a step?

    Each firm has a tenth of the samples of the classes that the other has in full. A purchase mixes the two networks,
    and training pulls them apart again. A firm that always buys never trains; one that only trains forgets half of the
    classes.
    """
    return MarketConfig()


@_with_short_form
def digits_priced() -> MarketConfig:
    """The same two firms, with prices: which price, without knowing the buyer's gain?

    Budgets are small, so buyers must choose their purchases, and sellers must find the price that the other firm still
    pays.
    """
    levels = (0, 25, 50, 100, 150, 200, 300, 400, 600, 800)
    return MarketConfig(economy=EconomyConfig(ask_levels=levels, initial_ask=3, budget=2000))


@_with_short_form
def digits_layers() -> MarketConfig:
    """Two firms that sell their layers one by one: which part of a network is worth buying?"""
    return digits().changed(parameter_sets="layers")


@_with_short_form
def three_firms() -> MarketConfig:
    """Three firms, with prices, each short of a third of the classes: whom to buy from, and at which price?"""
    return digits_priced().changed(agents=3)


@_with_short_form
def private_values() -> MarketConfig:
    """Two firms that know only their own kappa: what is the other firm willing to pay?

    Each firm's kappa is drawn between 0.5 and 2 for each episode, so a nat can be worth four times as much to one firm
    as to the other. Money is ample, and prices range from almost nothing to more than most purchases are worth. The
    broker keeps a twentieth of each price, and training is not free.
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
    """Three firms for which training is costly: who trains, and who buys what the others have learned?

    The firm that trains bears the cost alone, but all can buy the result. Without income from sales, training might not
    pay.
    """
    return three_firms().changed(reward_terms=(TrainCost(0.05),), broker_fee=0.05)


@_with_short_form
def rivals() -> MarketConfig:
    """Two rivals that know only their own kappa: a sale earns its price, but helps the competitor.

    Each firm loses 0.5 of reward for each nat that the other gains, so some sales are not worth their price.
    """
    return private_values().changed(reward_terms=(TrainCost(0.01), Rivalry(0.5)))


@_with_short_form
def crowd() -> MarketConfig:
    """Eight firms, with prices and a few samples of a few classes each: whom to buy from when many sell?

    A Dirichlet distribution divides the samples unevenly, and no firm has enough to learn from alone. Competition
    between seven sellers drives prices down.
    """
    return digits_priced().changed(agents=8, endowment=Dirichlet(concentration=0.3))


@SCENARIOS.register
def crowd_64() -> MarketConfig:
    """64 firms, each of which meets four others in a step: whom to buy from, and at which price, among strangers?

    All firms fine-tune one network that was pretrained on 50 samples. Each has 40 samples of seven classes of its own,
    and forgets the other three. The firms that it meets change in every step.
    """
    start = NetworkConfig(common_start=True, pretraining_passes=30, pretraining_share=0.05)
    market = digits_priced().changed(network=start, agents=64, partners=4, endowment=FewClasses(classes=7, samples=40))
    return market.changed(max_cycles=20, optimizer=SGD(lr=0.1), batch_size=8, validation_samples=200)


@SCENARIOS.register
def crowd_256() -> MarketConfig:
    """256 firms, each of which meets four others in a step: four times as many as in crowd-64."""
    return crowd_64().changed(agents=256)


@SCENARIOS.register
def two_tasks() -> MarketConfig:
    """Two firms with different tasks: is the trunk of a network that learned something else worth its price?

    One firm has 100 labelled digits. The other has 900 that are labelled even or odd. They sell their trunks, which are
    all layers but the last. A purchase mixes trunks that serve different heads, so training must bring trunk and head
    together again.
    """
    return MarketConfig(max_cycles=30).changed(
        dataset=(Digits(), DigitsParity()),
        train_samples=(100, 900),
        endowment=IID(),
        architecture=MLP(hidden=(128, 128)),
        optimizer=SGD(lr=0.2),
        batch_size=8,
        parameter_sets=trunk,
    )


@SCENARIOS.register
def small_resnet() -> MarketConfig:
    """Two firms with small residual networks: is a deep network worth buying, too?

    Many layers of a residual network share a permutation, so coordinate ascent aligns them badly, and the broker moves
    all permutations at once.
    """
    network = ResNet20(widen=1, depth=10)
    return MarketConfig(max_cycles=12).changed(architecture=network, optimizer=Adam(lr=0.002), aligner=FrankWolfe())


@SCENARIOS.register
def pretrained() -> MarketConfig:
    """Two firms that fine-tune one pretrained network: what does a firm sell that the other did not start with?

    The network was trained on a tenth of the samples, in which no class is scarce. Each firm then sees few samples of
    the classes that the other has in full, and forgets them. The networks stay close to where they began, so there is
    nothing to align.
    """
    start = NetworkConfig(common_start=True, pretraining_passes=20, pretraining_share=0.1)
    return replace(digits(), network=start, max_cycles=20)


@SCENARIOS.register
def fashion_and_digits() -> MarketConfig:
    """Two firms with different images: does a trunk that learned to tell clothes apart help to read digits?

    One firm has 1,000 images of clothes, the other 100 handwritten digits of the same size. The tasks have less in
    common than those of ``two-tasks``: neither images nor labels.
    """
    return two_tasks().changed(
        dataset=(FashionMNIST(), DigitsEnlarged()),
        train_samples=(1000, 100),
        test_samples=1000,
        optimizer=SGD(lr=0.05),
    )


def _authors(
    dataset: DatasetSource, architecture: Architecture, scarcity: float, epochs: int, period: int
) -> MarketConfig:
    """The authors' two-agent setting with SGD: the whole dataset, one pass per round, free trade in every round.

    They trade after the pass of epoch ``period``, counted from 0. Our cycle t trades networks trained t times.
    """
    return MarketConfig().changed(
        max_cycles=epochs,
        action_mode="round",
        dataset=dataset,
        train_samples=None,
        validation_samples=10_000,
        test_samples=None,
        endowment=Complementary(scarcity=scarcity),
        architecture=architecture,
        optimizer=SGD(lr=1e-2),
        batch_size=512,
        opens_at=period + 1,
    )


def _authors_mnist(dataset: DatasetSource) -> MarketConfig:
    """The authors' setting for MNIST, with another dataset."""
    return _authors(dataset, MLP(hidden=(32, 32, 32, 16)), scarcity=0.1, epochs=50, period=5)


@SCENARIOS.register
def mnist() -> MarketConfig:
    """The authors' MNIST setting: a five-layer MLP of width 32, SGD, a tenth of the scarce classes."""
    return _authors_mnist(MNIST())


@SCENARIOS.register
def fashion() -> MarketConfig:
    """The authors' MNIST setting on Fashion-MNIST."""
    return _authors_mnist(FashionMNIST())


@SCENARIOS.register
def kmnist() -> MarketConfig:
    """The authors' MNIST setting on Kuzushiji-MNIST."""
    return _authors_mnist(KMNIST())


@SCENARIOS.register
def emnist() -> MarketConfig:
    """The authors' MNIST setting on EMNIST (balanced, 47 classes)."""
    return _authors_mnist(EMNIST())


@SCENARIOS.register
def cifar10() -> MarketConfig:
    """The authors' CIFAR-10 setting for MLPs: width 256, a fifth of the scarce classes, crops and flips in training."""
    return _authors(CIFAR10(), MLP(hidden=(256, 256, 256, 128)), scarcity=0.2, epochs=80, period=0)


@SCENARIOS.register
def cifar10_resnet() -> MarketConfig:
    """The authors' CIFAR-10 setting for ResNet20: 9.7 million parameters, a tenth of the scarce classes.

    It needs a GPU. On a CPU, choose a narrow network, such as ``resnet20(widen=1)``.
    """
    return _authors(CIFAR10(), ResNet20(), scarcity=0.1, epochs=60, period=5)


@SCENARIOS.register
def tinyimagenet() -> MarketConfig:
    """The authors' TinyImageNet setting for ResNet20: 200 classes, and one merge weight, one half.

    It needs a GPU. On a CPU, choose a narrow network, such as ``resnet20(widen=1)``.
    """
    market = _authors(TinyImageNet(), ResNet20(), scarcity=0.1, epochs=60, period=5)
    return market.changed(batch_size=256, merger=Linear(weights=(0.5,)))
