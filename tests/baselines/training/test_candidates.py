"""Candidates: trainings that differ only in their seeds, of which the best is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from paramarket_baselines.cli import Train, _parse
from paramarket_baselines.training import callbacks
from paramarket_baselines.training.candidates import candidate_folder
from paramarket_baselines.training.plan import Plan, check_resume
from paramarket_baselines.training.sb3 import learn
from tests.helpers import tiny_market

PLAN = Plan(tiny_market(max_cycles=4), "a2c", timesteps=120, num_markets=4, seed=3, against=("paper",), candidates=3)


@pytest.fixture(autouse=True)
def two_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trainings evaluate twice."""
    monkeypatch.setattr(callbacks, "EVALUATIONS", 2)
    monkeypatch.setattr(callbacks, "EVALUATION_SEEDS", range(2**41, 2**41 + 2))


def best_of(folder: Path) -> float:
    return float(pd.read_csv(folder / "evaluations.csv")["return"].max())


def test_the_best_candidate_is_kept_and_is_what_its_seed_trains_alone(tmp_path: Path) -> None:
    steps, scores = [], []
    learn(
        PLAN,
        tmp_path,
        "cpu",
        lambda taken, _: steps.append(taken),
        lambda taken, returned, best: scores.append((returned, best)),
    )
    found = [best_of(candidate_folder(tmp_path, number)) for number in range(3)]
    assert len(set(found)) == 3  # else the test says nothing
    winner = found.index(max(found))
    for name in ("policy.json", "evaluations.csv"):
        assert (tmp_path / name).read_bytes() == (candidate_folder(tmp_path, winner) / name).read_bytes()
    assert steps == sorted(steps)
    assert steps[-1] == 3 * 128
    assert [best for _, best in scores] == list(pd.Series([returned for returned, _ in scores]).cummax())
    alone = PLAN.each_candidate()[winner]
    learn(alone, tmp_path / "alone", "cpu")
    assert (tmp_path / "alone" / "policy.json").read_bytes() == (tmp_path / "policy.json").read_bytes()


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
    assert best_of(parts) == max(best_of(candidate_folder(parts, number)) for number in range(2))
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


def test_a_league_has_candidates_by_default() -> None:
    league, alone = _parse(["train", "--league"]), _parse(["train", "--league", "--candidates", "1"])
    assert isinstance(league, Train)
    assert isinstance(alone, Train)
    assert league.plan.candidates > alone.plan.candidates == 1
