"""The least work of a step of a market, and the best rates of the machine.

In this step every agent trains, every network is evaluated, every pair is aligned and every offer is tried. A
multiply-add counts as two floating-point operations (FLOP). Only matrix products and convolutions count; biases, ReLU,
normalisations, losses, optimizers and repeated computations are extra.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.phases import now
from paramarket_env.config import MarketConfig
from paramarket_env.learning.alignment.aligner import NoAlignment
from paramarket_env.learning.networks.network import Network, parameter_count
from paramarket_env.learning.training import Training

FLOAT32 = 4
"""Bytes of a float32."""

PRODUCT_WIDTH = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed. Larger ones reach no higher rate."""
COPIED = {"cpu": 2**25, "cuda": 2**28}
"""Numbers in the copy that is timed, more than any cache holds."""


@dataclass(frozen=True)
class Flop:
    """FLOP of a network on one sample."""

    layers: dict[str, int]
    """The forward pass of each layer, first to last."""
    linear: frozenset[str]
    """The layers that are one linear map, so that their outputs are linear in the merge weight."""
    backward: int
    """The gradients of all parameters."""

    @property
    def forward(self) -> int:
        """The forward pass of all layers."""
        return sum(self.layers.values())


@lru_cache(maxsize=64)
@torch.enable_grad()
def flop(network: Network, features: tuple[int, ...]) -> Flop:
    """The FLOP of a network on a sample of shape ``features``. Torch counts them; nothing is computed."""
    module = network.module(torch.empty(parameter_count(network), device="meta"))
    with FlopCounterMode(display=False) as forward:
        logits = module(torch.empty(1, *features, device="meta"))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    counts, root = forward.get_flop_counts(), type(module).__name__
    # The layers are the children with parameters. One without a product or a convolution is not counted at all.
    children = [(name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None]
    names = dict.fromkeys(spec.layer for spec in network.parameters)
    layers, linear = {}, set()
    for layer, (name, child) in zip(names, children, strict=True):
        layers[layer] = sum(counts.get(f"{root}.{name}", {}).values())
        if isinstance(child, (nn.Linear, nn.Conv2d)):
            linear.add(layer)
    return Flop(layers, frozenset(linear), backward.get_total_flops())


def step_flop(
    config: MarketConfig,
    network: Network,
    features: tuple[int, ...],
    sizes: Tensor,
    validation: int,
    *,
    shared: bool = True,
) -> dict[str, int]:
    """FLOP of one step by phase, for markets whose agents have ``sizes`` samples, int64 ``[M, N]``.

    ``features`` is the shape of a sample, and ``validation`` is the number of the broker's samples.

    - train: forward pass, weight gradients, and input gradients, which the first layer does not need;
    - align: one matrix of inner products for each permutation and unordered pair (the reverse is the inverse);
    - try: the parts of each merged network that are not known already (:func:`try_flop`);
    - evaluate: each network on the broker's samples.

    ``shared=False`` counts each buyer's tries separately, although two agents that trade whole networks can share them.
    """
    markets, agents = sizes.shape
    each, pairs = flop(network, features), agents * config.num_partners
    aligned = 0 if isinstance(config.broker.aligner, NoAlignment) else align_flop(network)
    return {
        "train": trained_samples(config, sizes) * (each.forward + each.backward),
        "align": markets * pairs // 2 * aligned,
        "try": markets * pairs // 2 * validation * try_flop(config, network, each, shared),
        "evaluate": markets * agents * validation * each.forward,
    }


def align_flop(network: Network) -> int:
    """FLOP of the inner products of all units of two networks, for each permutation that acts on an axis."""
    return sum(
        2 * segment.units * spec.size * segment.size // sum(other.size for other in axis)
        for spec in network.parameters
        for axis in spec.axes
        for segment in axis
        if segment.permutation is not None
    )


def try_flop(config: MarketConfig, network: Network, each: Flop, shared: bool) -> int:
    """FLOP to try two agents' goods on each other, on one sample.

    The buyer's activations before the first layer that a good changes are known from its evaluation. If that layer is
    linear, so is what it does as the merge weight changes, and its products are needed only once; if it is the
    network's first layer, they are known from the seller's own evaluation. Later layers are needed for each merge
    weight. If whole networks are traded, both buyers share those tries in which one's merge weight is 1 minus the
    other's.
    """
    goods = config.broker.parameter_sets(network).values()
    return sum(_try_flop(config.broker.merger.weights, each, good, shared) for good in goods)


def _try_flop(grid: Iterable[float], each: Flop, good: Iterable[str], shared: bool) -> int:
    """FLOP to try one parameter set of two agents on each other, on one sample."""
    names, grid, good = list(each.layers), list(grid), list(good)
    first = min(names.index(layer) for layer in good)
    linear = names[first] in each.linear
    once = each.layers[names[first]] if linear and first > 0 else 0
    places = 2 * len(grid)
    if shared and len(good) == len(names):
        places = len({round(place, 9) for weight in grid for place in (weight, 1 - weight)})
    return 2 * once + places * sum(each.layers[name] for name in names[first + linear :])


def trained_samples(config: MarketConfig, sizes: Tensor) -> int:
    """The number of samples that all agents train on in one step."""
    return sum(_samples_of_agent(training, size) for training, size in zip(config.trainings, sizes.mT, strict=True))


def _samples_of_agent(training: Training, sizes: Tensor) -> int:
    most = None if training.local_steps is None else training.local_steps * training.batch_size
    return training.passes * int(sizes.clamp(min=0, max=most).sum())


def step_bytes(
    config: MarketConfig, network: Network, features: tuple[int, ...], sizes: Tensor, validation: int
) -> dict[str, int]:
    """Bytes to move in one step: reads of shuffled samples and of each market's validation samples, network updates."""
    sample = math.prod(features) * FLOAT32
    return {
        "samples": trained_samples(config, sizes) * sample,
        "validation": len(sizes) * validation * sample,
        "networks": sizes.numel() * parameter_count(network) * 2 * FLOAT32,
    }


class Yardstick:
    """A large float32 matrix product and a large copy, timed in turn with the contenders."""

    def __init__(self, device: torch.device) -> None:
        width, copied = PRODUCT_WIDTH[device.type], COPIED[device.type]
        self.device = device
        random = torch.Generator(device).manual_seed(0)
        self._factor = torch.rand(width, width, generator=random, device=device)
        self._product = torch.zeros_like(self._factor)
        self._source, self._target = (torch.ones(copied, device=device) for _ in range(2))
        self._rates: list[float] = []
        self._bandwidths: list[float] = []

    def measure(self) -> None:
        """Time each once."""
        start = now(self.device)
        torch.mm(self._factor, self._factor, out=self._product)
        middle = now(self.device)
        self._target.copy_(self._source)
        end = now(self.device)
        self._rates.append(2 * len(self._factor) ** 3 / (middle - start))
        self._bandwidths.append(2 * FLOAT32 * len(self._source) / (end - middle))

    def forget(self) -> None:
        """Discard the measurements so far, which warmed up the machine."""
        self._rates, self._bandwidths = [], []

    @property
    def product_rate(self) -> float:
        """FLOP/s of the product, the median."""
        return median(self._rates)

    @property
    def copy_bandwidth(self) -> float:
        """Bytes/s that the copy reads and writes, the median."""
        return median(self._bandwidths)

    def roofline(self, flop: int, moved: int) -> float:
        """The least seconds of a step: the larger of arithmetic and memory traffic, since they can overlap."""
        return max(flop / self.product_rate, moved / self.copy_bandwidth)
