"""Bounds on the gain of a merge from the loss's slope and curvature (Nesterov, *Introductory lectures*, 2004).

On the line from the buyer's network, theta, to the seller's aligned one, with d their difference and g the gradient of
the buyer's loss: if the loss is beta-smooth, the merge weight alpha gains at least
-alpha <g, d> - (beta / 2) alpha^2 |d|^2, and if it is mu-strongly convex, at most the same with mu for beta.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network
from paramarket_env.learning.training import cross_entropy_gradient

LINE = ("directional derivative", "squared distance", "least curvature", "most curvature")
"""What is kept of a line between two networks."""


def loss_gradients(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    """The gradients of the mean losses of networks ``[R, P]``, each on its samples int64 ``[R, n]``: ``[R, P]``."""
    rows = max(1, chunk_elements(samples.device) // (samples.shape[1] * dataset.size))
    several = zip(parameters.split(rows), samples.split(rows), strict=True)
    return torch.cat([_gradients(network, dataset, *some) for some in several])


def _gradients(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    labels = dataset.labels[samples].unsqueeze(1)
    weights = torch.full_like(labels, 1 / samples.shape[1], dtype=parameters.dtype)
    logit_gradient = partial(cross_entropy_gradient, labels=labels, weights=weights)
    return torch.cat(list(network.gradients(parameters, dataset.take(samples), logit_gradient)), dim=1)


def measure_lines(gradient: Tensor, difference: Tensor, masks: Tensor, gains: Tensor, weights: Tensor) -> Tensor:
    """What ``LINE`` names, of Q lines and each parameter set: float64 ``[Q, K, 4]``.

    ``gradient`` of the buyers' losses and ``difference`` d, ``[Q, P]``; ``masks`` bool ``[K, P]``; ``gains`` float64
    ``[Q, K, L]`` of the merges tried, at the ``weights`` ``[L]``. The curvature is that of the parabola through the
    buyer's network, with the slope there, and one of the merges; those that are not finite do not count.
    """
    chosen = masks.double().T
    directional_derivative = (gradient * difference).double() @ chosen
    squared = difference.double().square() @ chosen
    weights = weights.double()
    bent = -2 * (weights * directional_derivative.unsqueeze(-1) + gains) / (weights.square() * squared.unsqueeze(-1))
    known = bent.isfinite()
    least = bent.masked_fill(~known, torch.inf).amin(-1)
    most = bent.masked_fill(~known, -torch.inf).amax(-1)
    return torch.stack([directional_derivative, squared, least, most], dim=-1)


def gain_bounds(
    directional_derivative: Tensor, squared: Tensor, weights: Tensor, smoothness: Tensor, convexity: Tensor
) -> Tensor:
    """The lower and the upper bound on the gain of the best of the ``weights`` ``[L]``: ``[..., 2]``, in nats.

    ``directional_derivative`` <g, d> and ``squared`` |d|^2, ``[...]``; ``smoothness`` beta and ``convexity`` mu
    broadcast against them. The gain is at least the best lower bound of all weights, and at most the best upper bound.
    """
    curvature = torch.stack(torch.broadcast_tensors(smoothness, convexity), dim=-1).unsqueeze(-1)
    line, arc = weights * directional_derivative[..., None, None], weights.square() / 2 * squared[..., None, None]
    return (-line - curvature * arc).amax(-1)
