"""Which aligner and which merger? All that are registered, each with its defaults, in the same markets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.paper.cells import Setting
from benchmarks.paper.experiment import Experiment, Order
from benchmarks.paper.grouped import Grouped
from benchmarks.paper.markets import OUT, TRADE_ARMS, digits, grown_apart, mlp
from paramarket_baselines.evaluation.estimates import student_mean
from paramarket_baselines.evaluation.play import Arm
from paramarket_env.config import MarketConfig, NetworkConfig
from paramarket_env.learning.alignment.aligner import ALIGNERS
from paramarket_env.learning.data.endowments import Complementary
from paramarket_env.learning.merging import MERGERS

PAPER_ALIGNER, PAPER_MERGER = "weight-matching", "linear"


def merging_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Every aligner in markets that differ in what the networks have in common."""
    disjoint = Complementary(scarcity=0.0)
    pretrained = NetworkConfig(architecture=mlp(128), common_start=True, pretraining_passes=20, pretraining_share=0.1)
    markets = {
        "different classes, once": grown_apart().changed(endowment=disjoint),
        "different classes, common start, once": grown_apart().changed(endowment=disjoint, network=pretrained),
    }
    if not quick:
        markets |= {
            "scarce classes, once": grown_apart(),
            "different classes, every round": digits(endowment=disjoint, max_cycles=20),
        }
    for name, market in markets.items():
        for aligner in ALIGNERS:
            yield {"market": name, "aligner": aligner}, market.changed(aligner=aligner)


def _with_merger(config: MarketConfig, merger: str) -> MarketConfig:
    return config.changed(merger=merger)


def best(grouped: Grouped) -> list[str]:
    """The best aligner and merger of each market."""
    markets = dict.fromkeys(setting.rpartition(", ")[0] for setting in grouped.means)
    return [_best(grouped, market) for market in markets]


def _best(grouped: Grouped, market: str) -> str:
    found = {
        (setting, str(arm)): grouped.estimate(setting, str(arm), "test_accuracy").value
        for setting, means in grouped.means.items()
        if setting.rpartition(", ")[0] == market
        for arm in means.arm.unique()
        if arm != OUT
    }
    setting, arm = max(found, key=lambda pair: found[pair])
    usual = grouped.by_seed(f"{market}, {PAPER_ALIGNER}", PAPER_MERGER, "test_accuracy")
    ahead = student_mean((grouped.by_seed(setting, arm, "test_accuracy") - usual).tolist())
    above = grouped.difference(setting, arm, OUT, "test_accuracy")
    aligner = setting.rpartition(", ")[2]
    return (
        f"{market}: the best is **{arm}** with the aligner {aligner}, {above.symmetric(1)} points above training alone "
        f"and {ahead.symmetric(1)} above {PAPER_MERGER} merges with {PAPER_ALIGNER}. It is chosen with hindsight."
    )


MERGING = Experiment(
    question="Which aligner and which merger serve best, above all firms with different classes?",
    markets=merging_markets,
    arms=(
        TRADE_ARMS[0],
        *(Arm(name, ("paper",), partial(_with_merger, merger=name)) for name in MERGERS),
    ),
    orders=tuple(
        Order((PAPER_MERGER, name), f"The merger {name} is better than {PAPER_MERGER}")
        for name in MERGERS
        if name != PAPER_MERGER
    )
    or (Order((OUT, PAPER_MERGER), "Linear merges are better than none"),),
    summary=best,
    note=(
        "All registered aligners and mergers with their default settings. *Different classes*: no firm has a sample of "
        "the classes of its block, so two firms have no class in common. *Once*: the market opens only at the end."
    ),
)
