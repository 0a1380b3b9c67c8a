"""Deviation ratings of the strategies of a game: clone-proof, unique, for any number of players.

A coarse correlated equilibrium (CCE) is a distribution over profiles from which no player has an incentive to deviate
to any one strategy, whatever it was told to play. The incentive, in the paper the *deviation gain*, is the strategy's
mean payoff minus that of following the distribution. The strictest CCE minimises the largest incentive, then the
largest of the others, and so on. A strategy's *rating* is the incentive to deviate to it there (Marris, Liu, Gemp,
Piliouras and Lanctot, *Deviation ratings: a general, clone-invariant rating method*, ICLR 2025, arXiv 2502.11645).
Ratings are at most 0, and higher is better.

The incentives to deviate to a strategy and to its copy are the same, and no new ones arise in profiles with the copy.
So copies move no rating, and neither does a payoff that a player's opponents give it whatever it plays.

The ratings of a symmetric game are the same for all players, and averaging a CCE over the players keeps all ratings.
So the distribution may be one over counts of strategies, which is a small linear program.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from paramarket_baselines.games.payoffs import Payoffs

ACTIVE = 1e-6
"""The dual value, relative to the largest, from which on a constraint is taken to be active in every optimum."""


def deviation_ratings(payoffs: Payoffs) -> dict[str, float]:
    """The deviation rating of each strategy, in units of payoff, to about a millionth of the range of the payoffs.

    Each linear program (HiGHS) minimises the largest incentive of the strategies without a rating. Those whose dual
    value is above 0 have that incentive in all optima, so it is their rating.
    """
    incentives = payoffs.incentives() / payoffs.scale
    ratings = np.full(len(incentives), np.nan)
    while np.isnan(ratings).any():
        largest, active = _strictest(incentives, ratings)
        ratings[active] = largest
    return dict(zip(payoffs.strategies, (ratings * payoffs.scale).tolist(), strict=True))


def _strictest(incentives: np.ndarray, ratings: np.ndarray) -> tuple[float, np.ndarray]:
    """The least possible largest incentive of the strategies without a rating, and which of them must have it."""
    free = np.isnan(ratings)
    count = incentives.shape[1]
    found = linprog(
        np.append(np.zeros(count), 1),
        A_ub=np.column_stack([incentives, -free.astype(float)]),
        b_ub=np.where(free, 0, ratings),
        A_eq=np.append(np.ones(count), 0)[None],
        b_eq=[1],
        bounds=[*[(0, None)] * count, (None, None)],
    )
    if not found.success:
        raise RuntimeError(f"the linear program of the deviation ratings failed: {found.message}")
    duals = np.where(free, -found.ineqlin.marginals, 0)
    return float(found.fun), free & (duals >= ACTIVE * duals.max())
