"""The interface of an aligner, and the aligner that leaves every network unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from paramarket_env.learning.alignment.permutations import identity
from paramarket_env.learning.networks.network import Network
from paramarket_env.plugins import Registry
from paramarket_env.validation import configuration

Samples = Callable[[], Tensor]
"""Returns the broker's samples of the buyers' tasks, float32 ``[Q, n, *features]``. Not calling it saves their copy."""


@runtime_checkable
class Aligner(Protocol):
    """A plug-in that brings sellers' hidden units into their buyers' order before a merge.

    The inverse permutations serve the same pairs with buyer and seller exchanged.
    """

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor, samples: Samples) -> Tensor:
        """The permutations, int64 ``[Q, H]``, for buyers and sellers, float32 ``[Q, P]`` each.

        ``start`` ``[Q, H]`` holds the result of each pair's previous alignment; before the first it is the identity.
        ``samples`` gives data to aligners that need them. Running statistics of the networks are 0.
        """


ALIGNERS: Registry[Aligner] = Registry("aligner", Aligner)


@configuration
class NoAlignment:
    """No alignment: hidden units keep their order."""

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor, samples: Samples) -> Tensor:
        """See :meth:`Aligner.__call__`; returns the identity."""
        return identity(network, buyers.device).repeat(len(buyers), 1)


ALIGNERS.register(NoAlignment, "none")
