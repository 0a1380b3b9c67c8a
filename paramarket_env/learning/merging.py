"""Parameter sets, and the merge of a buyer's and an aligned seller's network on one of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paramarket_env.config import lookup
from paramarket_env.learning.networks.network import Network


def _layers(network: Network) -> list[str]:
    return list(dict.fromkeys(spec.layer for spec in network.parameters))


def full(network: Network) -> dict[str, list[str]]:
    """The whole network, as one good."""
    return {"full": _layers(network)}


def layers(network: Network) -> dict[str, list[str]]:
    """Each layer for itself."""
    return {layer: [layer] for layer in _layers(network)}


def prefixes(network: Network) -> dict[str, list[str]]:
    """The first layer, the first two, ..., the whole network."""
    names = _layers(network)
    return {f"to_{last}": names[: names.index(last) + 1] for last in names}


PARAMETER_SETS: dict[str, Callable[[Network], dict[str, list[str]]]] = {
    "full": full,
    "layers": layers,
    "prefixes": prefixes,
}
"""A rule returns the goods for sale by name, each the list of the layers in it."""


def parameter_sets(name: str, network: Network) -> dict[str, Tensor]:
    """The goods for sale by name, each a bool mask ``[P]`` over the flat vector."""
    goods = lookup(PARAMETER_SETS, name, "parameter set rule")(network)
    sizes = torch.tensor([spec.size for spec in network.parameters])
    return {
        good: torch.tensor([spec.layer in members for spec in network.parameters]).repeat_interleave(sizes)
        for good, members in goods.items()
    }


def merge(buyers: Tensor, aligned: Tensor, weights: Tensor) -> Tensor:
    """(1 - w) * buyer + w * aligned seller, where ``weights`` is the merge weight on the set and 0 elsewhere.

    All broadcast, ``[..., P]`` float32. Where the weight is 0 the result is the buyer's parameter to the bit, even
    beside a seller's that is not finite.
    """
    return torch.where(weights == 0, buyers, torch.lerp(buyers, aligned, weights))
