"""Data of your own: any labelled samples, in a market configured for them.

Run it with ``python examples/own_data.py``. A dataset is a function that returns a ``Dataset``; pass it
to a market's configuration. On the command line it is ``file:examples/own_data.py``.
"""

import torch
from rich.console import Console
from sklearn.datasets import make_classification

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.scenarios import scenario


def sensors() -> Dataset:
    """2,000 readings of 20 sensors, in six classes."""
    readings, kinds = make_classification(
        2000, n_features=20, n_informative=8, n_classes=6, n_clusters_per_class=1, class_sep=1.5, random_state=0
    )
    inputs, labels = torch.from_numpy(readings).float(), torch.from_numpy(kinds).long()
    return Dataset((inputs - inputs.mean(0)) / inputs.std(0), labels, classes=6, official_test=0)


dataset = sensors
"""The name under which the command line looks for a dataset."""

MARKET = scenario(
    "digits",
    agents=3,  # each has few samples of two of the six classes
    max_cycles=20,
    dataset=sensors,
    train_samples=1200,
    test_samples=400,
    endowment="complementary(scarcity=0.05)",
    architecture="mlp(hidden=(16,))",
)


def main() -> None:
    """Compare the rule that only trains with the rule that also buys."""
    runs = evaluate(MARKET, ["train", "patient"], populations=["train", "patient"], seeds=range(6), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "three firms and their sensors"))


if __name__ == "__main__":
    main()
