"""Symmetric Nash equilibria: mixtures to which every player may keep if all others do.

A finite symmetric game has at least one (Nash, *Non-cooperative games*, 1951). In an equilibrium, all strategies of
its support, those with a positive probability, have the same payoff, and no other strategy has a higher one. So each
support is a system of equations.

For two players the system is linear. If every support is tried and no system has several solutions, the list is
complete. For more players the equations are polynomials; Newton's method starts from the centre of each support and
from random mixtures of it, and may miss equilibria. Every equilibrium that is returned has been verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy.optimize import linprog

from paramarket_baselines.evaluation.estimates import Estimate, student_mean
from paramarket_baselines.games.payoffs import Payoffs

TOLERANCE = 1e-9
"""The largest error of a probability, and of a payoff in units of the payoffs' range."""
DISTINCT = 1e-6
"""The least difference of a probability between two equilibria."""
MAX_STEPS = 2**16
"""The number of Newton steps that may be spent on supports, smaller ones first."""
STARTS, STEPS = 4, 16
"""The number of starts in each support, and of Newton's steps from each, for more than two players."""
BATCH = 1024
"""The number of supports that are solved together."""
DYNAMICS_STARTS, DYNAMICS_STEPS = 32, 2000
"""The number of starts of the replicator dynamics, and of its steps."""


@dataclass(frozen=True)
class Equilibrium:
    """A symmetric equilibrium."""

    mixture: dict[str, float]
    """The probability of each strategy."""
    value: float
    """The expected payoff of a player."""
    incentives: dict[str, float]
    """The incentive to deviate to each strategy: at most 0, except for rounding errors, and 0 in the support."""


@dataclass(frozen=True)
class Equilibria:
    """The symmetric equilibria that were found."""

    found: tuple[Equilibrium, ...]
    complete: bool
    """Whether there are certainly no others, apart from copies. It is False for more than two players."""


def symmetric_equilibria(payoffs: Payoffs) -> Equilibria:
    """All symmetric equilibria that can be found, those of few strategies first.

    Of several copies of a strategy, only the first is in the mixtures; the others could take its place. Strictly
    dominated strategies are left out, since no equilibrium contains them. Then each support is tried, as many as
    ``MAX_STEPS`` allows: for two players, all supports of up to 16 strategies. If some supports are not tried, or if
    there are more than two players, the end points of the replicator dynamics from many random mixtures are tried, too.
    """
    distinct = payoffs.distinct()
    kept = [distinct[place] for place in undominated(payoffs.restricted(distinct))]
    game = _normalised(payoffs.restricted(kept))
    sizes = _sizes(len(kept), game.players)
    certain = game.players == 2 and len(sizes) == len(kept)
    mixtures: list[np.ndarray] = []
    for supports in (*_enumerated(len(kept), sizes), *([] if certain else _supports_of_dynamics(game))):
        solutions, unique = _solutions(game, supports)
        certain &= unique
        for mixture in solutions[_are_equilibria(game, solutions)]:
            if not _is_known(mixture, mixtures):
                mixtures.append(mixture)
    return Equilibria(tuple(_equilibrium(payoffs, kept, mixture) for mixture in mixtures), certain)


def _normalised(payoffs: Payoffs) -> Payoffs:
    """The same game with payoffs from 0 to 1. It has the same equilibria."""
    return Payoffs(payoffs.strategies, payoffs.players, (payoffs.table - payoffs.table.min()) / payoffs.scale)


def incentives_to_deviate(payoffs: Payoffs, mixture: np.ndarray) -> np.ndarray:
    """The incentive to deviate from a mixture to each strategy, ``[..., strategies]``.

    It is the strategy's payoff minus that of the mixture, if all opponents play the mixture.
    """
    alone = payoffs.against(mixture)
    return np.asarray(alone - (mixture * alone).sum(-1, keepdims=True))


def estimated_incentives(by_seed: Sequence[Payoffs], mixture: Mapping[str, float]) -> dict[str, Estimate]:
    """The incentives to deviate from a mixture, with 95 % intervals over seeds, from the payoffs of each seed.

    A mixture that is an equilibrium of the mean payoffs was chosen by the same seeds, which the intervals ignore.
    """
    strategies = by_seed[0].strategies
    chances = np.array([mixture[strategy] for strategy in strategies])
    incentives = np.array([incentives_to_deviate(payoffs, chances) for payoffs in by_seed])
    return {strategy: student_mean(column.tolist()) for strategy, column in zip(strategies, incentives.T, strict=True)}


def undominated(payoffs: Payoffs) -> list[int]:
    """The indices of the strategies that iterated elimination leaves.

    It removes strategies to which some mixture of the others is preferred against all opponents that are left.
    """
    kept = list(range(len(payoffs.strategies)))
    while dominated := _dominated(payoffs.restricted(kept).table / payoffs.scale):
        kept = [strategy for place, strategy in enumerate(kept) if place not in dominated]
    return kept


def _dominated(table: np.ndarray) -> set[int]:
    """The rows of a table that are strictly below some mixture of its rows."""
    return {row for row in range(len(table)) if _margin(table, row) > TOLERANCE}


def _margin(table: np.ndarray, row: int) -> float:
    """The most by which a mixture of a table's rows is above a row in all columns."""
    above = np.column_stack([-(table - table[row]).T, np.ones(table.shape[1])])
    found = linprog(
        np.append(np.zeros(len(table)), -1),
        A_ub=above,
        b_ub=np.zeros(len(above)),
        A_eq=np.append(np.ones(len(table)), 0)[None],
        b_eq=[1],
    )
    return -float(found.fun)


def _sizes(strategies: int, players: int) -> list[int]:
    """The sizes of supports that are tried: as many as there are steps for, from 1 on."""
    left = MAX_STEPS // (1 if players == 2 else STARTS * STEPS)
    sizes = []
    for size in range(1, strategies + 1):
        left -= comb(strategies, size)
        if left < 0:
            break
        sizes.append(size)
    return sizes


def _enumerated(strategies: int, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """All supports of these sizes in batches of one size, ``[supports, size]``."""
    for size in sizes:
        every = np.array(list(combinations(range(strategies), size)))
        yield from np.array_split(every, -(-len(every) // BATCH))


def _supports_of_dynamics(game: Payoffs) -> list[np.ndarray]:
    """The supports of the mixtures that the replicator dynamics, in discrete time, reaches from random ones."""
    mixtures = np.random.default_rng(0).dirichlet(np.ones(len(game.strategies)), DYNAMICS_STARTS)
    for _ in range(DYNAMICS_STEPS):
        alone = game.against(mixtures)
        mixtures = mixtures * np.exp(alone - alone.max(-1, keepdims=True))
        mixtures /= mixtures.sum(-1, keepdims=True)
    found = {tuple(np.flatnonzero(mixture > 1e-3).tolist()) for mixture in mixtures}
    return [np.array([support]) for support in sorted(found)]


def _solutions(game: Payoffs, supports: np.ndarray) -> tuple[np.ndarray, bool]:
    """Mixtures of supports ``[supports, size]`` whose strategies have equal payoffs, ``[mixtures, strategies]``.

    The second result says whether each of them is the only one close to it.
    """
    size, linear = supports.shape[1], game.players == 2
    starts = np.random.default_rng(0).dirichlet(np.ones(size), 0 if linear else STARTS - 1)
    starts = np.concatenate([np.full((1, size), 1 / size), starts])
    inside, first = np.repeat(supports, len(starts), 0), np.tile(starts, (len(supports), 1))
    mixtures, unique = _newton(game, inside, first, 1 if linear else STEPS)
    payoffs = np.take_along_axis(game.against(mixtures), inside, 1)
    equal = (np.ptp(payoffs, axis=1) <= TOLERANCE) & (abs(mixtures.sum(1) - 1) <= TOLERANCE)
    return mixtures[equal], bool(unique[equal].all())


def _newton(game: Payoffs, inside: np.ndarray, starts: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixtures after steps of Newton's method, and whether the equations had full rank there.

    The unknowns are the probabilities in a support and the common payoff; the equations are that payoffs are equal and
    probabilities sum to 1.
    """
    count, size = inside.shape
    rows = np.arange(count)[:, None]
    mixtures = np.zeros((count, len(game.strategies)))
    mixtures[rows, inside] = starts
    slopes = np.zeros((count, size + 1, size + 1))
    slopes[:, :size, size], slopes[:, size, :size] = -1, 1
    full = np.ones(count, dtype=bool)
    for _ in range(steps):
        pairs = game.against_each(mixtures)[rows[:, :, None], inside[:, :, None], inside[:, None]]
        slopes[:, :size, :size] = (game.players - 1) * pairs
        # The linearised payoffs at the new mixture are those now plus the slopes times the step.
        right = (game.players - 2) * (pairs @ mixtures[rows, inside][..., None])[..., 0]
        solution, full = _least_squares(slopes, np.column_stack([right, np.ones(count)]))
        mixtures[rows, inside] = solution[:, :size].clip(-1, 2)  # the simplex is inside; further out, Newton diverges
    return mixtures, full


def _least_squares(matrices: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shortest least-squares solutions of systems of equations, and whether each matrix has full rank."""
    left, values, rows = np.linalg.svd(matrices)
    kept = values > TOLERANCE * values[:, :1]
    scaled = np.divide((left.swapaxes(1, 2) @ right[..., None])[..., 0], values, out=np.zeros_like(values), where=kept)
    return (rows.swapaxes(1, 2) @ scaled[..., None])[..., 0], np.asarray(kept.all(1))


def _are_equilibria(game: Payoffs, mixtures: np.ndarray) -> np.ndarray:
    incentives = incentives_to_deviate(game, mixtures)
    return np.asarray((mixtures.min(1) >= -TOLERANCE) & (incentives.max(1) <= TOLERANCE))


def _is_known(mixture: np.ndarray, known: Sequence[np.ndarray]) -> bool:
    return any(abs(mixture - other).max() < DISTINCT for other in known)


def _equilibrium(payoffs: Payoffs, kept: Sequence[int], mixture: np.ndarray) -> Equilibrium:
    whole = np.zeros(len(payoffs.strategies))
    whole[list(kept)] = np.maximum(mixture, 0) / np.maximum(mixture, 0).sum()
    value, incentives = whole @ payoffs.against(whole), incentives_to_deviate(payoffs, whole)
    by_name = [dict(zip(payoffs.strategies, numbers.tolist(), strict=True)) for numbers in (whole, incentives)]
    return Equilibrium(by_name[0], float(value), by_name[1])
