"""The search for a league's settings: two tiny trials, its resumption, and what ends trials early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paramarket_baselines.evaluation.protocol import held_out_rules
from paramarket_baselines.training import league
from paramarket_baselines.training.league import LeagueSettings
from paramarket_baselines.training.plan import Plan, tuned_league
from paramarket_env.scenarios import scenario
from tests.helpers import tiny_market

pytest.importorskip("optuna")
tuning: Any = pytest.importorskip("benchmarks.tuning")

SCALES = {
    "easy": {"zero": 0.0, "one": 2.0, "rule": "patient:5"},
    "hard": {"zero": 1.0, "one": 2.0, "rule": "patient:8"},
}


def found(study: Any) -> list[tuple[Any, ...]]:
    trials = study.get_trials(states=tuning.FINISHED)
    return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in trials]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A search whose trainings take no time: the returns rise with the learning rate and fall with the entropy."""

    def learn(plan: Plan, folder: str, device: str, on_evaluation: Any) -> None:
        settings = plan.league_settings
        for number in range(1, 4):
            returned = number * (1000 * settings.learning_rate - settings.entropy)
            on_evaluation(number, returned, returned + 1)

    monkeypatch.setattr(tuning, "learn", learn)
    monkeypatch.setattr(tuning, "measured_scale", lambda config, device: SCALES["easy"])
    return tuning.Tuning(scenarios=("digits-short", "digits-priced-short"), trials=12, out=tmp_path, device="cpu")


def test_two_trials_train_and_a_resumed_search_equals_one_without_interruption(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tiny(config: Any, name: str, settings: LeagueSettings) -> Plan:
        brief = replace(settings, imitation_episodes=1, imitation_epochs=1)
        market = tiny_market(max_cycles=2)
        return replace(tuned_league(market, settings=brief), num_markets=2 * settings.members)

    monkeypatch.setattr(tuning, "tuned_league", tiny)
    monkeypatch.setattr(tuning, "sensible_rules", lambda config: ["patient:2", "patient:1"])
    monkeypatch.setattr(league, "EVALUATED", 4)
    options = tuning.Tuning(scenarios=("digits-priced-short",), trials=2, timesteps=1, out=tmp_path / "a", device="cpu")
    whole = tuning.search(options)
    tuning.search(replace(options, out=tmp_path / "b", trials=1))
    resumed = tuning.search(replace(options, out=tmp_path / "b"))
    assert len(found(whole)) == 2
    assert found(whole) == found(resumed)
    assert whole.user_attrs == resumed.user_attrs
    assert whole.trials[0].params == tuning.default_parameters()
    assert "| 0 |" in "\n".join(tuning.page(whole))


def test_the_default_parameters_are_the_default_settings() -> None:
    trial = pytest.importorskip("optuna").trial.FixedTrial(tuning.default_parameters())
    assert tuning.suggested(trial) == LeagueSettings()


def test_every_point_of_the_space_is_a_plan() -> None:
    for members in (4, 8, 16):
        for minibatches in (2, 16):
            settings = LeagueSettings(members=members, minibatches=minibatches)
            for name in tuning.Tuning().scenarios:
                assert tuning.Tuning().plan(name, settings).league_settings == settings


def test_the_search_finds_better_settings_and_ends_trials_that_lag_behind(fake: Any) -> None:
    study = tuning.search(fake)
    states = [trial.state.name for trial in study.trials]
    assert study.best_value > study.trials[0].value
    assert "PRUNED" not in states[: tuning.FIRST_TRIALS]
    assert "PRUNED" in states
    rows, labels = tuning.trial_rows(study)
    assert next(iter(rows)) == str(study.best_trial.number)
    assert {len(row) for row in rows.values()} == {len(labels)}
    assert next(reversed(rows.values()))[0] == "–"


def test_the_score_is_the_mean_over_the_scenarios_of_the_scaled_returns(fake: Any) -> None:
    study = tuning.search(replace(fake, trials=1))
    settings = LeagueSettings()
    returned = 3 * (1000 * settings.learning_rate - settings.entropy)
    assert study.best_value == pytest.approx(returned / 2)
    assert tuning.scaled(1.5, SCALES["hard"]) == 0.5


def test_a_trial_of_a_killed_search_is_repeated(fake: Any) -> None:
    whole = tuning.search(fake)
    other = replace(fake, out=fake.out / "killed")
    tuning.search(replace(other, trials=7))
    tuning.opened(other.out / "tuning", other).ask()  # it is still running, but its process is gone
    assert found(tuning.search(other)) == found(whole)


@pytest.mark.parametrize(("field", "value"), [("seed", 1), ("timesteps", 5), ("scenarios", ("digits-short",))])
def test_a_study_of_other_options_is_not_resumed(fake: Any, field: str, value: Any) -> None:
    tuning.search(replace(fake, trials=1))
    with pytest.raises(ValueError, match=f"{field}=.* as in the study in"):
        tuning.search(replace(fake, **{field: value}))


def test_no_rule_of_the_scale_is_held_out() -> None:
    config = scenario("digits-priced-short")
    rules = tuning.sensible_rules(config)
    assert len(rules) == len(set(rules)) > 8
    assert not {*rules} & {*held_out_rules(config)}
    assert all("fixed" not in rule for rule in tuning.sensible_rules(scenario("digits-short", ask_levels=(0,))))
