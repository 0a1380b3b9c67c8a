"""Bounds on the gain of a merge from the gradient and curvature of the loss (Nesterov, *Introductory lectures*, 2004).

Let theta be the buyer's network, d the difference between the seller's aligned network and theta, and g the gradient of
the buyer's loss at theta. If the loss is beta-smooth on the line from theta to theta + d, a merge with weight alpha
gains at least -alpha <g, d> - (beta / 2) alpha^2 |d|^2. If the loss is mu-strongly convex on the line, the merge gains
at most the same expression with mu in place of beta.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.memory import TENSORS_PER_CHUNK, chunk_elements
from paramarket_env.learning.networks.network import Network
from paramarket_env.learning.training import cross_entropy_gradient

LINE = ("directional derivative", "squared distance", "least curvature", "most curvature")
"""The quantities that are measured on the line between two networks."""


def loss_gradients(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    """The gradients ``[R, P]`` of the mean losses of networks ``[R, P]``, each on its own samples, int64 ``[R, n]``."""
    room = chunk_elements(samples.device) // max(dataset.size, network.activations // TENSORS_PER_CHUNK)
    rows, block = max(1, room // samples.shape[1]), max(1, room)
    chunks = zip(parameters.split(rows), samples.split(rows), strict=True)
    return torch.cat([_gradients(network, dataset, *chunk, block) for chunk in chunks])


def _gradients(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor, block: int) -> Tensor:
    """The gradients of :func:`loss_gradients` for a few networks, over at most ``block`` samples at a time."""
    total = torch.zeros_like(parameters)
    for part in samples.split(block, dim=1):
        labels = dataset.labels[part].unsqueeze(1)
        weights = torch.full_like(labels, 1 / samples.shape[1], dtype=parameters.dtype)
        logit_gradient = partial(cross_entropy_gradient, labels=labels, weights=weights)
        total += torch.cat(list(network.gradients(parameters, dataset.take(part), logit_gradient)), dim=1)
    return total


def measure_lines(gradient: Tensor, difference: Tensor, masks: Tensor, gains: Tensor, weights: Tensor) -> Tensor:
    """The quantities of ``LINE`` for Q lines and K parameter sets, float64 ``[Q, K, 4]``.

    ``gradient`` is that of the buyers' losses and ``difference`` is d, ``[Q, P]`` each. ``masks`` is bool ``[K, P]``.
    ``gains``, float64 ``[Q, K, W]``, are those of the merges tried at the ``weights`` ``[W]``. Each merge gives one
    curvature: that of the parabola through the buyer's loss, with the directional derivative there, and the loss of the
    merge. Curvatures that are not finite are ignored.
    """
    in_set = masks.double().T
    directional_derivative = (gradient * difference).double() @ in_set
    squared = difference.double().square() @ in_set
    weights = weights.double()
    linear = weights * directional_derivative.unsqueeze(-1)
    curvature = -2 * (linear + gains) / (weights.square() * squared.unsqueeze(-1))
    finite = curvature.isfinite()
    least = curvature.masked_fill(~finite, torch.inf).amin(-1)
    most = curvature.masked_fill(~finite, -torch.inf).amax(-1)
    return torch.stack([directional_derivative, squared, least, most], dim=-1)


def gain_bounds(
    directional_derivative: Tensor, squared: Tensor, weights: Tensor, smoothness: Tensor, convexity: Tensor
) -> Tensor:
    """The lower and the upper bound on the gain of the best of the ``weights`` ``[W]``, in nats: ``[..., 2]``.

    ``directional_derivative`` <g, d> and ``squared`` |d|^2 are ``[...]``; ``smoothness`` beta and ``convexity`` mu
    broadcast against them. The lower bound is the largest of the weights' lower bounds, and the upper bound is the
    largest of their upper bounds.
    """
    curvature = torch.stack(torch.broadcast_tensors(smoothness, convexity), dim=-1).unsqueeze(-1)
    linear, quadratic = (
        weights * directional_derivative[..., None, None],
        weights.square() / 2 * squared[..., None, None],
    )
    return (-linear - curvature * quadratic).amax(-1)
