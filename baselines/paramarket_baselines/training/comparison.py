"""Compare policies in equal episodes, so that no opponent outweighs the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from paramarket_baselines.training.callbacks import EVALUATION_SEEDS, returns_against
from paramarket_baselines.training.grouped import centred
from paramarket_env.config import MarketConfig


def compared(
    config: MarketConfig, policies: Sequence[str], populations: Sequence[str], episodes: int, device: str | torch.device
) -> np.ndarray:
    """The mean scores of policies against the populations, or each against itself if there is none, float64 ``[n]``.

    All play the same episodes, about ``episodes`` of them over all seats and against each population. A score is the
    return in an episode, scaled like an advantage in a group of equal episodes (:func:`~.grouped.centred`).
    """
    first = EVALUATION_SEEDS.stop + 2**20  # other seeds than those of the evaluations
    seeds = range(first, first + max(episodes // config.agents, 1))
    returns = [returns_against(config, policy, populations, seeds, device) for policy in policies]
    scores = centred(np.stack(returns, axis=1).reshape(1, -1), members=len(policies), agents=1)
    means: np.ndarray = scores.reshape(-1, len(policies)).mean(axis=0)
    return means
