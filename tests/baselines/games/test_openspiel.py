"""OpenSpiel agrees: it finds no profitable deviation in our equilibria (an independent check; not in the extras)."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from paramarket_baselines.games.equilibria import symmetric_equilibria
from paramarket_baselines.games.payoffs import Payoffs
from tests.baselines.games.games import drawn_game, payoffs_in

pyspiel = pytest.importorskip("pyspiel")


def tensor_game(payoffs: Payoffs) -> Any:
    """The game with named players."""
    names, players = payoffs.strategies, payoffs.players
    tensors = np.zeros((players, *[len(names)] * players))
    for indices in product(range(len(names)), repeat=players):
        profile = tuple(names[index] for index in indices)
        for player, name in enumerate(profile):
            tensors[(player, *indices)] = payoffs_in(payoffs, profile)[name]
    return pyspiel.create_tensor_game([tensor.reshape(-1).tolist() for tensor in tensors], list(tensors.shape[1:]))


@pytest.mark.parametrize(("seed", "strategies", "players"), [(0, 4, 2), (1, 6, 2), (2, 3, 3), (3, 4, 3)])
def test_no_player_gains_by_leaving_an_equilibrium(seed: int, strategies: int, players: int) -> None:
    from open_spiel.python.algorithms import exploitability
    from open_spiel.python.policy import TabularPolicy

    payoffs = drawn_game(seed, strategies, players)
    policy = TabularPolicy(pyspiel.convert_to_turn_based(tensor_game(payoffs)))
    for one in symmetric_equilibria(payoffs).found:
        policy.action_probability_array[:] = list(one.mixture.values())
        assert exploitability.nash_conv(policy.game, policy) == pytest.approx(0, abs=1e-7)
    policy.action_probability_array[:] = 1 / strategies
    assert exploitability.nash_conv(policy.game, policy) > 0.01
