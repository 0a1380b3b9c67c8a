"""Data of your own: any labelled samples, in a market that is configured for them.

Run it with ``python examples/own_data.py``. A dataset is a function that returns a ``Dataset`` and has a name in
``DATASETS``; from then on a market's configuration can name it, in this process.
"""

from pathlib import Path

import torch
from rich.console import Console
from sklearn.datasets import make_classification

from baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.config import DataConfig, MarketConfig, NetworkConfig
from paramarket_env.learning.data.datasets import DATASETS, Dataset


def sensors(data_dir: Path | None) -> Dataset:
    """2,000 readings of 20 sensors, of six kinds; yours may come from files in ``data_dir``."""
    readings, kinds = make_classification(
        2000, n_features=20, n_informative=8, n_classes=6, n_clusters_per_class=1, class_sep=1.5, random_state=0
    )
    inputs, labels = torch.from_numpy(readings).float(), torch.from_numpy(kinds).long()
    return Dataset((inputs - inputs.mean(0)) / inputs.std(0), labels, classes=6, official_test=0)


MARKET = MarketConfig(
    agents=3,  # each short of two of the six kinds
    max_cycles=20,
    data=DataConfig(dataset="sensors", train_samples=1200, validation_samples=400, test_samples=400, scarcity=0.05),
    network=NetworkConfig(hidden=(16,)),
)


def main() -> None:
    """Is it worth trading? Who trains alone, and who buys now and then."""
    DATASETS["sensors"] = sensors
    runs = evaluate(MARKET, ["train", "patient"], populations=["train", "patient"], seeds=range(6), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "three firms and their sensors"))


if __name__ == "__main__":
    main()
