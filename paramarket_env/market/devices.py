"""The device of the markets: a GPU, or the CPU."""

from __future__ import annotations

import logging
from functools import cache

import torch

from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.tasks import load_tasks
from paramarket_env.learning.networks.network import parameter_count
from paramarket_env.validation import require, shown


def resolve_device(device: str | torch.device) -> torch.device:
    """The device with this name. ``auto`` is the GPU if there is one, and otherwise the CPU, which is logged once."""
    require(isinstance(device, str | torch.device), "device", device, "'auto', 'cpu' or 'cuda'")
    if device == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else _fallback()
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={shown(device)} is not allowed: it must be 'auto', 'cpu' or 'cuda'") from error
    require(resolved.type in ("cpu", "cuda"), "device", str(device), "'auto', 'cpu' or 'cuda'")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(device)!r} is not available: torch sees {torch.cuda.device_count()} GPUs")
    return resolved


@cache
def _fallback() -> torch.device:
    # This is no warning, since each of many processes would give it.
    logging.getLogger(__name__).info("no GPU was found: device='auto' uses the CPU")
    return torch.device("cpu")


WORTH_A_GPU = 8e7
"""FLOP of the training of a step below which ``auto`` takes the CPU, since a GPU would wait for the host.

These are two markets with the default configuration. An H200 took 6 ms for a step of any number of markets from 1 to
256, and one core of a CPU 3 ms for a step of one market.
"""


def device_for(config: MarketConfig, num_markets: int, device: str | torch.device) -> torch.device:
    """The device for markets: :func:`resolve_device`, but ``auto`` is the CPU if there is little to compute."""
    resolved = resolve_device(device)
    if device != "auto" or resolved.type == "cpu":
        return resolved
    tasks = load_tasks(config.datasets, torch.device("cpu"))
    network = config.network.architecture(tasks.dataset.features, tasks.dataset.classes)
    samples = max(train for train, *_ in tasks.split_counts(config.data.split_sizes(tasks.number)))
    flop = 6 * parameter_count(network) * samples * num_markets * config.agents
    return resolved if flop >= WORTH_A_GPU else _too_little()


@cache
def _too_little() -> torch.device:
    logging.getLogger(__name__).info("a GPU would mostly wait for so few networks: device='auto' uses the CPU")
    return torch.device("cpu")
