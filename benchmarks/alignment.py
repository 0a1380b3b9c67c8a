"""Aligners on planted permutations: ``python -m benchmarks.alignment``.

A seller's network is its buyer's with noise, and its hidden units are then put into a random order. The *planted* order
undoes that. An aligner reaches it if the aligned seller is at least as much like the buyer, by the inner product of
their parameters, as the seller in the planted order. With much noise, other orders are more alike than the planted one.
Functions are kept if no logit of a seller changes by more than rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import process_time

import torch
import tyro
from torch import Tensor

import paramarket_env.config  # noqa: F401  # registers aligners and architectures
from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_env.autograd import no_grad
from paramarket_env.learning.activations import SAMPLES
from paramarket_env.learning.alignment.aligner import ALIGNERS
from paramarket_env.learning.alignment.assignment import teams_of
from paramarket_env.learning.alignment.inner_products import InnerProducts
from paramarket_env.learning.alignment.permutations import identity, inverse, permute
from paramarket_env.learning.networks.network import ARCHITECTURES, Network, initial_parameters, permutation_sizes
from paramarket_env.seeding import permutation, stream, uniform
from paramarket_env.validation import require

FEATURES, CLASSES = (1, 8, 8), 10
ROUNDING = 1e-4
"""The largest change of a logit, which are float32, that counts as rounding."""


@dataclass(frozen=True)
class Alignment:
    """Search for planted permutations."""

    networks: tuple[str, ...] = (
        *("mlp", "cnn", "resnet20(widen=1, depth=10)", "resnet20(widen=1)", "vgg16(width=0.0625)", "vit"),
    )
    """Architectures."""
    aligners: tuple[str, ...] = ("weight-matching", "frank-wolfe")
    """Aligners."""
    noise: tuple[float, ...] = (0.5, 2.0)
    """Amounts of noise, as factors of the distribution from which the buyer's parameters are drawn."""
    pairs: int = 100
    """Number of buyers and sellers."""

    def __post_init__(self) -> None:
        require(self.pairs >= 1, "pairs", self.pairs, "at least 1")


@dataclass(frozen=True)
class Planted:
    """Buyers, and sellers with a planted order; float32 ``[Q, P]`` each, and int64 ``[Q, H]``."""

    network: Network
    buyers: Tensor
    sellers: Tensor
    order: Tensor

    def samples(self) -> Tensor:
        """The same samples for every pair, float32 ``[Q, n, *features]``."""
        return random_samples(SAMPLES).expand(len(self.buyers), *(-1,) * (1 + len(FEATURES)))


def random_samples(count: int) -> Tensor:
    """So many samples of noise, float32 ``[1, n, *features]``."""
    return uniform(stream(torch.tensor(0), "inputs"), count * math.prod(FEATURES)).float().view(1, count, *FEATURES)


def draw_permutations(network: Network, keys: Tensor) -> Tensor:
    """Random permutations that keep blocks together, int64 ``[Q, H]``, one for each key."""
    orders, sizes = {}, permutation_sizes(network)
    for team in teams_of(network):
        blocks = permutation(stream(keys, "+".join(team.permutations)), team.count).unsqueeze(-1)
        for name in team.permutations:
            size = sizes[name] // team.count
            inner = [permutation(stream(keys, name, block), size) for block in range(team.count)]
            orders[name] = (blocks * size + torch.stack(inner, dim=1)).flatten(1)
    return torch.cat([orders[name] for name in sizes], dim=1)


def plant(architecture: str, noise: float, pairs: int) -> Planted:
    """Networks of an architecture, with a planted order for each pair."""
    network = ARCHITECTURES.check(architecture)(FEATURES, CLASSES)
    seed, numbers = torch.tensor(0), torch.arange(pairs)
    buyers, others = (initial_parameters(network, stream(seed, name, numbers)) for name in ("buyer", "noise"))
    centre = torch.cat([torch.full((spec.size,), spec.centre) for spec in network.parameters])
    order = draw_permutations(network, stream(seed, "order", numbers))
    sellers = permute(network, buyers + noise * (others - centre), order)
    return Planted(network, buyers, sellers, inverse(network, order))


@no_grad
def measure(planted: Planted, aligner: str) -> tuple[float, float, float, bool]:
    """The share of pairs that reach the planted order, the inner product reached and the seconds, means over pairs.

    The inner product is given as a ratio to that of the planted order. Also returns whether functions are kept.
    """
    network, buyers, sellers = planted.network, planted.buyers, planted.sellers
    start, began = identity(network, buyers.device).repeat(len(buyers), 1), process_time()
    found = ALIGNERS.check(aligner)(network, buyers, sellers, start, planted.samples)
    seconds = (process_time() - began) / len(buyers)
    products = InnerProducts(network, buyers, sellers)
    reached = products.of_networks(found) / products.of_networks(planted.order)
    inputs = random_samples(16)
    before, after = (
        logits(network, sellers[:1], inputs),
        logits(network, permute(network, sellers, found)[:1], inputs),
    )
    kept = bool((before - after).abs().max() < ROUNDING)
    return float((reached > 1 - 1e-9).double().mean()), float(reached.mean()), seconds, kept


def logits(network: Network, parameters: Tensor, inputs: Tensor) -> Tensor:
    """The logits of networks ``[1, P]`` on the same samples ``[1, n, *features]``."""
    stem = network.stem(parameters.unsqueeze(0), inputs)
    return network.body(parameters[:, network.stem_size :].unsqueeze(0), stem)


def main() -> None:
    """Print the table."""
    options = tyro.cli(Alignment)
    labels = ("permutations", "reached", "inner product", "ms a pair", "function kept")
    console = new_console()
    console.print(f"{options.pairs} pairs, {machine(provenance([0], torch.device('cpu')))}")
    for noise in options.noise:
        rows = {}
        for architecture in options.networks:
            planted = plant(architecture, noise, options.pairs)
            count = str(len(permutation_sizes(planted.network)))
            for aligner in options.aligners:
                share, product, seconds, kept = measure(planted, aligner)
                figures = [f"{share:.0%}", f"{product:.3f}", f"{1000 * seconds:.1f}", "yes" if kept else "no"]
                rows[f"{architecture}, {aligner}"] = [count, *figures]
        console.print(table(rows, labels, f"Planted permutations, noise {noise}"))


if __name__ == "__main__":
    main()
