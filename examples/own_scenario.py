"""A scenario of your own: a named configuration.

Run it with ``python examples/own_scenario.py``. ``file:`` finds the scenario by the name ``scenario``:
``paramarket evaluate train paper patient --scenario file:examples/own_scenario.py``.
"""

from rich.console import Console

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.config import MarketConfig
from paramarket_env.economics.rewards import TrainCost
from paramarket_env.learning.data.endowments import Dirichlet
from paramarket_env.learning.training import SGD
from paramarket_env.scenarios import digits_priced


def scenario() -> MarketConfig:
    """Three start-ups with little money and uneven data: which purchases are worth the money?

    A purchase at the initial ask takes a third of the budget, so agents must sell to keep buying.
    """
    return digits_priced().changed(
        agents=3,
        max_cycles=12,
        optimizer=SGD(lr=0.2),
        endowment=Dirichlet(concentration=0.2),
        budget=300,
        initial_ask=3,
        reward_terms=(TrainCost(0.01),),
    )


def main() -> None:
    """Compare the rule that only trains with two rules that also buy."""
    policies = ["train", "paper", "patient:4"]
    runs = evaluate(scenario(), policies, populations=["patient:4"], seeds=range(4), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "three start-ups"))


if __name__ == "__main__":
    main()
