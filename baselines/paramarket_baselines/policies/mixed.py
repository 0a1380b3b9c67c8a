"""Several policies as one population: each episode and seat has one of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from paramarket_env.interface.policy import Policy, PolicyFactory, Seat
from paramarket_env.seeding import stream, uniform


class Mixed:
    """Plays one of several policies, drawn anew for each episode and seat. Members can join later.

    The first one is drawn ``weight`` times as often as each other.
    """

    def __init__(self, members: Iterable[PolicyFactory], weight: int = 1) -> None:
        self.members, self.weight = list(members), weight
        self._players: list[MixedPolicy] = []

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        player = MixedPolicy(seat, self.members, self.weight)
        self._players.append(player)
        return player

    def add(self, member: PolicyFactory) -> None:
        """Draw the policy, too, in the episodes that begin from now on."""
        self.members.append(member)
        for player in self._players:
            player.add(member)


class MixedPolicy(Policy):
    """One of several policies in each row and episode."""

    def __init__(self, seat: Seat, members: Iterable[PolicyFactory], weight: int) -> None:
        self.seat, self.weight, self.members = seat, weight, [member(seat) for member in members]
        self.drawn = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)

    def add(self, member: PolicyFactory) -> None:
        """See :meth:`Mixed.add`."""
        self.members.append(member(self.seat))

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        lots = len(self.members) + self.weight - 1
        lot = (uniform(stream(keys, "mixed"), 1).squeeze(1) * lots).long()
        self.drawn = self.drawn.index_copy(0, rows, (lot - self.weight + 1).clamp_min(0))
        for place, member in enumerate(self.members):
            member.reset(rows, stream(keys, "member", place))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        actions = torch.stack([member.act(observation, mask) for member in self.members])
        return actions[self.drawn, torch.arange(len(self.drawn), device=actions.device)]
