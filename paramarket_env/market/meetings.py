"""Meetings: which agents can trade with each other in a step.

Everybody meets everybody, or each agent meets k *partners*. These are then drawn anew for each step, and whom an agent
meets, meets it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paramarket_env.seeding import permutation, stream


@dataclass
class Meetings:
    """The partners of N agents in M markets. An agent has k slots, one for each partner."""

    partners: Tensor
    """int64 ``[M, N, k]``: the agent in each slot, in increasing order."""
    mirror: Tensor
    """int64 ``[M, N * k]``: for each slot of a market, the slot in which the partner has the agent."""

    def of_partners(self, values: Tensor) -> Tensor:
        """The values of each agent's partners, ``[M, N, k]``, from those of all agents, ``[M, N]``."""
        return values.gather(1, self.partners.flatten(1)).view_as(self.partners)

    def mirrored(self, values: Tensor) -> Tensor:
        """Values of slots, ``[M, N, k, ...]``, each moved to the slot in which the partner has the agent."""
        slots = values.flatten(1, 2)
        place = self.mirror.view(*self.mirror.shape, *(1,) * (slots.dim() - 2)).expand_as(slots)
        return slots.gather(1, place).view_as(values)


def _meetings(partners: Tensor) -> Meetings:
    # Slots are in the order of agent and then partner. Sorted by partner and then agent, each is in its mirror's place.
    return Meetings(partners, partners.flatten(1).argsort(dim=1, stable=True))


def everybody(num_markets: int, agents: int, device: torch.device) -> Meetings:
    """The meetings of markets in which every agent meets all others."""
    slots = torch.arange(agents - 1, device=device)
    others = slots + (slots >= torch.arange(agents, device=device).unsqueeze(1))
    return _meetings(others.repeat(num_markets, 1, 1))


def draw(seeds: Tensor, cycle: Tensor, agents: int, count: int) -> Meetings:
    """The meetings of ``agents`` with ``count`` partners each, from each market's seed and cycle, int64 ``[M]``.

    The agents stand on a ring in random order. Each meets those at count // 2 random distances to both sides, and the
    one opposite if ``count`` is odd. So any two agents meet with probability count / (agents - 1).
    """
    place = permutation(stream(seeds, "ring", cycle), agents)
    distances = 1 + permutation(stream(seeds, "distances", cycle), (agents - 1) // 2)[:, : count // 2]
    opposite = torch.full_like(place[:, : count % 2], agents // 2)
    steps = torch.cat([distances, -distances, opposite], dim=1)
    met = (place.unsqueeze(2) + steps.unsqueeze(1)) % agents
    partners = place.argsort(dim=1).gather(1, met.flatten(1)).view_as(met)
    return _meetings(partners.sort(dim=2).values)
