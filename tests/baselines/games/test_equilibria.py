"""Symmetric equilibria: those of known games, and none with a profitable deviation."""

from __future__ import annotations

from itertools import combinations
from math import isclose, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramarket_baselines.evaluation.estimates import Estimate, student_mean
from paramarket_baselines.games import equilibria
from paramarket_baselines.games.equilibria import Equilibrium, estimated_incentives, symmetric_equilibria, undominated
from paramarket_baselines.games.payoffs import Payoffs, tabulate
from tests.baselines.games.games import (
    CHICKEN,
    COORDINATION,
    PRISONERS_DILEMMA,
    ROCK_PAPER_SCISSORS,
    drawn_game,
    game,
    renamed,
)

GAMES = st.builds(drawn_game, st.integers(0, 1000), st.integers(2, 5), st.integers(2, 3))
MATRICES = st.builds(drawn_game, st.integers(0, 1000), st.integers(2, 5))


def mixtures(found: tuple[Equilibrium, ...]) -> list[tuple[float, ...]]:
    """The equilibria's mixtures, in a fixed order."""
    return sorted(tuple(round(chance, 6) + 0.0 for _, chance in sorted(one.mixture.items())) for one in found)


def approximately(expected: list[tuple[float, ...]]) -> list[object]:
    return [pytest.approx(one, abs=1e-6) for one in sorted(expected)]


@pytest.mark.parametrize(
    ("table", "expected", "values"),
    [
        (ROCK_PAPER_SCISSORS, [(1 / 3, 1 / 3, 1 / 3)], [0]),
        (PRISONERS_DILEMMA, [(0, 1)], [1]),
        (COORDINATION, [(1, 0), (0, 1), (0.5, 0.5)], [1, 1, 0.5]),
        (CHICKEN, [(1 / 3, 2 / 3)], [14 / 3]),
    ],
)
def test_known_games_of_two_players(table: object, expected: list[tuple[float, ...]], values: list[float]) -> None:
    found = symmetric_equilibria(game(table))
    assert found.complete
    assert mixtures(found.found) == approximately(expected)
    assert [one.value for one in found.found] == pytest.approx(values)


def test_known_games_of_three_players() -> None:
    names = ("V", "W")
    # If somebody volunteers, all get 2, and volunteers pay 1 of it. To wait is worth 2 (1 - w²), so 1 if w² = 1/2.
    volunteers = tabulate(names, 3, 3, lambda profile: {"V": 1.0, "W": 2.0 * ("V" in profile)})
    found = symmetric_equilibria(volunteers)
    assert not found.complete
    assert mixtures(found.found) == approximately([(1 - 1 / sqrt(2), 1 / sqrt(2))])
    majority = tabulate(names, 3, 3, lambda profile: {name: float(len(set(profile)) == 1) for name in names})
    assert mixtures(symmetric_equilibria(majority).found) == approximately([(1, 0), (0, 1), (0.5, 0.5)])


def plain_equilibria(table: np.ndarray) -> list[tuple[float, ...]]:
    """The symmetric equilibria of a matrix, support by support."""
    count, found = len(table), []
    for size in range(1, count + 1):
        for support in map(list, combinations(range(count), size)):
            system = np.block([[table[np.ix_(support, support)], -np.ones((size, 1))], [np.ones((1, size)), 0]])
            mixture = np.zeros(count)
            mixture[support] = np.linalg.solve(system, [0.0] * size + [1.0])[:-1]
            payoffs = table @ mixture
            if mixture.min() >= 0 and payoffs.max() <= mixture @ payoffs + 1e-9:
                found.append(tuple(mixture.tolist()))
    return sorted(found)


@settings(max_examples=40, deadline=None)
@given(MATRICES)
def test_for_two_players_all_equilibria_are_found(payoffs: Payoffs) -> None:
    found = symmetric_equilibria(payoffs)
    assert found.complete
    assert len(found.found) % 2 == 1  # a generic game has an odd number (Wilson 1971)
    assert mixtures(found.found) == approximately(plain_equilibria(payoffs.table))


@settings(max_examples=25, deadline=None)
@given(GAMES)
def test_no_deviation_from_an_equilibrium_is_profitable(payoffs: Payoffs) -> None:
    found = symmetric_equilibria(payoffs).found
    assert found
    for one in found:
        mixture = np.array(list(one.mixture.values()))
        alone = payoffs.against(mixture)
        assert mixture.min() >= 0
        assert mixture.sum() == pytest.approx(1)
        assert one.value == pytest.approx(mixture @ alone)
        assert list(one.incentives.values()) == pytest.approx(alone - one.value)
        assert max(one.incentives.values()) <= 1e-7
        assert all(abs(one.incentives[name]) <= 1e-7 for name, chance in one.mixture.items() if chance > 0)


@settings(max_examples=25, deadline=None)
@given(GAMES, st.floats(-100, 100), st.floats(0.01, 100))
def test_shift_scale_and_order_of_the_payoffs_change_no_mixture(payoffs: Payoffs, shift: float, scale: float) -> None:
    found = symmetric_equilibria(payoffs)
    moved = symmetric_equilibria(Payoffs(payoffs.strategies, payoffs.players, scale * payoffs.table + shift))
    assert mixtures(moved.found) == approximately(mixtures(found.found))
    assert moved.found[0].value == pytest.approx(scale * found.found[0].value + shift)
    turned = symmetric_equilibria(renamed(payoffs, payoffs.strategies[::-1]))
    if payoffs.players == 2:
        assert mixtures(turned.found) == approximately(mixtures(found.found))


def test_incentives_have_intervals_over_seeds() -> None:
    by_seed = [game([[1, 0], [extra, 1]]) for extra in (0.0, 0.2, 0.7)]
    found = estimated_incentives(by_seed, {"B": 0.0, "A": 1.0})
    assert found["A"] == Estimate(0.0, 0.0, 0.0)
    assert found["B"] == student_mean([-1.0, -0.8, -0.3])


def test_dominated_strategies_are_eliminated_again_and_again() -> None:
    # C is below the even mixture of A and B. Without C, B is below A.
    payoffs = game([[4, 0, 1], [0, -1, 6], [1, -1, 3]])
    assert undominated(payoffs) == [0]
    assert undominated(game(CHICKEN)) == [0, 1]
    assert mixtures(symmetric_equilibria(payoffs).found) == [(1, 0, 0)]


def test_the_first_of_several_copies_stands_for_all() -> None:
    copied = renamed(game(COORDINATION), ("A", "B", "A2", "B2", "A3"))
    found = symmetric_equilibria(copied)
    assert found.complete
    assert mixtures(found.found) == approximately([(1, 0, 0, 0, 0), (0, 0, 0, 1, 0), (0.5, 0, 0, 0.5, 0)])
    assert all(one.incentives["A"] == pytest.approx(one.incentives["A2"]) for one in found.found)


def test_a_continuum_cannot_be_listed() -> None:
    found = symmetric_equilibria(game([[0, 1], [0, 1]]))  # nobody cares about its own choice
    assert not found.complete
    assert {(1.0, 0.0), (0.0, 1.0)} <= set(mixtures(found.found))


def test_without_steps_for_all_supports_the_dynamics_finds_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equilibria, "MAX_STEPS", 5)  # supports of one strategy
    hawks = game([[-1, 4, 4], [0, 2, 3], [0, 1, 2.5]])
    found = symmetric_equilibria(hawks)
    assert not found.complete
    assert any(isclose(one.mixture["A"], 2 / 3) for one in found.found)
