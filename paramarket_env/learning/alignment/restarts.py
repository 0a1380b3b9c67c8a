"""Weight matching that begins again from several orders, and keeps the best result."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.alignment.aligner import ALIGNERS, Samples
from paramarket_env.learning.alignment.assignment import assign_all
from paramarket_env.learning.alignment.inner_products import InnerProducts
from paramarket_env.learning.alignment.permutations import compose, permute
from paramarket_env.learning.alignment.weight_matching import better_of, weight_matching
from paramarket_env.learning.networks.network import Network, permutation_sizes
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import configuration


@ALIGNERS.register
@configuration
class RestartedWeightMatching:
    """Weight matching from the last alignment and from random orders; the largest inner product counts.

    Source: Ainsworth et al., *Git Re-Basin*, ICLR 2023 (arXiv 2209.04836), whose search ends in an optimum that depends
    on its beginning. Cost: that of ``weight-matching`` for each beginning. All pairs have the same random orders.
    """

    restarts: Annotated[int, Field(ge=1, le=1000)] = 8
    """Number of random orders."""

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor, samples: Samples) -> Tensor:
        """See :meth:`Aligner.__call__`. The result is at least as good as that of weight matching from ``start``."""
        best = weight_matching(network, buyers, sellers, start)
        if not permutation_sizes(network) or len(buyers) == 0:
            return best
        products = InnerProducts(network, buyers, sellers)
        for order in random_orders(network, self.restarts, buyers.device):
            begin = order.expand(len(buyers), -1)
            found = weight_matching(network, buyers, permute(network, sellers, begin))
            best = better_of(products, compose(network, begin, found), best)
        return best


@lru_cache(maxsize=16)
def random_orders(network: Network, count: int, device: torch.device) -> Tensor:
    """Random orders of all units that keep blocks together, int64 ``[count, H]``."""
    seed, numbers = torch.tensor(0, device=device), torch.arange(count, device=device)
    values = {
        name: uniform(stream(seed, f"restart {name}", numbers), size * size).view(count, size, size)
        for name, size in permutation_sizes(network).items()
    }
    return torch.cat(list(assign_all(network, values, torch.ones_like(numbers, dtype=torch.bool)).values()), dim=1)
