"""Does trade help, when does alignment, and what can be traded? Claims 1 to 4."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.paper.cells import Setting
from benchmarks.paper.experiment import Experiment, Order
from benchmarks.paper.markets import (
    ALIGNED,
    BANK,
    BANK_ARM,
    FEDERATED,
    FEDERATED_ARM,
    OUT,
    TRADE_ARMS,
    UNALIGNED,
    Late,
    alone,
    digits,
    fashion,
    from_period,
    grown_apart,
    mlp,
    once,
)
from paramarket_baselines.evaluation.play import Arm
from paramarket_env.config import MarketConfig, NetworkConfig
from paramarket_env.learning.alignment.frank_wolfe import FrankWolfe
from paramarket_env.learning.data.endowments import Complementary
from paramarket_env.learning.networks.convolutional import CNN, ResNet20
from paramarket_env.learning.parameter_sets import Span
from paramarket_env.learning.training import Adam
from paramarket_env.scenarios import scenario

ALONE_OR_TRADING = Order((OUT, UNALIGNED), "Trade without alignment is better than none")
ALIGNMENT_HELPS = Order((UNALIGNED, ALIGNED), "Alignment makes trade better")
WHOLE_ORDER = Order((OUT, UNALIGNED, ALIGNED), "Both steps hold in the same setting")
TRADE_HELPS = Order((OUT, ALIGNED), "Trade with alignment is better than none")

RESNET = ResNet20(widen=1, depth=10)
DEEP = {"CNN": CNN(), "ResNet-10": RESNET}
"""Narrow networks that a CPU trains."""


def deep(name: str) -> MarketConfig:
    """Two firms with digits and a convolutional or residual network, which Adam trains in few rounds."""
    market = digits(architecture=DEEP[name], optimizer=Adam(lr=0.002))
    if name == "CNN":
        return market.changed(max_cycles=20)
    return market.changed(max_cycles=6, aligner=FrankWolfe())


# --- claim 2 ----------------------------------------------------------------------------------------------------------


def _setting(data: str, network: str, optimizer: str, trade: str) -> Setting:
    return {"data": data, "network": network, "optimizer": optimizer, "trade": trade}


def trading_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Networks, optimizers and datasets, with trade in every round and only once."""
    every, last = "every round", "once at the end"
    adam = Adam(lr=0.002)
    yield _setting("digits", "MLP 32-32", "SGD", every), digits()
    yield _setting("digits", "MLP 32-32", "Adam", every), digits(optimizer=adam)
    yield _setting("digits", "MLP 128-128", "SGD", last), grown_apart()
    yield _setting("digits", "MLP 128-128", "Adam", last), grown_apart(rounds=20).changed(optimizer=adam)
    yield _setting("digits", "MLP 512-512", "SGD", last), grown_apart(width=512)
    scarcer = Complementary(scarcity=0.05)
    yield _setting("digits, scarcity 0.05", "MLP 128", "SGD", last), grown_apart(depth=1).changed(endowment=scarcer)
    shallow = grown_apart(width=64, depth=1, rounds=20).changed(endowment=scarcer, optimizer=adam)
    yield _setting("digits, scarcity 0.05", "MLP 64", "Adam", last), shallow
    for name in DEEP:
        yield _setting("digits", name, "Adam", every), deep(name)
        yield _setting("digits", name, "Adam", last), once(deep(name))
    yield _setting("Fashion-MNIST", "authors' MLP", "SGD", every), fashion(quick)
    if not quick:
        authors = fashion(quick).changed(protocol="authors", validation_samples=None)
        yield _setting("Fashion-MNIST, authors' protocol", "authors' MLP", "SGD", every), authors
        with_adam = authors.changed(optimizer=Adam(lr=1e-2), endowment=Complementary(scarcity=0.2), opens_at=1)
        yield _setting("Fashion-MNIST, authors' protocol", "authors' MLP", "Adam", every), with_adam


TRADING = Experiment(
    question="Are agents better off in the market than out of it, and better with alignment than without?",
    claim=2,
    markets=trading_markets,
    arms=(*TRADE_ARMS, FEDERATED_ARM, BANK_ARM),
    orders=(
        ALONE_OR_TRADING,
        ALIGNMENT_HELPS,
        WHOLE_ORDER,
        Order((FEDERATED, ALIGNED), "Trade with alignment is better than federated averaging"),
        Order((ALIGNED, BANK), "A bank that learns from everybody's data is better than trade"),
    ),
    note=(
        "Two firms, each with a tenth of the samples of the classes that the other has in full. *Once at the end*: the "
        "market opens only after the last round of training, when the networks have grown apart. The convolutional and "
        "residual networks are narrow, for the CPU. The bank is the mean of two networks, each trained on all data in "
        "as many passes."
    ),
)


# --- when alignment matters -------------------------------------------------------------------------------------------

INITIALISATIONS = {
    "each its own": NetworkConfig(architecture=mlp(128)),
    "common": NetworkConfig(architecture=mlp(128), common_start=True),
    "common, pretrained": NetworkConfig(
        architecture=mlp(128), common_start=True, pretraining_passes=20, pretraining_share=0.1
    ),
}


def alignment_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """One factor at a time: when trade begins and how often, width, depth, optimizer, start and architecture."""

    def of(factor: str, value: str) -> Setting:
        return {"factor": factor, "value": value}

    base = digits(architecture=mlp(128), max_cycles=38)
    for period in (1, 19) if quick else (1, 10, 19, 30):
        for frequency in (1, 19) if quick else (1, 3, 10, 19):
            timing = base.changed(opens_at=period, trade_every=frequency)
            yield of("trade", f"from round {period}, every {frequency}"), timing
    yield of("trade", "once, after round 38"), grown_apart()
    for width in (32, 512) if quick else (16, 32, 64, 256, 512):
        yield of("width", str(width)), grown_apart(width)
    for depth in (1, 4) if quick else (1, 3, 4, 5):
        yield of("hidden layers", str(depth)), grown_apart(depth=depth)
    yield of("optimizer", "Adam, after round 20"), grown_apart(rounds=20).changed(optimizer=Adam(lr=0.002))
    for scarcity in (0.0, 0.05) if quick else (0.0, 0.05, 0.2, 0.4):
        scarce = grown_apart(depth=1).changed(endowment=Complementary(scarcity))
        yield of("scarcity", f"{scarcity}, one hidden layer"), scarce
    for name, network in INITIALISATIONS.items():
        if network != grown_apart().network:
            yield of("start", name), grown_apart().changed(network=network)
    for name in DEEP:
        yield of("architecture", name), once(deep(name))


ALIGNMENT = Experiment(
    question="When does alignment matter?",
    claim=2,
    markets=alignment_markets,
    arms=TRADE_ARMS,
    orders=(ALONE_OR_TRADING, ALIGNMENT_HELPS, WHOLE_ORDER, TRADE_HELPS),
    note=(
        "Two firms with digits. Unless the line says otherwise: an MLP with two hidden layers of width 128, each firm "
        "with a start of its own, SGD with learning rate 0.05, and one purchase after round 38, the last one."
    ),
)


# --- claim 3 ----------------------------------------------------------------------------------------------------------


def spans(layers: int) -> Iterator[tuple[str, Span]]:
    """Each layer, each prefix and each suffix of a network, and the whole."""
    names = [f"layer {layer + 1}" for layer in range(layers)]
    yield from ((name, Span(layer, layer)) for layer, name in enumerate(names))
    yield from ((f"layers 1 to {last + 1}", Span(0, last)) for last in range(1, layers - 1))
    yield from ((f"layers {first + 1} to {layers}", Span(first)) for first in range(1, layers - 1))
    yield "all layers", Span()


def subset_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Every span of layers of several networks."""
    five = digits(architecture=mlp(32, depth=4), optimizer=Adam(lr=0.002), max_cycles=20)
    markets = {"MLP, every round": (five if not quick else digits(max_cycles=20), 3 if quick else 5)}
    markets["MLP 128-128, once"] = (grown_apart(), 3)
    markets["CNN, every round"] = (deep("CNN"), 4)
    if not quick:
        markets["CNN, once"] = (once(deep("CNN")), 4)
    markets["ResNet-10, every round"] = (deep("ResNet-10"), 6)
    for network, (market, layers) in markets.items():
        for name, span in spans(layers):
            if network.startswith("ResNet") and quick and name not in ("layer 1", "layers 1 to 4", "all layers"):
                continue
            yield {"network": network, "sold": name}, market.changed(parameter_sets=span)


SUBSETS = Experiment(
    question="Does trade help even if only a part of the parameters is sold?",
    claim=3,
    markets=subset_markets,
    arms=TRADE_ARMS,
    orders=(
        Order((OUT, UNALIGNED), "Trade of the part without alignment is better than none"),
        Order((OUT, ALIGNED), "Trade of the part with alignment is better than none"),
    ),
    note="Two firms with digits. In each line one part of the network is for sale, and nothing else.",
)


# --- claim 4 ----------------------------------------------------------------------------------------------------------


def task_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Two tasks over a shared trunk, of the same images and of others."""
    same = scenario("two-tasks", action_mode="round")
    others = scenario("fashion-and-digits", action_mode="round")
    for tasks, market in (("digits and parity", same), ("clothes and digits", others)):
        yield {"tasks": tasks, "trade": "every round"}, market
        yield {"tasks": tasks, "trade": "every third round"}, from_period(market, period=3, frequency=3)
        yield {"tasks": tasks, "trade": "once at the end"}, once(market)


TASKS = Experiment(
    question="Does trade help even if agents have different tasks, and sell only the trunks of their networks?",
    claim=4,
    markets=task_markets,
    arms=TRADE_ARMS,
    orders=(ALONE_OR_TRADING, TRADE_HELPS, ALIGNMENT_HELPS),
    by="task",
    note=(
        "Two firms with the same architecture, of which one has many labelled samples and the other 100. A purchase "
        "covers all layers but the last."
    ),
)


# --- claim 1: who buys need not train from scratch --------------------------------------------------------------------

HEAD_START = 10


def gap_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """One firm begins ten rounds after the other."""
    for network, market in {"MLP 32-32": digits(), "MLP 128-128": digits(architecture=mlp(128))}.items():
        for rounds in (12, 20) if quick else (12, 20, 40):
            yield {"network": network, "rounds": rounds}, market.changed(max_cycles=rounds, opens_at=HEAD_START)


def _gap(arm: Arm, policy: str) -> Arm:
    return Arm(arm.name, (policy, Late(start=HEAD_START)), arm.market)


GAP = Experiment(
    question="Does a firm that enters ten rounds later catch up by buying?",
    claim=1,
    markets=gap_markets,
    arms=(Arm(OUT, ("train", Late(start=HEAD_START)), alone), *(_gap(arm, "paper") for arm in TRADE_ARMS[1:])),
    orders=(ALONE_OR_TRADING, TRADE_HELPS, ALIGNMENT_HELPS),
    by="agent",
    note="Agent 0 trains from the first round on, and agent 1 from the eleventh, in which the market opens.",
)


# --- how much the authors' protocol flatters --------------------------------------------------------------------------


def protocol_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Digits, and Fashion-MNIST with the authors' MLP."""
    yield {"data": "digits", "trade": "every round"}, digits()
    yield {"data": "digits", "trade": "once at the end"}, grown_apart()
    yield {"data": "Fashion-MNIST", "trade": "every round"}, fashion(quick)


def _by_authors(config: MarketConfig, then: Arm) -> MarketConfig:
    changed = config.changed(protocol="authors", validation_samples=None)
    return then.market(changed) if then.market else changed


LEAK = "{}, quoted on the test set"

PROTOCOLS = Experiment(
    question="How much do figures flatter if the broker quotes on the test set, as in the authors' scripts?",
    markets=protocol_markets,
    arms=tuple(
        each
        for arm in TRADE_ARMS
        for each in (arm, Arm(LEAK.format(arm.name), arm.policies, partial(_by_authors, then=arm)))
    ),
    orders=tuple(
        Order((arm.name, LEAK.format(arm.name)), f"Quotes on the test set flatter ({arm.name})") for arm in TRADE_ARMS
    ),
    note=(
        "Out of the market nothing is quoted, so there the difference shows what else the protocols differ in: the "
        "samples of the training split."
    ),
)
