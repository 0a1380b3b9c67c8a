"""Heads, the last layers of networks. An agent whose task differs from others' keeps its head and never sells it.

All networks of a market have the same shape, so a head has as many logits as the task with most classes. An agent whose
task has fewer classes never uses the rest: their biases are so low that the probabilities, and with them the gradients,
are exactly 0. This costs nothing in training and evaluation, and a network outside of its market needs no mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.learning.networks.network import Network
from paramarket_env.validation import require

UNUSED_BIAS = -1e9
"""The bias of a logit without a class. It is finite, so that the network counts as sound."""


def head(network: Network) -> str:
    """The name of the network's last layer."""
    return network.parameters[-1].layer


def common_mask(network: Network, device: torch.device, *, tasks_differ: bool) -> Tensor:
    """Whether each parameter means the same to all agents: bool ``[P]``.

    Running statistics do not, since they are those of the owner's data. Where tasks differ, the head does not, either.
    """
    own = {head(network)} if tasks_differ else set()
    sizes = torch.tensor([spec.size for spec in network.parameters], device="cpu")
    common = [not spec.statistic and spec.layer not in own for spec in network.parameters]
    return torch.tensor(common, device="cpu").repeat_interleave(sizes).to(device)


def require_biases(network: Network, logits: int, classes: Tensor) -> None:
    """Raise ``ValueError`` if an agent has unused logits, and the network's last tensor is not the ``logits`` biases.

    ``classes``, int64 ``[N]``, are those of each agent's task.
    """
    last, unused = network.parameters[-1], bool((classes < logits).any())
    allowed = f"the {logits} biases of the logits, since the tasks have different numbers of classes"
    require(not unused or last.shape == (logits,), "network's last tensor", f"{last.name} {last.shape}", allowed)


def silence_unused(parameters: Tensor, logits: int, classes: Tensor) -> None:
    """Give the unused logits of networks ``[M, N, P]`` their bias, in place; see :func:`require_biases`."""
    unused = torch.arange(logits, device=classes.device) >= classes.unsqueeze(1)
    parameters[..., -logits:].masked_fill_(unused, UNUSED_BIAS)
