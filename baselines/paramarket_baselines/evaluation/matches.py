"""Play a policy against many populations in one batch, for its returns alone.

This is many times faster than one episode of :mod:`paramarket_baselines.evaluation.play` for each task, and gives the
same returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from paramarket_env.adapters.opponents import Opponents, Seating
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES
from paramarket_env.seeding import as_seeds

Populations = Mapping[str, Sequence[str]]
"""The policies of each population by its name: one, or the trainings of one policy, which take turns on the seeds."""

MARKETS = 512
"""The largest number of markets in a batch, unless one population needs more."""


def play_matches(
    config: MarketConfig, policy: str, populations: Populations, seeds: Sequence[int], device: str | torch.device
) -> dict[str, np.ndarray]:
    """The returns of a policy in every seat while a population has all others, float64 ``[seats, seeds]`` by name.

    Raises ``ValueError`` if a policy cannot play in this market.
    """
    names = list(populations)
    found: dict[str, np.ndarray] = {}
    together = max(1, MARKETS // (config.agents * len(seeds)))
    for first in range(0, len(names), together):
        chosen = {name: populations[name] for name in names[first : first + together]}
        returns = _play(config, _seating(policy, list(chosen.values()), config.agents, len(seeds)), seeds, device)
        found |= dict(zip(chosen, _of_the_policy(returns, len(chosen)), strict=True))
    return found


def returns_outside(config: MarketConfig, seeds: Sequence[int], device: str | torch.device) -> np.ndarray:
    """The return of every seat out of the market, float64 ``[seats, seeds]``: all train, and the market never opens."""
    seats = torch.zeros(len(seeds), config.agents, dtype=torch.int64, device="cpu")
    closed = config.changed(opens_at=config.max_cycles)
    returns = _play(closed, Seating([POLICIES.parse("train")], seats), seeds, device)
    return np.ascontiguousarray(returns.T)


def _seating(policy: str, populations: Sequence[Sequence[str]], agents: int, num_seeds: int) -> Seating:
    """The policy, of number 0, in every seat against every population on every seed: a market for each."""
    texts, rows = [policy], []
    for given in populations:
        trainings = given[:num_seeds]
        turns = torch.arange(num_seeds, device="cpu") % len(trainings)
        rows.append((turns + len(texts)).repeat(agents, 1))
        texts += trainings
    numbers = torch.stack(rows)[..., None].repeat(1, 1, 1, agents)
    for seat in range(agents):
        numbers[:, seat, :, seat] = 0
    return Seating([POLICIES.parse(text) for text in texts], numbers.flatten(0, 2))


def _play(config: MarketConfig, seating: Seating, seeds: Sequence[int], device: str | torch.device) -> np.ndarray:
    """The return of every agent in one episode of every market, float64 ``[M, N]``; the seeds repeat."""
    num_markets = len(seating.seats)
    batch = MarketBatch(config, num_markets, device)
    batch.reset(as_seeds([*seeds] * (num_markets // len(seeds)), num_markets, batch.device))
    players = Opponents(batch, seating)
    players.reset()
    total = torch.zeros(num_markets, config.agents, dtype=torch.float64, device=batch.device)
    observation, mask = batch.observe_and_mask()
    nobody = _no_actions(batch)
    for _ in range(config.max_cycles):
        transition = batch.step(players.joint_action(nobody, observation, mask))
        observation, mask = transition.observation, transition.mask
        total += transition.record.reward
    return np.asarray(total.cpu())


def _no_actions(batch: MarketBatch) -> Tensor:
    """The actions of no agents."""
    parts = len(batch.actions.nvec)
    return torch.empty((0, parts) if parts > 1 else (0,), dtype=torch.int64, device=batch.device)


def _of_the_policy(returns: np.ndarray, populations: int) -> np.ndarray:
    """The returns of the policy, ``[populations, seats, seeds]``, from those of all agents."""
    agents = returns.shape[1]
    by_task = returns.reshape(populations, agents, -1, agents)
    return np.stack([by_task[:, seat, :, seat] for seat in range(agents)], axis=1)
