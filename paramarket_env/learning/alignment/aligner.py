"""The interface of an aligner, and the aligner that leaves every network as it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from paramarket_env.learning.alignment.permutations import identity
from paramarket_env.learning.networks.network import Network
from paramarket_env.plugins import Registry
from paramarket_env.validation import configuration


@runtime_checkable
class Aligner(Protocol):
    """Brings sellers' hidden units into their buyers' order before a merge: a plug-in.

    The inverse permutations serve the same pairs the other way round.
    """

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor) -> Tensor:
        """The permutations int64 ``[Q, H]`` for buyers and sellers float32 ``[Q, P]``.

        ``start`` ``[Q, H]`` are those of the pairs' last alignment, at first the identity.
        """


ALIGNERS: Registry[Aligner] = Registry("aligner", Aligner)


@configuration
class NoAlignment:
    """Hidden units stay in the order they have."""

    def __call__(self, network: Network, buyers: Tensor, sellers: Tensor, start: Tensor) -> Tensor:
        """See :meth:`Aligner.__call__`: the identity."""
        return identity(network, buyers.device).repeat(len(buyers), 1)


ALIGNERS.register(NoAlignment, "none")
