"""Is pricing viable among competitors? Claim 5, with the rules of ``python -m benchmarks.pricing``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.paper.cells import Setting
from benchmarks.paper.experiment import Experiment, Order
from benchmarks.pricing import OUTSIDE, PAPER, RULES, with_rules
from paramarket_baselines.evaluation.play import Arm
from paramarket_env.config import MarketConfig
from paramarket_env.scenarios import scenario


def pricing_markets(quick: bool) -> Iterator[tuple[Setting, MarketConfig]]:
    """Two and four agents with private values."""
    for agents in (2,) if quick else (2, 4):
        yield {"agents": agents}, scenario("private-values", action_mode="round", agents=agents)


PRICING = Experiment(
    question="Is pricing viable if all agents sell to each other and know only their own values?",
    claim=5,
    markets=pricing_markets,
    arms=(
        OUTSIDE,
        *(Arm(rule, (f"paper+{rule}",), partial(with_rules, disclosure=needs)) for rule, needs in RULES.items()),
    ),
    orders=(
        Order(
            (OUTSIDE.name, PAPER),
            "Agents are better off at these prices than out of the market",
            "return",
        ),
        Order((OUTSIDE.name, PAPER), "Sellers earn money at the prices of the paper's rule", "received"),
        Order((OUTSIDE.name, PAPER), "Buyers keep a surplus at these prices", "surplus"),
        Order(("random", PAPER), "The paper's rule earns more than random prices", "received"),
        Order(("cost-plus", PAPER), "The paper's rule earns more than a margin on costs", "received"),
        Order((PAPER, "omniscient"), "Sellers that know every value would earn more", "received"),
    ),
    measures=("return", "received", "surplus", "test_accuracy"),
    note=(
        "The scenario `private-values`. All agents of a market buy by the paper's rule and price by the rule of the "
        "column. `python -m benchmarks.pricing` also has one seller against others, and other mechanisms."
    ),
)
