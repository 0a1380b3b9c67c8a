"""The authors' sweeps, and the number of firms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.paper.cells import Setting
from benchmarks.paper.experiment import Experiment, Order
from benchmarks.paper.grouped import Grouped
from benchmarks.paper.markets import (
    ALIGNED,
    FEDERATED,
    FEDERATED_ARM,
    OUT,
    TRADE_ARMS,
    UNALIGNED,
    digits,
    fashion,
    from_period,
)
from benchmarks.paper.trading import ALIGNMENT_HELPS, TRADE_HELPS
from paramarket_baselines.evaluation.estimates import student_mean
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.endowments import Complementary, FewClasses
from paramarket_env.learning.training import SGD

ORDERS = (TRADE_HELPS, ALIGNMENT_HELPS, Order((OUT, UNALIGNED), "Trade without alignment is better than none"))
SCARCITIES = (0.1, 0.2, 0.4, 0.6, 0.8)
FREQUENCIES = (1, 3, 5, 7, 10)
PERIODS = (0, 10, 20, 30, 40)


def bases(quick: bool) -> dict[str, MarketConfig]:
    """The markets of the sweeps by name."""
    short = {"digits": digits(max_cycles=50)}
    return short if quick else {**short, "Fashion-MNIST": fashion(quick)}


def trend(grouped: Grouped) -> list[str]:
    """The change of the effect of trade from the first to the last value, for each base."""
    names: dict[str, list[str]] = {}
    for setting in grouped.means:
        names.setdefault(setting.rpartition(", ")[0], []).append(setting)
    return [_change(grouped, settings[0], settings[-1]) for settings in names.values() if len(settings) > 1]


def _change(grouped: Grouped, first: str, last: str) -> str:
    effects = [grouped.paired(setting, ALIGNED, OUT, "test_accuracy") for setting in (first, last)]
    change = student_mean((effects[1] - effects[0]).tolist())
    told = "rises" if change.low > 0 else "falls" if change.high < 0 else "does not change measurably"
    return f"From {first} to {last} what trade adds {told}: {change.symmetric(1)} points."


def scarcity_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Shares of the scarce classes."""
    for data, base in bases(quick).items():
        for scarcity in SCARCITIES:
            yield {"data": data, "scarcity": scarcity}, base.changed(endowment=Complementary(scarcity))


def frequency_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Rounds from one trade to the next."""
    for data, base in bases(quick).items():
        for frequency in FREQUENCIES:
            yield {"data": data, "frequency": frequency}, from_period(base, 5, frequency)


def period_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Rounds before the first trade."""
    for data, base in bases(quick).items():
        for period in PERIODS:
            yield {"data": data, "period": period}, from_period(base, period, 1)


def agent_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Numbers of firms, each with as much data as in the others."""
    base = digits(endowment=FewClasses(classes=5, samples=400), optimizer=SGD(lr=0.1))
    for agents in (2, 3, 4, 8) if quick else (2, 3, 4, 8, 16):
        yield {"agents": agents}, base.changed(agents=agents)


def _sweep(question: str, markets: Callable[[bool], Iterator[tuple[Setting, MarketConfig]]], across: str) -> Experiment:
    note = "The authors' values. A period of p and a frequency of f: trade follows the training of the epochs, counted "
    note += "from 0, from p on that f divides."
    return Experiment(question, markets, TRADE_ARMS, ORDERS, across=across, summary=trend, note=note)


SCARCITY = _sweep("How does trade depend on how scarce a firm's scarce classes are?", scarcity_markets, "scarcity")
FREQUENCY = _sweep("How does trade depend on its frequency?", frequency_markets, "frequency")
PERIOD = _sweep("How does trade depend on when it begins?", period_markets, "period")
AGENTS = Experiment(
    question="How does the number of firms help?",
    markets=agent_markets,
    arms=(*TRADE_ARMS, FEDERATED_ARM),
    orders=(*ORDERS, Order((OUT, FEDERATED), "Federated averaging is better than training alone")),
    across="agents",
    summary=trend,
    note="Each firm draws five of ten classes and 400 of their samples, in markets of any size.",
)
