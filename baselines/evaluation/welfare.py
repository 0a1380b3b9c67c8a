"""Measures of a market in economists' terms: surplus and its shares, regret, refusals, inequality, advantages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from baselines.evaluation.play import Episode
from baselines.evaluation.report import Measure
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
"""Columns of the summary: each is a number for every arm and seed. More are kept with a run."""

WELFARE_LEGEND = (
    "effic.: realised share of the surplus that was possible, which is what the best offers of all steps were worth to "
    "their buyers; sellers: the sellers' share of the realised surplus (the buyers have the rest, less the broker's "
    "fee); revenue: ticks per agent; of omn.: payments as a share of what sellers who know every value would have got; "
    "regret: ticks per agent lost relative to the best fixed price in hindsight; Gini: of the final balances; "
    "adv.: advantage, the return above that of the first line, paired by seed; better: share of the agents with a "
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
    """Ticks that the best fixed price would have earned from buyers who each time buy at a price up to their value.

    ``values`` in units of reward, any shape; the price is one of the economy's ask levels. Budgets, and what other
    purchases would have changed, are left out.
    """
    sales = (values.reshape(-1, 1) >= economy.prices.numpy() * (1 - 1e-12)).sum(0)
    return float((np.asarray(economy.ask_levels, dtype=float) * sales).max())


def welfare(episodes: Sequence[Episode], economy: EconomyConfig) -> pd.DataFrame:
    """``WELFARE`` and more for each arm (in order) and seed; advantages are returns above the first arm's."""
    outside = returns(episodes[0])
    rows = []
    for episode in episodes:
        rows += [_of_seed(episode, seed, economy, outside) for seed in episode.steps.seed.unique().tolist()]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def returns(episode: Episode) -> pd.Series:
    """Each agent's return, by seed and agent."""
    total: pd.Series = episode.steps.groupby(["seed", "agent"]).reward.sum()
    return total


def _of_seed(episode: Episode, seed: int, economy: EconomyConfig, outside: pd.Series) -> dict[str, object]:
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
    """A share in percent; NaN of nothing."""
    return 100 * part / whole if whole > 0 else float("nan")
