"""Mergers of task vectors: what each network has learned since both began from the same parameters.

They suit agents that go on from a common start, such as a pretrained one, and stay near it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.learning.merging import MERGERS, MergeInputs, Merger, Weights, require_increasing
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import configuration

SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@configuration
class TaskVectors(Merger):
    """A merger that adds a scaled vector to the common start. A subclass says which vector."""

    weights: Weights = SCALES
    """The scales, increasing, which infos show as merge weights."""

    def __post_init__(self) -> None:
        require_increasing("merger.weights", self.weights)

    @property
    def needs_common_start(self) -> bool:
        """See :attr:`Merger.needs_common_start`."""
        return True

    def change(self, buyers: Tensor, sellers: Tensor, masks: Tensor) -> Tensor:
        """The vector to scale, ``[Q, P]``, from the task vectors of buyers and aligned sellers, ``[Q, P]`` each.

        ``masks``, bool ``[Q, P]``, mark the parameter sets; only what lies within matters.
        """
        raise NotImplementedError

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        change = self.change(inputs.buyers - inputs.start, inputs.sellers - inputs.start, inputs.masks)
        scales = torch.tensor(self.weights, device=change.device)
        return inputs.start.unsqueeze(1) + scales[:, None] * change.unsqueeze(1)


@MERGERS.register
@configuration
class TaskArithmetic(TaskVectors):
    """The sum of both task vectors, scaled.

    Source: Ilharco et al., *Editing models with task arithmetic*, ICLR 2023 (arXiv 2212.04089). Cost: an evaluation per
    scale.
    """

    def change(self, buyers: Tensor, sellers: Tensor, masks: Tensor) -> Tensor:
        """See :meth:`TaskVectors.change`."""
        return buyers + sellers


@MERGERS.register
@configuration
class Ties(TaskVectors):
    """The mean of the task vectors' large entries that agree with the sign of the larger total.

    Source: Yadav et al., *TIES-merging*, NeurIPS 2023 (arXiv 2306.01708). Cost: an evaluation per scale, and a sort of
    each task vector.
    """

    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The share of each task vector's entries that is kept: the largest."""

    def change(self, buyers: Tensor, sellers: Tensor, masks: Tensor) -> Tensor:
        """See :meth:`TaskVectors.change`."""
        both = torch.stack([self._trimmed(buyers, masks), self._trimmed(sellers, masks)])
        agreeing = both.sign() == both.sum(0).sign()
        count = (agreeing & (both != 0)).sum(0).clamp_min(1)
        return torch.where(agreeing, both, 0).sum(0) / count

    def _trimmed(self, vectors: Tensor, masks: Tensor) -> Tensor:
        """The vectors ``[Q, P]`` with their largest entries within the masks, and 0 elsewhere."""
        size = torch.where(masks, vectors.abs(), -1)
        kept = (self.density * masks.sum(1, keepdim=True)).ceil().long()
        least = size.sort(dim=1, descending=True).values.gather(1, (kept - 1).clamp_min(0))
        return torch.where(size >= least.clamp_min(0), vectors, 0)


@MERGERS.register
@configuration
class Dare(TaskVectors):
    """The sum of both task vectors, of each of which random entries are dropped and the others enlarged to make up.

    Source: Yu et al., *Language models are super Mario*, ICML 2024 (arXiv 2311.03099). Cost: an evaluation per scale.
    The same entries are dropped for all pairs, so that what is quoted is delivered.
    """

    rate: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The share of entries that is dropped. The paper drops 0.9 and more from large language models."""

    def change(self, buyers: Tensor, sellers: Tensor, masks: Tensor) -> Tensor:
        """See :meth:`TaskVectors.change`."""
        of_buyers, of_sellers = _kept(buyers.shape[1], self.rate, buyers.device)
        return (torch.where(of_buyers, buyers, 0) + torch.where(of_sellers, sellers, 0)) / (1 - self.rate)


@lru_cache(maxsize=16)
def _kept(size: int, rate: float, device: torch.device) -> Tensor:
    """Which of so many entries of a buyer's and of a seller's task vector are kept, bool ``[2, size]``."""
    keys = stream(torch.tensor(0, device=device), "dare", torch.arange(2, device=device))
    return uniform(keys, size) >= rate
