"""An estimate of memory, which limits the number of markets. It is arithmetic: nothing is allocated."""

from __future__ import annotations

import math

import torch

from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.learning import memory
from paramarket_env.learning.bounds import LINE
from paramarket_env.learning.data.tasks import Tasks
from paramarket_env.learning.memory import TENSORS_PER_CHUNK, chunk_elements
from paramarket_env.learning.networks.network import (
    Network,
    has_statistics,
    parameter_count,
    permutation_sizes,
    stem_units,
    unit_dtype,
)
from paramarket_env.learning.parameter_sets import layers_of_sets
from paramarket_env.learning.statistics import SAMPLES
from paramarket_env.learning.training import fresh_state
from paramarket_env.validation import require

WORDS_PER_CHUNK = 28
"""32-bit words of temporaries for each element of a chunk, at the peak over all phases of a step or a reset."""


def _samples(config: MarketConfig, tasks: Tasks) -> tuple[int, int, int]:
    """The largest number of training samples of a task, and the validation and the test samples of all tasks."""
    train, validation, test = zip(*tasks.split_counts(config.data.split_sizes(tasks.number)), strict=True)
    return max(train), sum(validation), sum(test)


def _goods(config: MarketConfig, network: Network, tasks: Tasks) -> int:
    """K, the number of parameter sets."""
    return len(layers_of_sets(config.broker.parameter_sets, network, head_for_sale=not tasks.differ))


def state_bytes(config: MarketConfig, network: Network, tasks: Tasks) -> int:
    """The size of the state of one market in bytes."""
    agents, slots = config.agents, config.agents * config.num_partners
    train, validation, test = _samples(config, tasks)
    parameters = parameter_count(network)
    # On the device "meta", tensors have no memory. Torch counts their bytes in an int64, which bounds their size.
    networks = torch.empty(1, agents, min(parameters, 2**40), dtype=torch.float32, device="meta")
    optimizer = sum(tensor.nbytes for tensor in fresh_state(config.training.optimizers, networks).values())
    line = 8 * len(LINE) if config.economy.disclosure == "bounds" else 0
    quotes = _goods(config, network, tasks) * (16 + line)
    quotes += unit_dtype(network).itemsize * sum(permutation_sizes(network).values())
    asks = slots if config.economy.mechanism.personal else agents
    columns = 8 * (11 + len(REFUSALS)) + 2  # eleven numbers and two flags of each agent, and the refusals by cause
    samples = 8 * (agents * train + validation + test)
    own = 4 * agents * parameters + optimizer + samples + agents * columns + 8 * asks
    meetings = 2 * 8 + 2  # two numbers and two flags of each slot
    start = 4 * parameters * config.broker.merger.needs_common_start
    return own + slots * (quotes + meetings) + start + 3 * 8  # three numbers of the market


def market_bytes(config: MarketConfig, network: Network, tasks: Tasks) -> int:
    """The memory that one market more takes: twice its state, and what is computed for all markets at once.

    A reset keeps the old state until the new state is complete. Prices, values, orders, masks and observations are
    computed for all markets at once.
    """
    agents = config.agents
    offers = agents * config.num_partners * _goods(config, network, tasks)
    bids = len(config.economy.ask_levels) if config.economy.mechanism.bids else 1
    asks = (agents - 1 if config.economy.mechanism.personal else 1) * (len(config.economy.ask_levels) + 1)
    return 2 * state_bytes(config, network, tasks) + offers * (80 + 4 * bids) + 4 * agents * asks


def workspace_bytes(config: MarketConfig, network: Network, tasks: Tasks) -> int:
    """The memory of temporaries in bytes.

    A chunk of ``chunk_elements`` elements is processed at a time, or one network or one market's data if those are
    larger. So the workspace does not grow with the number of markets.
    """
    agents, parameters = config.agents, parameter_count(network)
    train, validation, _ = _samples(config, tasks)
    minibatches = networks_at_once(config, network, tasks) * config.training.largest_batch
    copies = agents if tasks.differ else 1  # of a task's validation data
    indivisible = (
        2 * agents * stem_units(network) * validation  # one market's stems, and a permuted copy
        + validation * tasks.dataset.size  # one market's validation data
        + copies * validation // tasks.number * tasks.dataset.size  # for networks without a stem
        + minibatches * network.activations
        + _copies_of_minibatches(tasks) * minibatches * tasks.dataset.size
        + WORDS_PER_CHUNK * network.widest  # the widest layer, for one sample
        + 4 * SAMPLES * network.widest * has_statistics(network)  # layers on the samples for one network's statistics
        + 12 * parameters  # two networks with gradients, indices and float64 copies
        + 10 * agents * parameters  # one market's initial networks: random int64 and float64
        + config.broker.merger.words(network, validation // tasks.number)  # the merges of one pair
        + 16 * sum(size**2 for size in permutation_sizes(network).values())  # one pair's inner products, float64
        + (tasks.number - 1) * agents * parameters  # one market's networks again for each further task
        + 10 * agents * train  # one market's endowments: orders and flags
        + 16 * len(tasks.dataset.labels)  # the splits of one market: orders and keys, int64
    )
    return 4 * (WORDS_PER_CHUNK * chunk_elements(tasks.dataset.labels.device) + indivisible)


def _copies_of_minibatches(tasks: Tasks) -> int:
    """The number of 32-bit words that an augmentation needs for each element of a minibatch: copies and places."""
    return 0 if tasks.dataset.augmentation is None else 9


def networks_at_once(config: MarketConfig, network: Network, tasks: Tasks) -> int:
    """The number of networks to train at a time."""
    batch, chunk = config.training.largest_batch, chunk_elements(tasks.dataset.labels.device)
    train, _, _ = _samples(config, tasks)
    elements = max(tasks.dataset.size, network.activations // TENSORS_PER_CHUNK)
    largest = max(parameter_count(network), batch * elements, train)
    # A batched matrix product with at least one network per thread keeps all threads busy. A network whose layers fill
    # a chunk keeps them busy alone.
    least = torch.get_num_threads() if batch * network.widest <= chunk else 1
    return max(least, chunk // largest)


def required_bytes(num_markets: int, config: MarketConfig, network: Network, tasks: Tasks) -> int:
    """The peak memory of ``num_markets`` markets in bytes."""
    return num_markets * market_bytes(config, network, tasks) + workspace_bytes(config, network, tasks)


def require_room(num_markets: int, config: MarketConfig, network: Network, tasks: Tasks) -> None:
    """Raise ``ValueError`` if ``num_markets`` markets do not fit. The error names the largest number that fits."""
    needed, free = required_bytes(num_markets, config, network, tasks), memory.free_bytes(tasks.dataset.labels.device)
    each, workspace = market_bytes(config, network, tasks), workspace_bytes(config, network, tasks)
    most = max(0, math.floor((free - workspace) / each))
    agents = f"agents={config.agents} with {parameter_count(network)} parameters each"
    allowed = f"at most {most}: {agents} need about {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free"
    require(needed <= free, "num_markets", num_markets, allowed)
