"""An estimate of memory, which limits the number of markets."""

from __future__ import annotations

import math

import psutil
import torch

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network, parameter_count
from paramarket_env.market.state import MarketState, nbytes

WORDS_PER_CHUNK = 28
"""32-bit words of temporaries for each element of a chunk, at the peak over all phases of a step or a reset."""


def required_bytes(num_markets: int, one: MarketState, network: Network, dataset: Dataset) -> int:
    """The peak memory of ``num_markets`` markets in bytes: twice their state, and a workspace.

    ``one`` is the state of one market. A reset keeps the old state until the new state is complete. Everything else
    works on a chunk of ``chunk_elements`` elements at a time, or on one network or one market's data if those are
    larger. So the workspace does not grow with the number of markets.
    """
    agents, units = one.loss.shape[1], network.parameters[0].shape[0]
    validation = one.partition.validation.shape[1]
    indivisible = (
        2 * agents * units * validation  # one market's stems, and a permuted copy
        + validation * dataset.size  # one market's validation data
        + 12 * parameter_count(network)  # two networks with gradients, indices and float64 copies
        + 16 * len(dataset.labels)  # the partition of one market: orders and keys, int64
    )
    chunk = WORDS_PER_CHUNK * chunk_elements(dataset.labels.device)
    return 2 * num_markets * nbytes(one) + 4 * (chunk + indivisible)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device in bytes."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    available: int = psutil.virtual_memory().available
    return available


def require_room(num_markets: int, one: MarketState, network: Network, dataset: Dataset) -> None:
    """Raise ``ValueError`` if ``num_markets`` markets do not fit. The error names the largest number that fits."""
    needed, free = required_bytes(num_markets, one, network, dataset), free_bytes(dataset.labels.device)
    if needed <= free:
        return
    each = 2 * nbytes(one)
    most = max(0, math.floor((free - (needed - num_markets * each)) / each))
    raise ValueError(
        f"num_markets={num_markets} is not allowed: it needs about {needed / 2**30:.1f} GiB, but only "
        f"{free / 2**30:.1f} GiB are free; at most {most} markets fit"
    )
