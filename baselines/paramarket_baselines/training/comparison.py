"""Compare policies in equal episodes, so that no rich opponent outweighs the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from paramarket_baselines.training.callbacks import EVALUATION_SEEDS, returns_against
from paramarket_env.config import MarketConfig


def compared(
    config: MarketConfig, policies: Sequence[str], population: str, episodes: int, device: str | torch.device
) -> np.ndarray:
    """The mean scores of policies against a population, float64 ``[n]``.

    All play the same episodes, about ``episodes`` of them over all seats. A score is in units of the return: what a
    policy gets more than all do on average in the episode. Where these differences are large, they count less, in
    inverse proportion to the sum of their spread and the median one.
    """
    first = EVALUATION_SEEDS.stop + 2**20  # other seeds than those of the evaluations
    seeds = range(first, first + max(episodes // config.agents, 1))
    returns = np.stack([returns_against(config, policy, [population], seeds, device) for policy in policies])
    differences = returns - returns.mean(axis=0)
    spread = differences.std(axis=0)
    usual = np.median(spread[spread > 0]) if spread.any() else 1.0
    means: np.ndarray = (differences * 2 * usual / (spread + usual)).mean(axis=1)
    return means
