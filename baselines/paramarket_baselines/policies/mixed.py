"""Several policies as one population: each episode and seat has one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from paramarket_env.interface.policy import Policy, PolicyFactory, Seat
from paramarket_env.seeding import stream, uniform


def drawn(keys: Tensor, chances: Sequence[float]) -> Tensor:
    """A number below ``len(chances)`` for each key of an episode, drawn with these chances, int64 ``[n]``."""
    limits = torch.tensor([*accumulate(chances)][:-1], dtype=torch.float64, device=keys.device)
    return torch.searchsorted(limits, uniform(stream(keys, "mixed"), 1).squeeze(1), right=True)


class Mixed:
    """Plays one of several policies, each equally often, drawn anew for each episode and seat."""

    def __init__(self, members: Iterable[PolicyFactory]) -> None:
        self.members = list(members)

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return MixedPolicy(seat, self.members)


class MixedPolicy(Policy):
    """One of several policies in each row and episode."""

    def __init__(self, seat: Seat, members: Iterable[PolicyFactory]) -> None:
        self.members = [member(seat) for member in members]
        self.drawn = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        count = len(self.members)
        self.drawn = self.drawn.index_copy(0, rows, drawn(keys, [1 / count] * count))
        for place, member in enumerate(self.members):
            member.reset(rows, stream(keys, "member", place))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        actions = torch.stack([member.act(observation, mask) for member in self.members])
        return actions[self.drawn, torch.arange(len(self.drawn), device=actions.device)]
