"""Candidates: each answers those before it, and a mixture of them is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramarket_baselines.cli import Train, _parse
from paramarket_baselines.policies.learned import read_manifest
from paramarket_baselines.training import callbacks, candidates, comparison, league, sb3, teachers
from paramarket_baselines.training.candidates import best_mixture, candidate_folder, mixtures, responses, taken
from paramarket_baselines.training.comparison import compared
from paramarket_baselines.training.league import LeagueSettings, opponents_of
from paramarket_baselines.training.plan import Plan, check_resume, tuned_league
from paramarket_baselines.training.sb3 import learn
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from paramarket_env.scenarios import scenario
from paramarket_env.seeding import stream

CONFIG = scenario("digits-priced-short", max_cycles=4)
SETTINGS = LeagueSettings(imitation_episodes=1, imitation_epochs=2, layers=(8,))
PLAN = replace(tuned_league(CONFIG, settings=SETTINGS), num_markets=16, timesteps=128, candidates=3, seed=3)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings evaluate twice, and few episodes are compared."""
    monkeypatch.setattr(callbacks, "EVALUATIONS", 2)
    monkeypatch.setattr(league, "EVALUATED", 4)
    monkeypatch.setattr(teachers, "EPISODES", 2)
    monkeypatch.setattr(candidates, "COMPARED", 2)


def test_each_candidate_answers_those_before_and_a_mixture_of_all_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[list[str]] = []
    taught: list[tuple[list[str], int]] = []
    steps: list[int] = []
    against = teachers.Teachers.against
    monkeypatch.setattr(
        sb3, "opponents_of", lambda given, earlier: met.append([*earlier]) or opponents_of(given, earlier)
    )
    monkeypatch.setattr(
        teachers.Teachers,
        "against",
        lambda self, given, count: taught.append(([*given], count)) or against(self, given, count),
    )
    lessons: list[tuple[list[str], bool]] = []
    imitate = sb3.imitate
    monkeypatch.setattr(
        sb3, "imitate", lambda *given, turns: lessons.append((given[3], turns)) or imitate(*given, turns=turns)
    )
    monkeypatch.setattr(sb3, "best_mixture", lambda *_: np.array([0.25, 0, 0.75]))
    learn(PLAN, tmp_path, "cpu", lambda taken, _: steps.append(taken))
    places = [candidate_folder(tmp_path, number) for number in range(3)]
    texts = [f"learned:{place}" for place in places]
    assert met == [[], texts[:1], texts[:2]]
    given = (["varied"], 4)
    assert taught == [given, given, (texts[:1], 1), given, (texts[:2], 1)]
    assert [turns for _, turns in lessons] == [False, True, True]
    assert [len(rules) for rules, _ in lessons] == [4, 8, 8]
    assert all(rules[:4] == lessons[0][0] and len({*rules[4:]}) == 1 for rules, _ in lessons[1:])
    assert steps == [64, 128, 192, 256, 320, 384]
    assert read_manifest(tmp_path / "policy.json").chances == (0.25, 0.75)
    curve = pd.read_csv(tmp_path / "evaluations.csv")
    assert curve["timesteps"].tolist() == [64, 128, 128, 192, 256, 256, 320, 384, 384]
    apart = [pd.read_csv(place / "evaluations.csv")["return"] for place in places]
    assert curve["return"].tolist() == pd.concat(apart).tolist()


def test_the_first_candidate_is_what_its_plan_trains_alone(tmp_path: Path) -> None:
    learn(replace(PLAN, candidates=2), tmp_path / "both", "cpu")
    learn(PLAN.each_candidate()[0], tmp_path / "alone", "cpu")
    first = candidate_folder(tmp_path / "both", 0)
    assert (tmp_path / "alone" / "policy.json").read_bytes() == (first / "policy.json").read_bytes()


@pytest.mark.parametrize(("earlier", "share"), [((), 0.0), (("train",), 1 / 2), (("train", "train", "train"), 1 / 2)])
def test_earlier_candidates_are_met_in_half_of_the_episodes(earlier: tuple[str, ...], share: float) -> None:
    batch, rows = MarketBatch(CONFIG, 1, "cpu"), torch.arange(4000)
    observation, mask = batch.reset(torch.arange(1))
    player = opponents_of(["hold", "hold"], earlier)(seat_of(batch, len(rows)))
    player.reset(rows, stream(rows, "episode"))
    acted = player.act(observation[:, 0].repeat(len(rows), 1), mask[:, 0].repeat(len(rows), 1))
    assert float((acted == 1).float().mean()) == pytest.approx(share, abs=0.03)


# --- the mixture ------------------------------------------------------------------------------------------------------


def hawk_and_dove(value: float, cost: float) -> np.ndarray:
    """Payoffs of hawk and dove, in the rows, against each of them."""
    return np.array([[(value - cost) / 2, value], [0, value / 2]])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_hawks_and_doves_are_mixed_as_the_theory_says(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the only equilibrium hawks have the share value / cost. Nothing can be taken from it."""
    payoffs = hawk_and_dove(share, 1)
    known = {"varied": np.zeros(2), "hawk": payoffs[:, 0], "dove": payoffs[:, 1]}
    monkeypatch.setattr(candidates, "responses", lambda config: [])
    monkeypatch.setattr(candidates, "compared", lambda config, players, population, *_: known[population])
    mixture = best_mixture(CONFIG, ["hawk", "dove"], ["varied"], "cpu")
    assert mixture.tolist() == pytest.approx([share, 1 - share])
    assert taken(payoffs, mixture) == pytest.approx(0)


@pytest.mark.parametrize(("lead", "share"), [(0.0, 0.5), (0.2, 0.5), (0.9, 0.7), (1.5, 1.0)])
def test_a_mixture_weighs_returns_against_what_can_be_taken(
    lead: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share h > 1/2 of hawks returns ``lead`` h, and a dove takes h (h - 1/2): best is h = (lead + 1/2) / 2."""
    payoffs = hawk_and_dove(1, 2)
    known = {"varied": np.array([lead, 0]), "hawk": payoffs[:, 0], "dove": payoffs[:, 1]}
    monkeypatch.setattr(candidates, "responses", lambda config: [])
    monkeypatch.setattr(candidates, "compared", lambda config, players, population, *_: known[population])
    assert best_mixture(CONFIG, ["hawk", "dove"], ["varied"], "cpu")[0] == pytest.approx(share)


def test_what_a_rule_takes_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither candidate takes anything from the first one, but a rule does."""
    known = {"varied": np.zeros(3), "a": np.array([1.0, 0.9, 3.0]), "b": np.array([0.0, 1.0, 1.1])}
    monkeypatch.setattr(candidates, "responses", lambda config: ["rule"])
    monkeypatch.setattr(candidates, "compared", lambda config, players, population, *_: known[population])
    assert best_mixture(CONFIG, ["a", "b"], ["varied"], "cpu").tolist() == [0, 1]


def test_mixtures_are_all_multiples_of_a_tenth() -> None:
    for count, number in ((1, 1), (2, 11), (3, 66), (5, 1001)):
        found = np.array([*mixtures(count)])
        assert found.shape == (number, count)
        assert np.allclose(found.sum(axis=1), 1)
        assert len(np.unique(found, axis=0)) == number


@given(st.integers(0, 2**32 - 1))
def test_nothing_is_taken_from_a_mixture_less_than_its_own_players_take(seed: int) -> None:
    rng = np.random.default_rng(seed)
    payoffs, mixture = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(3))
    plain = max(sum(payoffs[row, j] * mixture[j] for j in range(3)) for row in range(5))
    own = sum(mixture[i] * payoffs[i, j] * mixture[j] for i in range(3) for j in range(3))
    assert taken(payoffs, mixture) == pytest.approx(plain - own)
    assert taken(payoffs, mixture) >= -1e-12


def test_the_responses_train_or_wait_with_one_ask_from_the_initial_one_upwards() -> None:
    asks = [f"patient:11+fixed:{place}" for place in range(3, 10)]
    assert responses(scenario("digits-priced-short")) == ["train", *asks]
    assert responses(scenario("digits-short")) == ["train", "patient:11+fixed:0"]
    withheld = scenario("digits-priced-short", initial_ask=10)
    assert responses(withheld) == ["train", *(f"patient:11+fixed:{place}" for place in range(10))]


# --- the comparison ---------------------------------------------------------------------------------------------------


def test_a_score_is_what_a_policy_gets_more_than_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are returns minus their mean if all episodes have the same spread, and are damped otherwise."""
    returns = {"a": np.array([5.0, 2.0]), "b": np.array([3.0, 4.0]), "c": np.array([1.0, 0.0])}
    monkeypatch.setattr(comparison, "returns_against", lambda config, policy, *rest: returns[policy])
    assert compared(CONFIG, [*returns], "paper", 4, "cpu").tolist() == pytest.approx([1, 1, -2])
    # The spreads are 1, 1 and 4. The median is 1, so the differences of the third episode count 2 / (1 + 4).
    returns = {"a": np.array([1.0, 1.0, 4.0]), "b": np.array([-1.0, -1.0, -4.0])}
    assert compared(CONFIG, [*returns], "paper", 6, "cpu").tolist() == pytest.approx([1.2, -1.2])


def test_a_score_is_from_episodes_against_the_population() -> None:
    config, rules = scenario("digits-short"), ["train", "train", "train", "hold"]
    scores = compared(config, rules, "train", 16, "cpu")
    assert scores[0] == scores[1] == scores[2] == pytest.approx(-scores[3] / 3)
    assert 0.1 < scores[0] < 1


def test_the_policy_that_is_ahead_of_most_opponents_is_best_even_if_another_has_the_larger_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One is ahead by 1 in 9 of 10 episodes, where returns differ little; the other by 100 in the tenth."""
    steady, rich = np.tile([1.0] * 9 + [0.0], 4), np.tile([0.0] * 9 + [100.0], 4)
    known = {"steady": steady, "poor": steady - 2, "rich": rich}
    monkeypatch.setattr(comparison, "returns_against", lambda config, policy, *rest: known[policy])
    assert compared(CONFIG, ["poor", "rich", "steady"], "paper", 40, "cpu").argmax() == 2
    assert rich.mean() > steady.mean()


def test_equal_policies_have_the_score_0() -> None:
    assert compared(CONFIG, ["hold", "hold"], "train", 4, "cpu").tolist() == [0, 0]


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_candidates_have_different_seeds_and_the_first_that_of_the_plan() -> None:
    seeds = [each.seed for seed in range(10) for each in replace(PLAN, seed=seed, candidates=5).each_candidate()]
    assert len(set(seeds)) == 50
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
    learn(replace(PLAN, candidates=2), tmp_path, "cpu")
    learn(replace(PLAN, candidates=1), tmp_path, "cpu")
    assert not (tmp_path / "candidates").exists()


def test_candidates_first_remove_the_policy_and_the_checkpoint_of_the_training_before(tmp_path: Path) -> None:
    learn(replace(PLAN, candidates=1), tmp_path, "cpu")

    def interrupt(steps: int, returned: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(PLAN, tmp_path, "cpu", interrupt)
    assert [each.name for each in tmp_path.iterdir()] == ["candidates"]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_only_a_league_has_candidates() -> None:
    league_, alone = _parse(["train", "--league"]), _parse(["train", "--league", "--candidates", "1"])
    assert isinstance(league_, Train)
    assert isinstance(alone, Train)
    assert league_.plan.candidates > alone.plan.candidates == 1
    with pytest.raises(ValueError, match="candidates=2 is not allowed: it must be 1 without a league"):
        Plan(CONFIG, candidates=2)
    with pytest.raises(ValueError, match="candidates=6 is not allowed"):
        replace(PLAN, candidates=6)
