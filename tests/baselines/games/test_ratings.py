"""Deviation ratings: known games, copies, and a plain program over all profiles of named players."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from paramarket_baselines.games.payoffs import Payoffs
from paramarket_baselines.games.ratings import deviation_ratings
from tests.baselines.games.games import (
    COORDINATION,
    PRISONERS_DILEMMA,
    ROCK_PAPER_SCISSORS,
    SYMMETRIC_PENNIES,
    drawn_game,
    game,
    payoffs_in,
    renamed,
)

ABOUT = {"abs": 1e-5}
GAMES = st.builds(drawn_game, st.integers(0, 1000), st.integers(2, 5), st.integers(2, 3))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (ROCK_PAPER_SCISSORS, [0, 0, 0]),
        (SYMMETRIC_PENNIES, [0, 0, 0, 0]),
        (PRISONERS_DILEMMA, [0 - 1, 0]),
        ([[9, 8, 7], [5, 4, 3], [6, 2, 0]], [0, 5 - 9, 6 - 9]),  # A dominates: the others lose what they get against A
        (COORDINATION, [0.5 - 1, 0.5 - 1]),  # both players toss one coin together
    ],
)
def test_known_games(table: object, expected: list[float]) -> None:
    assert list(deviation_ratings(game(table)).values()) == pytest.approx(expected, **ABOUT)


@settings(max_examples=15, deadline=None)
@given(GAMES)
def test_three_copies_of_a_strategy_move_no_rating(payoffs: Payoffs) -> None:
    ratings = deviation_ratings(payoffs)
    for name in payoffs.strategies:
        copied = deviation_ratings(renamed(payoffs, (*payoffs.strategies, *(f"{name}{copy}" for copy in (2, 3, 4)))))
        assert copied == pytest.approx({copy: ratings[copy[0]] for copy in copied}, **ABOUT)


def test_a_mean_over_opponents_is_moved_by_copies() -> None:
    payoffs = game(ROCK_PAPER_SCISSORS)
    crowded = renamed(payoffs, ("A", "A2", "A3", "A4", "B", "C"))
    assert payoffs.table.mean(1).tolist() == [0, 0, 0]
    assert crowded.table.mean(1)[4] == pytest.approx(0.5)  # many rocks are good for paper


def plain_ratings(payoffs: Payoffs) -> list[float]:
    """Ratings over the joint distributions of named players.

    An incentive is fixed if it cannot be below the largest while no other is above it.
    """
    names, players = payoffs.strategies, range(payoffs.players)
    joint = list(product(names, repeat=payoffs.players))

    def incentive(player: int, name: str, profile: tuple[str, ...]) -> float:
        changed = (*profile[:player], name, *profile[player + 1 :])
        return payoffs_in(payoffs, changed)[name] - payoffs_in(payoffs, profile)[profile[player]]

    incentives = np.array([[incentive(player, name, one) for one in joint] for player in players for name in names])
    simplex = {"A_eq": np.ones((1, len(joint))), "b_eq": [1]}
    bounds: dict[int, float] = {}
    while free := [row for row in range(len(incentives)) if row not in bounds]:
        column = np.array([-float(row in free) for row in range(len(incentives))])
        at_most = np.array([bounds.get(row, 0.0) + 1e-9 for row in range(len(incentives))])
        largest = linprog(
            [0] * len(joint) + [1],
            np.column_stack([incentives, column]),
            at_most,
            np.append(np.ones(len(joint)), 0)[None],
            [1],
            [(0, None)] * len(joint) + [(None, None)],
        ).fun
        at_most[free] = largest + 1e-9
        lowest = {row: linprog(incentives[row], incentives, at_most, **simplex).fun for row in free}
        bounds |= {row: largest for row in free if lowest[row] > largest - 1e-6}
    return [bounds[row] for row in range(len(incentives))]


@pytest.mark.parametrize(("seed", "strategies", "players"), [(0, 2, 2), (1, 3, 2), (2, 4, 2), (3, 2, 3), (4, 3, 3)])
def test_ratings_are_those_of_the_paper_s_program_and_equal_for_all_players(
    seed: int, strategies: int, players: int
) -> None:
    payoffs = drawn_game(seed, strategies, players)
    expected = np.array(plain_ratings(payoffs)).reshape(players, strategies)
    assert expected == pytest.approx(np.tile(list(deviation_ratings(payoffs).values()), (players, 1)), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(GAMES, st.floats(-100, 100), st.floats(0.01, 100))
def test_ratings_are_at_most_0_ignore_a_constant_and_scale_and_do_not_depend_on_order(
    payoffs: Payoffs, shift: float, scale: float
) -> None:
    ratings = deviation_ratings(payoffs)
    assert max(ratings.values()) <= 1e-6
    moved = deviation_ratings(Payoffs(payoffs.strategies, payoffs.players, scale * payoffs.table + shift))
    assert {name: rating / scale for name, rating in moved.items()} == pytest.approx(ratings, **ABOUT)
    assert deviation_ratings(renamed(payoffs, payoffs.strategies[::-1])) == pytest.approx(ratings, **ABOUT)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_what_an_opponent_gives_to_everybody_moves_no_rating(seed: int) -> None:
    payoffs = drawn_game(seed, 4)
    generous = payoffs.table + np.random.default_rng(seed + 1).normal(size=4)
    assert deviation_ratings(game(generous)) == pytest.approx(deviation_ratings(payoffs), **ABOUT)
