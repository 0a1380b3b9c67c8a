"""A scenario of your own: a named configuration.

Run it with ``python examples/own_scenario.py``. The function ``scenario`` below is all that ``file:`` needs:
``paramarket evaluate train paper patient --scenario file:examples/own_scenario.py``.
"""

from rich.console import Console

from baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.config import MarketConfig
from paramarket_env.economics.rewards import TrainCost
from paramarket_env.learning.data.endowments import Dirichlet
from paramarket_env.learning.training import SGD
from paramarket_env.scenarios import digits_priced


def scenario() -> MarketConfig:
    """Three start-ups with little money and uneven data: whom to spend it on?

    A purchase at the first price takes a third of the budget, so that most of it has to be earned by selling.
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
    """Is it worth trading? Who trains alone, who follows the paper's rule, and who buys now and then."""
    policies = ["train", "paper", "patient:4"]
    runs = evaluate(scenario(), policies, populations=["patient:4"], seeds=range(4), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "three start-ups"))


if __name__ == "__main__":
    main()
