"""Rollouts in groups: the same episode several times, so that only the actions differ.

The return of an episode depends much more on its market and on the opponent than on one's own actions. In a group all
markets have the same seed, hence the same data, networks, opponents and random numbers. What the members of a group
have in common is no merit of any of them, so it is subtracted from their advantages: common random numbers as a
baseline (Kool, van Hoof and Welling, *Buy 4 REINFORCE samples, get a baseline for free!*, 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor


def grouped_seeds(seed: int, num_markets: int, size: int) -> list[int]:
    """The seeds of markets in groups of ``size``. ``num_markets`` must be a multiple of it."""
    drawn = np.random.default_rng(seed).integers(2**40, 2**62, num_markets // size)
    return [int(each) for each in np.repeat(drawn, size)]


def centred(advantages: np.ndarray, members: int, agents: int) -> np.ndarray:
    """Advantages ``[steps, rows]`` without the mean of their group, scaled by its spread.

    Row r is the learner of market r, which has seat r mod ``agents``; a group is the ``members`` rows with the same
    seat among ``members * agents`` neighbours. The scale is the sum of a group's standard deviation and the median one,
    so that an opponent with whom much money is made does not outweigh the others.
    """
    steps, rows = advantages.shape
    groups = advantages.reshape(steps, rows // (members * agents), members, agents)
    differences = groups - groups.mean(axis=2, keepdims=True)
    spread = differences.std(axis=(0, 2), keepdims=True)
    scaled: np.ndarray = differences / (spread + np.median(spread) + 1e-8)
    return scaled.reshape(steps, rows)


def above_the_mean(returns: np.ndarray, members: int, agents: int) -> np.ndarray:
    """Whether the returns ``[rows]`` are at least the means of their groups, bool ``[rows]``; see :func:`centred`."""
    groups = returns.reshape(-1, members, agents)
    found: np.ndarray = (groups >= groups.mean(axis=1, keepdims=True)).reshape(-1)
    return found


class GroupedRolloutBuffer(RolloutBuffer):
    """A rollout buffer whose advantages are compared within groups; see :func:`centred`."""

    def __init__(self, *args: Any, members: int, agents: int, **kwargs: Any) -> None:
        self.members, self.agents = members, agents
        super().__init__(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """See ``RolloutBuffer``. The returns, which the critic learns, stay as they are."""
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = centred(self.advantages, self.members, self.agents)
