"""Evaluations: whose runs they are made of, and what the statistics say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.cli import main
from baselines.evaluation.play import Arm, play
from baselines.evaluation.statistics import (
    HOLE,
    POPULATIONS,
    STATISTICS,
    Estimate,
    estimate,
    evaluate,
    improvement,
    samples,
    summary,
)
from baselines.evaluation.welfare import returns
from baselines.training.sb3 import TRAINING_OPPONENTS
from tests.baselines.test_cli import SMALL
from tests.helpers import priced_market

SEEDS = (3, 4, 5)
CONFIG = priced_market(action_mode="round", max_cycles=3)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return evaluate(CONFIG, ["train", "paper", "paper+omniscient"], ["greedy", "patient"], SEEDS, "cpu")


# --- the runs -------------------------------------------------------------------------------------------------------


def test_every_policy_plays_every_seat_beside_every_population_on_the_same_seeds(runs: pd.DataFrame) -> None:
    tasks = runs.groupby("policy").apply(
        lambda mine: set(zip(mine.population, mine.seat, mine.seed, strict=True)), include_groups=False
    )
    expected = {(name, seat, seed) for name in ("greedy", "patient") for seat in range(3) for seed in SEEDS}
    assert tasks["train"] == tasks["paper"] == tasks["paper+omniscient"] == expected
    assert len(runs) == 3 * len(expected)


def test_a_run_is_the_seats_return_in_an_episode_as_long_as_the_environments(runs: pd.DataFrame) -> None:
    episode = play(CONFIG, Arm("x", ("greedy", "paper", "greedy")), SEEDS, "cpu", closing_trade=False)
    assert episode.steps.cycle.max() == CONFIG.max_cycles
    row = runs[(runs.policy == "paper") & (runs.population == "greedy") & (runs.seat == 1) & (runs.seed == 4)].iloc[0]
    assert row["return"] == pytest.approx(returns(episode)[4, 1])
    last = episode.steps[(episode.steps.cycle == 3) & (episode.steps.seed == 4) & (episode.steps.agent == 1)]
    assert row.test_accuracy == last.test_accuracy.item()
    trades = episode.trades[episode.trades.seed == 4]
    assert row.surplus == pytest.approx(trades.value.sum())
    assert row.surplus > 0


def test_without_a_trade_there_is_no_surplus() -> None:
    alone = evaluate(CONFIG, ["hold"], ["train"], SEEDS, "cpu")
    assert (alone.surplus == 0).all()


def test_the_mean_is_told_beside_each_population_too(runs: pd.DataFrame) -> None:
    row = summary(runs)["paper"]
    for population in ("greedy", "patient"):
        mine = runs[(runs.policy == "paper") & (runs.population == population)]
        assert row[f"beside {population}"].value == pytest.approx(mine["return"].mean())
    assert row["mean"].value == pytest.approx((row["beside greedy"].value + row["beside patient"].value) / 2)


def test_some_populations_of_an_evaluation_are_new_to_what_was_trained() -> None:
    assert set(TRAINING_OPPONENTS) < set(POPULATIONS)


def test_a_policy_that_cannot_play_is_a_hole_that_says_why(runs: pd.DataFrame) -> None:
    failed = runs[runs.policy == "paper+omniscient"]
    assert failed["return"].isna().all()
    assert failed.error.str.contains("disclosure='full'").all()
    assert (runs[runs.policy != "paper+omniscient"].error == "").all()
    table = summary(runs)
    assert list(table) == ["train", "paper", "paper+omniscient"]
    assert {str(found) for found in table["paper+omniscient"].values()} == {"–"}


def test_the_same_seeds_give_the_same_table(runs: pd.DataFrame) -> None:
    again = evaluate(CONFIG, ["train", "paper", "paper+omniscient"], ["greedy", "patient"], SEEDS, "cpu")
    pd.testing.assert_frame_equal(again, runs)
    assert summary(again)["paper"] == summary(runs)["paper"]


def test_what_does_not_exist_is_refused_before_anything_is_played() -> None:
    with pytest.raises(ValueError, match="unknown policy 'nobody'"):
        evaluate(CONFIG, ["train", "nobody"], ["train"], SEEDS, "cpu")
    with pytest.raises(ValueError, match="seeds=1"):
        evaluate(CONFIG, ["train"], ["train"], (0,), "cpu")


# --- the statistics -------------------------------------------------------------------------------------------------


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    scores = (np.array([0.0, 1.0, 2.0, 100.0]), np.array([3.0, -50.0, 4.0, 5.0]))
    assert estimate(scores, STATISTICS["IQM"]).value == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert estimate(scores, STATISTICS["mean"]).value == pytest.approx(65 / 8)
    assert estimate(scores, STATISTICS["median"]).value == pytest.approx(2.5)


def test_the_bootstrap_resamples_within_tasks() -> None:
    # Tasks differ, runs of a task do not: nothing is left to chance.
    constant = (np.full(5, 1.0), np.full(5, 9.0))
    assert estimate(constant, STATISTICS["mean"]) == Estimate(5.0, 5.0, 5.0)
    nearly = (np.array([1.0, 1.0, 1.0, 1.5]), np.full(4, 9.0))
    found = estimate(nearly, STATISTICS["mean"])
    assert 5.0 <= found.low <= found.value <= found.high <= 5.25


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    scores = (np.random.default_rng(1).normal(size=100), np.random.default_rng(2).normal(size=100))
    found = estimate(scores, STATISTICS["mean"])
    assert found.high - found.low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.2)


def test_a_missing_run_leaves_a_hole() -> None:
    assert str(estimate((np.array([1.0, np.nan]),), STATISTICS["mean"])) == str(HOLE)
    assert np.isnan(improvement((np.array([1.0, 2.0]),), (np.array([np.nan, 2.0]),)).value)


@pytest.mark.parametrize(
    ("mine", "theirs", "chance"),
    [
        (([2.0, 3.0],), ([0.0, 1.0],), 1.0),
        (([0.0, 1.0],), ([2.0, 3.0],), 0.0),
        (([1.0, 1.0],), ([1.0, 1.0],), 0.5),
        (([0.0, 2.0],), ([1.0, 2.0],), 3 / 8),  # of four pairs one is won and one even
        (([2.0, 3.0], [0.0, 1.0]), ([0.0, 1.0], [2.0, 3.0]), 0.5),  # tasks are compared each for itself
    ],
)
def test_the_probability_of_improvement(
    mine: tuple[list[float], ...], theirs: tuple[list[float], ...], chance: float
) -> None:
    ours, others = (tuple(np.array(task) for task in tasks) for tasks in (mine, theirs))
    assert improvement(ours, others).value == pytest.approx(chance)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=2, max_size=4))
def test_who_improves_on_whom_adds_up_to_one(tasks: list[list[int]]) -> None:
    scores = tuple(np.array(task, dtype=float) for task in tasks)
    half = len(scores) // 2
    mine, theirs = scores[:half], scores[half : 2 * half]
    one_way, other_way = improvement(mine, theirs), improvement(theirs, mine)
    assert one_way.value + other_way.value == pytest.approx(1)
    assert one_way.low <= one_way.value <= one_way.high


def test_samples_are_those_of_one_policy_task_by_task(runs: pd.DataFrame) -> None:
    scores = samples(runs.sample(frac=1, random_state=0), "paper", "advantage")
    assert [task.shape for task in scores] == [(3,)] * 6
    first = runs[(runs.policy == "paper") & (runs.population == "greedy") & (runs.seat == 0)].sort_values("seed")
    assert scores[0].tolist() == first.advantage.tolist()


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_keeps_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "judged"
    chosen = ["train", "patient:1", "paper+bounds", "--populations", "paper", "--out", str(out)]
    assert main(["evaluate", *chosen, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "P(> first)" in printed
    assert "could not be played: pricing='bounds' cannot play here" in " ".join(printed.split())
    kept = json.loads((out / "summary.json").read_text())
    assert list(kept["policies"]) == ["train", "patient:1", "paper+bounds"]
    assert kept["policies"]["paper+bounds"]["mean"] == [None, None, None]
    assert kept["populations"] == ["paper"]
    assert len(pd.read_csv(out / "runs.csv")) == 3 * 2 * 2  # policies, seats, seeds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "policies=()"),
        (["nobody"], "unknown policy 'nobody'"),
        (["train", "--populations", "nobody"], "unknown policy 'nobody'"),
        (["train", "train"], "policies=('train', 'train') is not allowed"),
    ],
)
def test_a_bad_evaluation_is_refused_in_a_line_and_leaves_no_folder(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judged"
    assert main(["evaluate", *SMALL, *arguments, "--out", str(out)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_one_seed_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "train", "--seeds", "1"])
    assert "seeds=1" in capsys.readouterr().err
