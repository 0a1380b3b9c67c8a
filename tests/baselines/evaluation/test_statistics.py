"""Evaluations: whose runs they are made of, and what the statistics say of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paramarket_baselines.cli import main
from paramarket_baselines.evaluation import protocol, trainings
from paramarket_baselines.evaluation.estimates import student_mean
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.evaluation.statistics import (
    compare_with_random,
    estimates_table,
    evaluate,
    scores,
    summary,
)
from paramarket_baselines.evaluation.welfare import returns
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_env.interface.policy import POLICIES
from tests.baselines.evaluation.test_display import printed
from tests.baselines.test_cli import SMALL, assert_refused
from tests.helpers import priced_market

SEEDS = (3, 4, 5)
CONFIG = priced_market(action_mode="round", max_cycles=3)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return evaluate(CONFIG, ["train", "paper", "paper+omniscient"], ["greedy", "patient"], SEEDS, "cpu")


# --- the runs -------------------------------------------------------------------------------------------------------


def test_every_policy_plays_every_seat_against_every_population_on_the_same_seeds(runs: pd.DataFrame) -> None:
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


def test_the_mean_against_each_population_is_shown_too(runs: pd.DataFrame) -> None:
    row = summary(runs)["paper"]
    for population in ("greedy", "patient"):
        mine = runs[(runs.policy == "paper") & (runs.population == population)]
        assert row[f"against {population}"].value == pytest.approx(mine["return"].mean())
    assert row["mean"].value == pytest.approx((row["against greedy"].value + row["against patient"].value) / 2)


def test_a_policy_that_cannot_play_is_missing_and_the_reason_is_kept(runs: pd.DataFrame) -> None:
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


@pytest.mark.parametrize("field", ["policies", "populations", "seeds"])
def test_what_is_given_twice_is_refused(field: str) -> None:
    given = {"policies": ["train"], "populations": ["paper"], "seeds": SEEDS}
    given[field] = [*given[field], given[field][0]]
    with pytest.raises(ValueError, match=rf"{field}=.*different from each other"):
        evaluate(CONFIG, **given, device="cpu")  # type: ignore[arg-type]


def test_scores_are_those_of_one_policy_task_by_task(runs: pd.DataFrame) -> None:
    found = scores(runs.sample(frac=1, random_state=0), "paper", "advantage")
    assert found.shape == (1, 6, 3)
    first = runs[(runs.policy == "paper") & (runs.population == "greedy") & (runs.seat == 0)].sort_values("seed")
    assert found[0, 0].tolist() == first.advantage.tolist()


def test_both_tables_show_every_policy_and_a_dash_for_what_is_missing(runs: pd.DataFrame) -> None:
    found = summary(runs)
    returned, _, means = printed(estimates_table(found, "title")).partition("mean return against each population")
    for policy in found:
        assert policy in returned
        assert policy in means
    assert str(found["paper"]["IQM"]) in returned
    assert found["paper"]["against greedy"].brief() in means
    assert returned.count("–") == 4


def test_a_learned_policy_is_compared_with_random_play_on_the_same_seeds() -> None:
    found = compare_with_random(CONFIG, POLICIES.parse("train"), SEEDS, "cpu")
    assert list(found) == ["random", "learned"]
    for name, policy in (("random", "random"), ("learned", "train")):
        by_seed = returns(play(CONFIG, Arm("x", (policy,)), SEEDS, "cpu", closing_trade=False)).groupby("seed").mean()
        assert found[name].value == pytest.approx(by_seed.mean())
        assert found[name] == student_mean(by_seed.tolist())


def several(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with two trainings of ``paper``, which differ by 0.5 on average."""
    again = runs[runs.policy == "paper"].assign(training=1)
    again["return"] += 0.5 + 0.1 * again.seat
    return pd.concat([runs, again])


def test_trainings_of_a_policy_are_one_row_whose_intervals_are_over_trainings_too(runs: pd.DataFrame) -> None:
    once, often = summary(runs)["paper"], summary(several(runs))["paper"]
    assert often["mean"].value == pytest.approx(once["mean"].value + 0.3)
    assert often["mean"] == trainings.mean(scores(several(runs), "paper"))
    assert often["mean"].high - often["mean"].low > once["mean"].high - once["mean"].low
    theirs = scores(runs, "train")
    assert often["minus first"] == trainings.difference(scores(several(runs), "paper"), theirs)
    assert str(often["IQM"]) == f"{often['IQM'].value:.2f}"
    assert np.isnan(often["P(> train)"].low)
    assert once["minus first"].value == pytest.approx(once["mean"].value - summary(runs)["train"]["mean"].value)


def test_a_folder_of_trainings_is_one_policy(tmp_path: Path) -> None:
    for seed in range(2):
        learn(
            Plan(CONFIG, "a2c", timesteps=1, num_markets=3, seed=seed, against=("hold",)), tmp_path / str(seed), "cpu"
        )
    runs = evaluate(CONFIG, [f"learned:{tmp_path}/*"], ["train"], SEEDS, "cpu")
    assert set(runs.policy) == {f"learned:{tmp_path}/*"}
    for number in range(2):
        alone = evaluate(CONFIG, [f"learned:{tmp_path}/{number}"], ["train"], SEEDS, "cpu")
        assert runs[runs.training == number]["return"].tolist() == alone["return"].tolist()


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_keeps_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "evaluated"
    chosen = ["train", "patient:1", "paper+bounds", "--populations", "paper", "--out", str(out)]
    assert main(["evaluate", *chosen, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "P(> first)" in printed
    assert "could not be played: pricing='bounds' cannot play here" in " ".join(printed.split())
    kept = json.loads((out / "summary.json").read_text())
    assert list(kept["policies"]) == ["train", "patient:1", "paper+bounds"]
    assert kept["policies"]["paper+bounds"]["mean"] == {"value": None, "low": None, "high": None}
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
    assert_refused(["evaluate", *SMALL, *arguments], message, tmp_path / "evaluated", capsys)


def test_the_default_populations_are_the_rules_that_are_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(protocol, "HELD_OUT_RULES", {"random": "noise", "paper+fixed:0": "price"})
    learn(Plan(CONFIG, "a2c", timesteps=1, num_markets=3, against=("paper+fixed(level=0)",)), tmp_path / "mine", "cpu")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    given = [f"learned:{tmp_path}/mine", "--config", str(config), "--seeds", "2", "--out", str(tmp_path / "evaluated")]
    assert main(["evaluate", *given]) == 0
    assert json.loads((tmp_path / "evaluated/summary.json").read_text())["populations"] == ["random", "paper+fixed:0"]
    assert "mine was trained against paper+fixed:0\n" in capsys.readouterr().out


def test_one_seed_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "train", "--seeds", "1"]) == 2
    assert "seeds=1" in capsys.readouterr().err
