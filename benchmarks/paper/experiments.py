"""All experiments by name."""

from __future__ import annotations

from benchmarks.paper.cifar import CIFAR10_MLP, CIFAR10_RESNET
from benchmarks.paper.economy import PRICING
from benchmarks.paper.experiment import Experiment
from benchmarks.paper.merging import MERGING
from benchmarks.paper.sweeps import AGENTS, FREQUENCY, PERIOD, SCARCITY
from benchmarks.paper.trading import ALIGNMENT, GAP, PROTOCOLS, SUBSETS, TASKS, TRADING

EXPERIMENTS: dict[str, Experiment] = {
    "trading": TRADING,
    "alignment": ALIGNMENT,
    "subsets": SUBSETS,
    "tasks": TASKS,
    "pricing": PRICING,
    "scarcity": SCARCITY,
    "frequency": FREQUENCY,
    "period": PERIOD,
    "agents": AGENTS,
    "gap": GAP,
    "protocols": PROTOCOLS,
    "merging": MERGING,
    "cifar10": CIFAR10_MLP,
    "cifar10-resnet": CIFAR10_RESNET,
}
"""Each is one entry of data; a new one needs its line here."""
