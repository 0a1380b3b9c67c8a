"""A new policy explores all verbs alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paramarket_env.interface.actions import Actions, VerbActions


def even_verbs(actions: Actions) -> Tensor:
    """Scores, float32 ``[A]``, of a policy that holds, trains, buys and asks with equal probability.

    Most actions of ``verb`` mode are asks. If all actions were equally likely, the policy would rarely train or buy,
    and could hardly learn what these actions are worth. In ``round`` mode all scores are 0.
    """
    if not isinstance(actions, VerbActions):
        return torch.zeros(actions.mask_size, dtype=torch.float32, device="cpu")
    sizes = (1, 1, actions.choices.purchases, actions.mask_size - actions.first_ask)
    scores = [torch.full((size,), -math.log(size), dtype=torch.float32, device="cpu") for size in sizes]
    return torch.cat(scores)


def begin_with(network: nn.Module, scores: Tensor) -> None:
    """Let a new network score actions like this, ``[A]``, apart from its weights, if its last layer has biases."""
    *_, last = network.modules()
    if isinstance(last, nn.Linear) and last.bias is not None:
        with torch.no_grad():
            last.bias.copy_(scores)
