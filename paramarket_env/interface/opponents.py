"""One seat learns; given policies play the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paramarket_env.config import require
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import Policy, PolicyFactory, seat_of
from paramarket_env.seeding import stream

OpponentFactories = PolicyFactory | Sequence[PolicyFactory]
"""One policy for every other seat, or one for each of them in their order."""


class Opponents:
    """The policies in all seats of a batch but one, in every market."""

    def __init__(self, batch: MarketBatch, opponents: OpponentFactories, seat: int) -> None:
        agents = batch.config.agents
        require(seat in range(agents), "seat", seat, f"an integer from 0 to {agents - 1}")
        several = list(opponents) if isinstance(opponents, Sequence) else []
        given = [opponents] * (agents - 1) if callable(opponents) else several
        fits = len(given) == agents - 1 and all(callable(factory) for factory in given)
        require(fits, "opponents", opponents, f"a policy factory, or one for each of the {agents - 1} other seats")
        self._batch, self.seat = batch, seat
        others = [agent for agent in range(agents) if agent != seat]
        self._factories = dict(zip(others, given, strict=True))
        self._keys: dict[int, Tensor] = {}
        self._policies: dict[int, Policy] = {}

    def sit_down(self) -> None:
        """New policies in all seats, for the episodes that have just begun."""
        seeds = self._batch.engine.state.seeds
        self._keys = {agent: stream(seeds, "policy", agent) for agent in self._factories}
        self._policies = {
            agent: factory(seat_of(self._batch, self._keys[agent])) for agent, factory in self._factories.items()
        }

    def renew(self) -> None:
        """Write the streams of the episodes that have just begun into the seats; in the other markets they stay."""
        seeds = self._batch.engine.state.seeds
        for agent, keys in self._keys.items():
            keys.copy_(stream(seeds, "policy", agent))

    def join(self, chosen: Tensor, observation: Tensor, mask: Tensor) -> Tensor:
        """The actions of all agents, int64 ``[M, N]`` or ``[M, N, parts]``, of those of the learner, without N.

        ``observation`` is float32 ``[M, N, D]``, ``mask`` bool ``[M, N, A]``.
        """
        columns = {agent: policy.act(observation[:, agent], mask[:, agent]) for agent, policy in self._policies.items()}
        columns[self.seat] = chosen.to(observation.device)
        return torch.stack([columns[agent] for agent in range(len(columns))], dim=1)
