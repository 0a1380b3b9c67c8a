"""Several policies as one population: each episode and seat has one of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from paramarket_env.interface.policy import Policy, PolicyFactory, Seat
from paramarket_env.seeding import stream, uniform


class Mixed:
    """Plays one of several policies, drawn anew for each episode and seat. Members can join later.

    The members of the beginning are equally probable. As soon as others have joined, one of these is drawn with the
    probability ``share``; they are equally probable, too.
    """

    def __init__(self, members: Iterable[PolicyFactory], share: float = 0.0) -> None:
        self.members, self.share = list(members), share
        self.first = len(self.members)
        self._players: list[MixedPolicy] = []

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        player = MixedPolicy(seat, self.members, self.first, self.share)
        self._players.append(player)
        return player

    def add(self, member: PolicyFactory) -> None:
        """Draw the policy, too, in the episodes that begin from now on."""
        self.members.append(member)
        for player in self._players:
            player.add(member)


class MixedPolicy(Policy):
    """One of several policies in each row and episode."""

    def __init__(self, seat: Seat, members: Iterable[PolicyFactory], first: int, share: float) -> None:
        self.seat, self.first, self.share = seat, first, share
        self.members = [member(seat) for member in members]
        self.drawn = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)

    def add(self, member: PolicyFactory) -> None:
        """See :meth:`Mixed.add`."""
        self.members.append(member(self.seat))

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        chance, lot = uniform(stream(keys, "mixed"), 2).unbind(1)
        joined = len(self.members) - self.first
        later = (chance < self.share) & (joined > 0)
        drawn = torch.where(later, self.first + (lot * joined).long(), (lot * self.first).long())
        self.drawn = self.drawn.index_copy(0, rows, drawn)
        for place, member in enumerate(self.members):
            member.reset(rows, stream(keys, "member", place))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        actions = torch.stack([member.act(observation, mask) for member in self.members])
        return actions[self.drawn, torch.arange(len(self.drawn), device=actions.device)]
