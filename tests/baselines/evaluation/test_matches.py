"""Matches: the returns of one batch are those of the evaluation, episode by episode."""

from __future__ import annotations

import numpy as np
import pytest

from paramarket_baselines.evaluation.matches import MARKETS, play_matches, returns_outside
from paramarket_baselines.evaluation.statistics import evaluate
from tests.helpers import priced_market

SEEDS = (3, 4, 5)
# One draws random numbers, one has a memory, and one is another rule in every episode.
POPULATIONS = ("random", "paper+thompson", "varied")


@pytest.mark.parametrize("mode", ["verb", "round"])
@pytest.mark.parametrize("policy", ["patient:1+ratchet", "random"])
def test_the_returns_are_those_of_the_evaluation(policy: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramarket_baselines.evaluation.matches.MARKETS", 2 * 3 * len(SEEDS))  # two batches
    config = priced_market(action_mode=mode, max_cycles=4)
    runs = evaluate(config, [policy], POPULATIONS, SEEDS, "cpu")
    found = play_matches(config, policy, {name: [name] for name in POPULATIONS}, SEEDS, "cpu")
    outside = returns_outside(config, SEEDS, "cpu")
    assert list(found) == list(POPULATIONS)
    for row in runs.itertuples():
        place = row.seat, SEEDS.index(row.seed)
        returned = found[row.population][place]
        assert returned == pytest.approx(runs.loc[row.Index, "return"], abs=1e-6)
        assert returned - outside[place] == pytest.approx(row.advantage, abs=1e-6)


def test_the_trainings_of_a_population_take_turns_on_the_seeds() -> None:
    config = priced_market(max_cycles=3)
    alone = {name: play_matches(config, "paper", {name: [name]}, SEEDS, "cpu")[name] for name in ("greedy", "random")}
    mixed = play_matches(config, "paper", {"both": ["greedy", "random"], "more": ["greedy"] * 9}, SEEDS, "cpu")
    np.testing.assert_allclose(mixed["both"][:, [0, 2]], alone["greedy"][:, [0, 2]])
    np.testing.assert_allclose(mixed["both"][:, 1], alone["random"][:, 1])
    np.testing.assert_allclose(mixed["more"], alone["greedy"])


def test_a_policy_that_cannot_play_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"fixed\.level=9"):
        play_matches(priced_market(), "paper+fixed:9", {"train": ["train"]}, SEEDS, "cpu")
    assert MARKETS >= 2 * 40
