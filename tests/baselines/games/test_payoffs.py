"""Payoffs by counts of strategies: they agree with a plain sum over all opponents."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramarket_baselines.games.payoffs import Payoffs, Profile, profiles, tabulate
from tests.baselines.games.games import drawn_game, game, payoffs_in, renamed

SHAPES = st.tuples(st.integers(0, 1000), st.integers(2, 4), st.integers(2, 4))


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_expected_payoffs_are_those_of_all_opponents_draws(shape: tuple[int, int, int]) -> None:
    payoffs = drawn_game(*shape)
    mixture = np.random.default_rng(shape[0]).dirichlet(np.ones(len(payoffs.strategies)))
    expected = np.zeros(len(mixture))
    for own, others in product(range(len(mixture)), product(range(len(mixture)), repeat=payoffs.players - 1)):
        profile = tuple(payoffs.strategies[index] for index in (own, *others))
        expected[own] += mixture[list(others)].prod() * payoffs_in(payoffs, profile)[profile[0]]
    assert payoffs.against(mixture) == pytest.approx(expected)
    assert payoffs.against(np.stack([mixture, mixture]))[1] == pytest.approx(expected)


def test_a_game_of_two_players_is_its_matrix() -> None:
    payoffs = game([[1, 2], [3, 4]])
    assert payoffs.against(np.array([0.25, 0.75])).tolist() == [1.75, 3.75]
    assert payoffs.against_each(np.array([0.25, 0.75])).tolist() == payoffs.table.tolist()


def test_an_incentive_is_a_mean_over_the_players_of_a_profile() -> None:
    payoffs = game([[3, 0], [5, 1]])
    assert payoffs.profiles.tolist() == [[2, 0], [1, 1], [0, 2]]
    assert payoffs.incentives().tolist() == [[0, (0 + 3 - 5) / 2, 0 - 1], [5 - 3, (1 - 0) / 2, 0]]


@settings(max_examples=10, deadline=None)
@given(SHAPES)
def test_a_table_is_made_of_its_profiles(shape: tuple[int, int, int]) -> None:
    payoffs = drawn_game(*shape)
    assert (renamed(payoffs, payoffs.strategies).table == payoffs.table).all()
    backwards = renamed(payoffs, payoffs.strategies[::-1])
    mixture = np.random.default_rng(0).dirichlet(np.ones(len(payoffs.strategies)))
    assert backwards.against(mixture[::-1]) == pytest.approx(payoffs.against(mixture)[::-1])


def test_every_profile_is_asked_for_once() -> None:
    asked: list[Profile] = []

    def payoff(profile: Profile) -> dict[str, float]:
        asked.append(profile)
        return dict.fromkeys(profile, float(len(set(profile))))

    payoffs = tabulate(("b", "a"), 3, 3, payoff)
    assert asked == profiles(("b", "a"), 3, 3)
    assert sorted(asked) == [("a", "a", "a"), ("a", "a", "b"), ("a", "b", "b"), ("b", "b", "b")]
    assert payoffs.table.tolist() == [[1, 2, 2], [2, 2, 1]]  # against bb, ba, aa


def test_in_the_reduction_every_opponent_stands_for_equally_many_agents() -> None:
    assert profiles(("a", "b"), 2, 5) == [("a",) * 5, ("a", "b", "b", "b", "b"), ("a", "a", "a", "a", "b"), ("b",) * 5]
    assert ("a", "a", "b", "b", "c") in profiles(("a", "b", "c"), 3, 5)
    payoffs = tabulate(("a", "b"), 2, 5, lambda profile: {name: float(profile.count(name)) for name in profile})
    assert payoffs.table.tolist() == [[5, 1], [1, 5]]
    with pytest.raises(ValueError, match="3 others share equally"):
        profiles(("a", "b"), 3, 4)


def test_a_restricted_game_has_the_payoffs_of_the_strategies_that_are_left() -> None:
    payoffs = drawn_game(0, 4, 3)
    part = payoffs.restricted([1, 3])
    assert part.strategies == ("B", "D")
    assert (renamed(payoffs, ("B", "D")).table == part.table).all()


@pytest.mark.parametrize("players", [2, 3])
def test_a_copy_makes_no_difference_as_a_strategy_or_as_an_opponent(players: int) -> None:
    payoffs = drawn_game(0, 2, players)
    assert renamed(payoffs, ("A", "B", "A2", "B2")).distinct() == [0, 1]
    assert game([[1, 2], [1, 2]]).distinct() == [0, 1]  # equal payoffs, but not as opponents
    assert game([[1, 1], [1, 1]]).distinct() == [0]


def test_payoffs_survive_json() -> None:
    payoffs = drawn_game(0, 3, 3)
    again = Payoffs.from_dict(json.loads(json.dumps(payoffs.to_dict())))
    assert (again.strategies, again.players) == (payoffs.strategies, 3)
    assert (again.table == payoffs.table).all()


@pytest.mark.parametrize(
    ("strategies", "players", "table", "message"),
    [
        (("a", "b"), 1, np.zeros((2, 1)), "players"),
        (("a", "a"), 2, np.zeros((2, 2)), "strategies"),
        (("a", "b"), 3, np.zeros((2, 2)), "table"),
        (("a", "b"), 2, np.full((2, 2), np.nan), "finite"),
    ],
)
def test_what_is_no_game_is_refused(strategies: Profile, players: int, table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Payoffs(strategies, players, table)
