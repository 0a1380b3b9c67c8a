"""Small games whose solutions are known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import comb
from string import ascii_uppercase

import numpy as np

from paramarket_baselines.games.payoffs import Payoffs, Profile, tabulate

ROCK_PAPER_SCISSORS = [[0, -1, 1], [1, 0, -1], [-1, 1, 0]]
PRISONERS_DILEMMA = [[3, 0], [5, 1]]
COORDINATION = [[1, 0], [0, 1]]
CHICKEN = [[0, 7], [2, 6]]
MATCHING_PENNIES = np.array([[1, -1], [-1, 1]])
ROLES = [(row, column) for row in range(2) for column in range(2)]
SYMMETRIC_PENNIES = [
    [MATCHING_PENNIES[row, theirs[1]] - MATCHING_PENNIES[theirs[0], column] for theirs in ROLES]
    for row, column in ROLES
]
"""Matching pennies in which everybody plays both roles: a strategy is a choice in each."""


def game(table: object, players: int = 2) -> Payoffs:
    """A game of the strategies A, B, C and so on."""
    values = np.array(table, dtype=float)
    return Payoffs(tuple(ascii_uppercase[: len(values)]), players, values)


def drawn_game(seed: int, strategies: int, players: int = 2) -> Payoffs:
    """A game of normally distributed payoffs."""
    size = (strategies, comb(strategies + players - 2, players - 1))
    return game(np.random.default_rng(seed).normal(size=size), players)


def payoffs_in(payoffs: Payoffs, profile: Profile) -> dict[str, float]:
    """The payoff of each strategy of a profile; ``A2`` and ``A3`` are copies of ``A``."""
    columns = {tuple(counts): column for column, counts in enumerate(payoffs.opponents.tolist())}

    def payoff(own: str) -> float:
        others = [name[0] for name in profile]
        others.remove(own[0])
        counts = tuple(others.count(name) for name in payoffs.strategies)
        return float(payoffs.table[payoffs.strategies.index(own[0]), columns[counts]])

    return {name: payoff(name) for name in profile}


def renamed(payoffs: Payoffs, strategies: Sequence[str]) -> Payoffs:
    """The same game with its strategies in another order, or with copies of them."""
    return tabulate(strategies, payoffs.players, payoffs.players, partial(payoffs_in, payoffs))
