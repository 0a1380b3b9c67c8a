"""A trained network as a policy, acting greedily: in each step it takes the legal action with the highest score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from paramarket_env.interface.policy import Policy, Seat


class BestAction(Policy):
    """Takes the legal action that a network scores highest. Ties go to the first of them.

    ``scores`` maps observations, float32 ``[B, D]``, to a score for each entry of the action mask, ``[B, A]``, such as
    the logits of a policy network or the values of a Q-network.
    """

    def __init__(self, scores: Callable[[Tensor], Tensor], seat: Seat) -> None:
        self.scores, self.actions = scores, seat.actions

    @torch.no_grad()
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        return self.actions.best(self.scores(observation).masked_fill(~mask, -torch.inf))
