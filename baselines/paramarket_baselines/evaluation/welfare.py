"""Economic measures of a market: surplus and its shares, regret, refusals, inequality and advantages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from paramarket_baselines.evaluation.play import Episode
from paramarket_baselines.evaluation.report import Measure
from paramarket_env.config import EconomyConfig
from paramarket_env.interface.infos import REFUSED

WELFARE = {
    "efficiency": Measure("effic. %", 0),
    "sellers_share": Measure("sellers %", 0),
    "revenue": Measure("revenue", 0),
    "omniscient_share": Measure("of omn. %", 0),
    "regret": Measure("regret", 0),
    "gini": Measure("Gini", 2),
    "advantage": Measure("adv.", 2),
    "better_off": Measure("better %", 0),
}
"""Columns of the summary. Each has a number for every arm and seed. A run's results contain more measures."""

WELFARE_LEGEND = (
    "effic.: realised share of the possible surplus, which is the value of each agent's best offer summed over all "
    "steps; sellers: the sellers' share of the realised surplus (the buyers have the rest, less the broker's fee); "
    "revenue: ticks per agent; of omn.: payments as a share of the revenue of sellers that know every value; regret: "
    "ticks per agent lost relative to the best fixed price in hindsight; Gini: Gini coefficient of the final balances; "
    "adv.: advantage, the return minus that of the first line, paired by seed; better: share of the agents with a "
    "positive advantage"
)


def gini(amounts: np.ndarray) -> np.ndarray:
    """The Gini coefficient of amounts >= 0, ``[..., N]`` -> ``[...]``: 0 if all are equal, 1 - 1/N if one has all."""
    count = amounts.shape[-1]
    ranks = 2 * np.arange(1, count + 1) - count - 1
    total = amounts.sum(-1, dtype=float)
    weighted = (np.sort(amounts, axis=-1).astype(float) * ranks).sum(-1)
    return np.where(total > 0, weighted / (count * np.where(total > 0, total, 1)), 0.0)


def hindsight_revenue(values: np.ndarray, economy: EconomyConfig) -> float:
    """The revenue of the best fixed price in hindsight, in ticks.

    Buyers buy whenever the price is at most their value. ``values`` are in units of reward and have any shape; the
    price is one of the economy's ask levels. Budgets and the effects of other purchases are ignored.
    """
    sales = (values.reshape(-1, 1) >= economy.prices.numpy() * (1 - 1e-12)).sum(0)
    return float((np.asarray(economy.ask_levels, dtype=float) * sales).max())


def welfare(episodes: Sequence[Episode], economy: EconomyConfig) -> pd.DataFrame:
    """``WELFARE`` and more for each arm (in order) and seed; advantages are relative to the first arm."""
    outside = returns(episodes[0])
    rows = []
    for episode in episodes:
        rows += [_seed_measures(episode, seed, economy, outside) for seed in episode.steps.seed.unique().tolist()]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def returns(episode: Episode) -> pd.Series:
    """Each agent's return, by seed and agent."""
    total: pd.Series = episode.steps.groupby(["seed", "agent"]).reward.sum()
    return total


def _seed_measures(episode: Episode, seed: int, economy: EconomyConfig, outside: pd.Series) -> dict[str, object]:
    steps = episode.steps[episode.steps.seed == seed]
    trades = episode.trades[episode.trades.seed == seed]
    last = steps[steps.cycle == steps.cycle.max()]
    agents = len(last)
    possible, realised = float(steps.best_value.sum()), float(trades.value.sum())
    paid, received = float(steps.paid.sum()), float(steps.received.sum())
    best_fixed = hindsight_revenue(steps.best_value.to_numpy(), economy)
    advantage = returns(episode)[seed] - outside[seed]
    return {
        "arm": steps.arm.iloc[0],
        "seed": seed,
        "efficiency": _percent(realised, possible),
        "buyers_share": _percent(realised - economy.in_reward(paid), realised),
        "sellers_share": _percent(economy.in_reward(received), realised),
        "revenue": received / agents,
        "omniscient_share": _percent(economy.in_reward(paid), possible),
        "regret": (best_fixed - paid) / agents,
        "refused": last.refused.mean(),
        **{name: last[name].mean() for name in REFUSED},
        "gini": float(gini(last.balance.to_numpy())),
        "advantage": float(advantage.mean()),
        "better_off": 100 * float((advantage > 0).mean()),
    }


def _percent(part: float, whole: float) -> float:
    """``part`` in percent of ``whole``; NaN if that is not positive."""
    return 100 * part / whole if whole > 0 else float("nan")
