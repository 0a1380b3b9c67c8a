"""Rewards that Huber's loss can average."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize


class SmallRewards(VecNormalize):
    """Scales rewards so far down that DQN learns the mean return of an action.

    DQN minimises Huber's loss, which is quadratic for errors below 1 and linear above. A quadratic loss is least at the
    mean of what follows an action, a linear one at the median. With the scale of ``VecNormalize``, many errors are
    above 1: a price that sells once in three times then seems to earn a third of its mean, and less than a low price
    that nearly always sells.
    """

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """The rewards in units of ten standard deviations of the return."""
        scaled: np.ndarray = super().normalize_reward(reward) / 10
        return scaled
