"""The least work of a step of a market of multilayer perceptrons, and the best rates of the machine.

In this step every agent trains, every network is evaluated, every pair is aligned and every offer is tried. A
multiply-add counts as two floating-point operations (FLOP). Only weights count; biases, ReLU, losses, optimizers and
repeated computations are extra.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from benchmarks.phases import now
from paramarket_env.config import MarketConfig
from paramarket_env.learning.alignment.aligner import NoAlignment
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import parameter_count
from paramarket_env.learning.training import Training

FLOAT32 = 4
"""Bytes of a float32."""

PRODUCT_WIDTH = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed. Larger ones reach no higher rate."""
COPIED = {"cpu": 2**25, "cuda": 2**28}
"""Numbers in the copy that is timed, more than any cache holds."""


def step_flop(
    config: MarketConfig, network: MLPNetwork, sizes: Tensor, validation: int, *, shared: bool = True
) -> dict[str, int]:
    """FLOP of one step by phase, for markets whose agents have ``sizes`` samples, int64 ``[M, N]``.

    ``validation`` is the number of the broker's samples.

    - train: forward pass, weight gradients, and input gradients, which the first layer does not need;
    - align: one matrix of inner products for each hidden layer and unordered pair (the reverse is the inverse);
    - try: the parts of each merged network that are not known already (:func:`try_flop`);
    - evaluate: each network on the broker's samples.

    ``shared=False`` counts each buyer's tries separately, although two agents that trade whole networks can share them.
    """
    markets, agents = sizes.shape
    layers = [inputs * outputs for inputs, outputs in pairwise(network.widths)]
    weights, pairs = sum(layers), agents * (agents - 1)
    hidden = zip(network.widths, network.widths[1:], network.widths[2:], strict=False)
    aligned = sum(2 * width * width * (before + 1 + after) for before, width, after in hidden)
    return {
        "train": trained_samples(config, sizes) * (4 * weights + 2 * (weights - layers[0])),
        "align": markets * pairs // 2 * (0 if isinstance(config.broker.aligner, NoAlignment) else aligned),
        "try": markets * pairs // 2 * validation * try_flop(config, network, layers, shared),
        "evaluate": markets * agents * validation * 2 * weights,
    }


def try_flop(config: MarketConfig, network: MLPNetwork, layers: list[int], shared: bool) -> int:
    """FLOP to try two agents' goods on each other, on one sample.

    The buyer's activations before the first layer that a good changes are known from its evaluation. In that layer the
    merge weight acts linearly, so its products are needed only once; if it is the network's first layer, they are known
    from the seller's own evaluation. Later layers are needed for each merge weight. If whole networks are traded, both
    buyers share those tries in which one's merge weight is 1 minus the other's.
    """
    names = list(dict.fromkeys(spec.layer for spec in network.parameters))
    grid, flop = config.broker.merger.weights, 0
    for good in config.broker.parameter_sets(network).values():
        first = min(names.index(layer) for layer in good)
        once = layers[first] if first > 0 else 0
        one_line = shared and len(good) == len(names)
        places = (
            len({round(place, 9) for weight in grid for place in (weight, 1 - weight)}) if one_line else 2 * len(grid)
        )
        flop += 2 * (2 * once + places * sum(layers[first + 1 :]))
    return flop


def trained_samples(config: MarketConfig, sizes: Tensor) -> int:
    """The number of samples that all agents train on in one step."""
    return sum(_samples_of_agent(training, size) for training, size in zip(config.trainings, sizes.mT, strict=True))


def _samples_of_agent(training: Training, sizes: Tensor) -> int:
    most = None if training.local_steps is None else training.local_steps * training.batch_size
    return training.passes * int(sizes.clamp(min=0, max=most).sum())


def step_bytes(config: MarketConfig, network: MLPNetwork, sizes: Tensor, validation: int) -> dict[str, int]:
    """Bytes to move in one step: reads of shuffled samples and of each market's validation samples, network updates."""
    sample = network.widths[0] * FLOAT32
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
