"""Candidates: trainings that differ only in their seeds, of which the best is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paramarket_baselines.cli import Train, _parse
from paramarket_baselines.training import callbacks, candidates, comparison
from paramarket_baselines.training.candidates import best_candidate, candidate_folder
from paramarket_baselines.training.plan import Plan, check_resume
from paramarket_baselines.training.sb3 import learn
from paramarket_env.scenarios import scenario
from tests.helpers import tiny_market

PLAN = Plan(tiny_market(max_cycles=4), "a2c", timesteps=120, num_markets=4, seed=3, against=("paper",), candidates=3)


@pytest.fixture(autouse=True)
def two_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings evaluate twice, and few episodes are compared."""
    monkeypatch.setattr(callbacks, "EVALUATIONS", 2)
    monkeypatch.setattr(callbacks, "EVALUATION_SEEDS", range(2**41, 2**41 + 2))
    monkeypatch.setattr(candidates, "COMPARED", 64)


def test_the_best_candidate_is_kept_and_is_what_its_seed_trains_alone(tmp_path: Path) -> None:
    steps: list[int] = []
    evaluated: list[int] = []
    learn(PLAN, tmp_path, "cpu", lambda taken, _: steps.append(taken), lambda taken, *_: evaluated.append(taken))
    assert steps == [*range(16, 3 * 128 + 1, 16)]
    assert evaluated == [before + taken for before in (0, 128, 256) for taken in (64, 128, 128)]
    places = [candidate_folder(tmp_path, number) for number in range(3)]
    winner = best_candidate(PLAN.config, places, PLAN.against, "cpu")
    for name in ("policy.json", "evaluations.csv"):
        assert (tmp_path / name).read_bytes() == (places[winner] / name).read_bytes()
    alone = PLAN.each_candidate()[winner]
    learn(alone, tmp_path / "alone", "cpu")
    assert (tmp_path / "alone" / "policy.json").read_bytes() == (tmp_path / "policy.json").read_bytes()


@pytest.mark.parametrize("against", [("paper",), ()])
def test_the_candidate_that_is_ahead_of_most_opponents_is_best_even_if_another_has_the_larger_mean(
    against: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is ahead by 1 in 9 of 10 episodes, where returns differ little; the other by 100 in the tenth."""
    steady, rich = np.tile([1.0] * 9 + [0.0], 4), np.tile([0.0] * 9 + [100.0], 4)
    known = {"learned:steady": steady, "learned:poor": steady - 2, "learned:rich": rich}
    monkeypatch.setattr(comparison, "returns_against", lambda config, policy, *rest: known[policy])
    assert best_candidate(PLAN.config, [Path("poor"), Path("rich"), Path("steady")], against, "cpu") == 2


@pytest.mark.parametrize("against", [("paper", "train"), ()])
def test_the_better_of_two_policies_is_the_best_candidate(against: tuple[str, ...], tmp_path: Path) -> None:
    config = scenario("digits-short", max_cycles=4)
    for name, steps in (("short", 1), ("long", 6000)):
        learn(Plan(config, "a2c", steps, 8, against=("train",)), tmp_path / name, "cpu")
    assert best_candidate(config, [tmp_path / "short", tmp_path / "long"], against, "cpu") == 1
    assert best_candidate(config, [tmp_path / "long", tmp_path / "short"], against, "cpu") == 0


def test_candidates_have_different_seeds_and_the_first_that_of_the_plan() -> None:
    seeds = [each.seed for seed in range(10) for each in replace(PLAN, seed=seed, candidates=10).each_candidate()]
    assert len(set(seeds)) == 100
    assert PLAN.each_candidate()[0] == replace(PLAN, candidates=1)


def test_resumed_candidates_end_as_uninterrupted_ones(tmp_path: Path) -> None:
    learn(PLAN, tmp_path / "whole", "cpu")

    def interrupt(steps: int, returned: float) -> None:
        if steps > 2 * 128:  # after the first rollout of the third candidate
            raise KeyboardInterrupt

    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        learn(PLAN, parts, "cpu", interrupt)
    assert not (parts / "policy.json").exists()
    learn(PLAN, parts, "cpu", resume=True)
    for name in ("policy.json", "evaluations.csv"):
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_resumed_training_can_have_more_candidates_but_no_other_seed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint with 3 candidates to resume"):
        learn(PLAN, tmp_path, "cpu", resume=True)
    learn(replace(PLAN, candidates=2), tmp_path, "cpu")
    first = (candidate_folder(tmp_path, 0) / "policy.json").read_bytes()
    with pytest.raises(ValueError, match="seed=4 is not allowed: it must be 3, as in the checkpoint"):
        check_resume(replace(PLAN, seed=4), tmp_path)
    learn(PLAN, tmp_path, "cpu", resume=True)
    assert (candidate_folder(tmp_path, 0) / "policy.json").read_bytes() == first
    assert (candidate_folder(tmp_path, 2) / "policy.json").is_file()


def test_a_new_training_removes_the_candidates_of_the_one_before(tmp_path: Path) -> None:
    learn(PLAN, tmp_path, "cpu")
    learn(replace(PLAN, candidates=1), tmp_path, "cpu")
    assert not (tmp_path / "candidates").exists()


def test_candidates_first_remove_the_policy_and_the_checkpoint_of_the_training_before(tmp_path: Path) -> None:
    learn(replace(PLAN, candidates=1), tmp_path, "cpu")

    def interrupt(steps: int, returned: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(PLAN, tmp_path, "cpu", interrupt)
    assert [each.name for each in tmp_path.iterdir()] == ["candidates"]


def test_a_league_has_candidates_by_default() -> None:
    league, alone = _parse(["train", "--league"]), _parse(["train", "--league", "--candidates", "1"])
    assert isinstance(league, Train)
    assert isinstance(alone, Train)
    assert league.plan.candidates > alone.plan.candidates == 1
