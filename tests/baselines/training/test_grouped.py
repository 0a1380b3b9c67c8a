"""Advantages that are compared within groups of equal episodes."""

from __future__ import annotations

import numpy as np
import pytest

from paramarket_baselines.training.grouped import above_the_mean, centred, grouped_seeds
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.scenarios import scenario

STEPS, BLOCKS, MEMBERS, AGENTS = 5, 3, 4, 2


def plain(advantages: np.ndarray) -> np.ndarray:
    """The same one group at a time."""
    differences, spreads = np.empty_like(advantages), []
    groups = [
        [block * MEMBERS * AGENTS + member * AGENTS + seat for member in range(MEMBERS)]
        for block in range(BLOCKS)
        for seat in range(AGENTS)
    ]
    for rows in groups:
        for step in range(STEPS):
            mean = sum(advantages[step, row] for row in rows) / MEMBERS
            for row in rows:
                differences[step, row] = advantages[step, row] - mean
        spreads.append(np.std(differences[:, rows]))
    for rows, spread in zip(groups, spreads, strict=True):
        differences[:, rows] /= spread + np.median(spreads) + 1e-8
    return differences


def test_centred_advantages_are_those_of_a_plain_loop() -> None:
    advantages = np.random.default_rng(0).normal(size=(STEPS, BLOCKS * MEMBERS * AGENTS))
    np.testing.assert_allclose(centred(advantages, MEMBERS, AGENTS), plain(advantages), atol=1e-12)


def test_what_a_group_has_in_common_is_no_merit() -> None:
    rng = np.random.default_rng(1)
    advantages = rng.normal(size=(STEPS, BLOCKS, MEMBERS, AGENTS))
    common = 100 * rng.normal(size=(STEPS, BLOCKS, 1, AGENTS))
    flat = (STEPS, BLOCKS * MEMBERS * AGENTS)
    np.testing.assert_allclose(
        centred(advantages.reshape(flat), MEMBERS, AGENTS),
        centred((advantages + common).reshape(flat), MEMBERS, AGENTS),
        atol=1e-9,
    )


@pytest.mark.parametrize("name", ["digits-priced-short", "three-firms-short"])
def test_the_members_of_a_group_have_the_same_episodes_again_and_again(name: str) -> None:
    config = scenario(name, max_cycles=2)
    members, agents = 2, config.agents
    markets = 2 * members * agents
    env = ParaMarketVecEnv(config, markets, "cpu", ["varied"])
    env.seed(grouped_seeds(5, markets, members * agents))
    observation = env.reset()
    for _ in range(5):
        groups = observation.reshape(2, members, agents, -1)
        np.testing.assert_array_equal(groups[:, 0], groups[:, 1])
        assert not np.array_equal(groups[0], groups[1])
        observation = env.step(np.ones(markets, dtype=np.int64))[0]


def test_rows_above_the_mean_of_their_group_are_those_of_a_plain_loop() -> None:
    returns = np.random.default_rng(1).normal(size=3 * MEMBERS * AGENTS)
    expected = []
    for row, mine in enumerate(returns):
        first = row // (MEMBERS * AGENTS) * MEMBERS * AGENTS + row % AGENTS
        expected.append(mine >= np.mean([returns[first + place * AGENTS] for place in range(MEMBERS)]))
    assert above_the_mean(returns, MEMBERS, AGENTS).tolist() == expected
    assert above_the_mean(np.ones(MEMBERS * AGENTS), MEMBERS, AGENTS).all()
