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
"""32-bit words of the temporaries of a step, or of a reset, for each number of a chunk: the peak over its phases."""


def required_bytes(num_markets: int, one: MarketState, network: Network, dataset: Dataset) -> int:
    """Bytes that so many markets need at their peak, given the state of one: the state twice, and a workspace.

    A reset keeps the old state until the new one is whole. All else works on a chunk of ``chunk_elements`` numbers at a
    time, or on one network or one market's data where those are larger, so it does not grow with the markets.
    """
    agents, units = one.loss.shape[1], network.parameters[0].shape[0]
    validation = one.partition.validation.shape[1]
    indivisible = (
        2 * agents * units * validation  # one market's stems, and their copy in another order
        + validation * dataset.size  # its validation data
        + 12 * parameter_count(network)  # two networks, their gradients, indices, float64 copies
        + 16 * len(dataset.labels)  # the partition of one market: orders and keys, int64
    )
    chunk = WORDS_PER_CHUNK * chunk_elements(dataset.labels.device)
    return 2 * num_markets * nbytes(one) + 4 * (chunk + indivisible)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    available: int = psutil.virtual_memory().available
    return available


def require_room(num_markets: int, one: MarketState, network: Network, dataset: Dataset) -> None:
    """Raise ``ValueError``, with the estimate and the largest number that fits, if ``markets`` do not fit."""
    needed, free = required_bytes(num_markets, one, network, dataset), free_bytes(dataset.labels.device)
    if needed <= free:
        return
    each = 2 * nbytes(one)
    most = max(0, math.floor((free - (needed - num_markets * each)) / each))
    raise ValueError(
        f"num_markets={num_markets} is not allowed: it needs about {needed / 2**30:.1f} GiB where "
        f"{free / 2**30:.1f} GiB are free; at most {most} fit"
    )
