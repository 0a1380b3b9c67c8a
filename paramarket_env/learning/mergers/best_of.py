"""The best of several mergers."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.mergers.fisher import Fisher
from paramarket_env.learning.mergers.pleas import Pleas
from paramarket_env.learning.merging import MERGERS, Linear, MergeInputs, Merger
from paramarket_env.learning.networks.network import Network
from paramarket_env.learning.parameter_sets import ParameterSets
from paramarket_env.learning.trials import Groups, Pairs
from paramarket_env.validation import configuration


@MERGERS.register
@configuration
class BestOf(Merger):
    """The best candidate of several mergers. Cost: that of all of them.

    The textual form is ``best-of(mergers=('linear', 'spherical'))``.
    """

    mergers: Annotated[tuple[Annotated[Merger, MERGERS], ...], Field(min_length=1)] = (Linear(), Fisher(), Pleas())
    """The mergers. Where candidates are equally good, the first is delivered."""

    @property
    def needs_common_start(self) -> bool:
        """See :attr:`Merger.needs_common_start`."""
        return any(merger.needs_common_start for merger in self.mergers)

    @property
    def weights(self) -> tuple[float, ...]:
        """See :attr:`Merger.weights`."""
        return tuple(weight for merger in self.mergers for weight in merger.weights)

    def require_serves(self, network: Network) -> None:
        """See :meth:`Merger.require_serves`."""
        for merger in self.mergers:
            merger.require_serves(network)

    def words(self, network: Network, samples: int) -> int:
        """See :meth:`Merger.words`."""
        return sum(merger.words(network, samples) for merger in self.mergers)

    def losses(self, network: Network, groups: Groups, couples: Pairs, goods: ParameterSets) -> Tensor:
        """See :meth:`Merger.losses`."""
        return torch.cat([merger.losses(network, groups, couples, goods) for merger in self.mergers], dim=2)

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        return torch.cat([merger.candidates(inputs) for merger in self.mergers], dim=1)
