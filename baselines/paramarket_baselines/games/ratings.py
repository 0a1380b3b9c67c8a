"""Deviation ratings of the strategies of a game: clone-proof, unique, for any number of players.

A coarse correlated equilibrium (CCE) is a distribution over profiles from which no player gains by always playing one
strategy instead of following it. The *deviation gain* of a strategy is what a player gains on average by switching to
it. The strictest CCE minimises the largest deviation gain, then the largest of the others, and so on. A strategy's
*rating* is its deviation gain there (Marris, Liu, Gemp, Piliouras and Lanctot, *Deviation ratings: a general,
clone-invariant rating method*, ICLR 2025, arXiv 2502.11645). Ratings are at most 0, and higher is better: a strategy
that is rated 0 is as good as the equilibrium, one that is rated below 0 loses that much when a player switches to it.

A copy of a strategy has the same deviation gain, and profiles with the copy add no new gains. So copies move no
rating, and neither does a constant that is added to all payoffs.

The ratings of a symmetric game are the same for all players, and averaging a CCE over the players keeps all gains. So
the distribution may be one over counts of strategies, which is a small linear program.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from paramarket_baselines.games.payoffs import Payoffs

ACTIVE = 1e-6
"""The dual value from which on a constraint is active in every optimum. The dual values of a program sum to 1."""


def deviation_ratings(payoffs: Payoffs) -> dict[str, float]:
    """The deviation rating of each strategy, in units of payoff, to about a millionth of the range of the payoffs.

    Each linear program (HiGHS) minimises the largest gain that is not yet fixed. It fixes the gains whose dual value is
    above 0, since they are at that largest value in all optima.
    """
    gains = payoffs.deviations() / payoffs.scale
    ratings = np.full(len(gains), np.nan)
    while np.isnan(ratings).any():
        largest, active = _strictest(gains, ratings)
        ratings[active] = largest
    return dict(zip(payoffs.strategies, (ratings * payoffs.scale).tolist(), strict=True))


def _strictest(gains: np.ndarray, ratings: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest possible largest gain of the strategies without a rating, and which of them must have it."""
    free = np.isnan(ratings)
    count = gains.shape[1]
    found = linprog(
        np.append(np.zeros(count), 1),
        A_ub=np.column_stack([gains, -free.astype(float)]),
        b_ub=np.where(free, 0, ratings),
        A_eq=np.append(np.ones(count), 0)[None],
        b_eq=[1],
        bounds=[*[(0, None)] * count, (None, None)],
    )
    if not found.success:
        raise RuntimeError(f"the linear program of the deviation ratings failed: {found.message}")
    return float(found.fun), free & (-found.ineqlin.marginals > ACTIVE)
