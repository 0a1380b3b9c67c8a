"""Spherical interpolation of each tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.learning.merging import GRID, MERGERS, MergeInputs, Merger, Weights, require_increasing
from paramarket_env.learning.networks.network import split
from paramarket_env.validation import configuration

PARALLEL = 1e-6
"""The sine of an angle below which vectors count as parallel, and are interpolated linearly."""


@MERGERS.register
@configuration
class Spherical(Merger):
    """Spherical linear interpolation of each tensor, which keeps the norm that a linear merge loses.

    Source: Shoemake, *Animating rotation with quaternion curves*, SIGGRAPH 1985. Cost: that of ``linear`` with a stem
    for each merge. It needs no data.
    """

    weights: Weights = GRID
    """Merge weights, increasing: the share of the seller."""

    def __post_init__(self) -> None:
        require_increasing("spherical.weights", self.weights)

    def candidates(self, inputs: MergeInputs) -> Tensor:
        """See :meth:`Merger.candidates`."""
        weights = torch.tensor(self.weights, device=inputs.buyers.device)
        buyer, seller = (split(inputs.network, networks) for networks in (inputs.buyers, inputs.sellers))
        return torch.cat([slerp(buyer[name].flatten(1), seller[name].flatten(1), weights) for name in buyer], dim=2)


def slerp(buyers: Tensor, sellers: Tensor, weights: Tensor) -> Tensor:
    """The points ``[Q, W, size]`` on the arcs from buyers to sellers, ``[Q, size]`` each, at the ``weights`` ``[W]``.

    Vectors that are parallel, opposite or 0 have no arc. Between them, the points are those of the line.
    """
    norms = buyers.norm(dim=1) * sellers.norm(dim=1)
    angle = ((buyers * sellers).sum(1) / norms).clamp(-1, 1).acos()[:, None, None]
    weights = weights[:, None]
    first, second = (((1 - weights) * angle).sin() / angle.sin(), (weights * angle).sin() / angle.sin())
    buyers, sellers = buyers.unsqueeze(1), sellers.unsqueeze(1)
    curved = angle.sin() > PARALLEL  # also false for NaN, the angle of a vector of zeros
    return torch.where(curved, first * buyers + second * sellers, torch.lerp(buyers, sellers, weights))
