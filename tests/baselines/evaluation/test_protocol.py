"""The protocol: who is held out, who may not take part, and what the scale says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from paramarket_baselines.evaluation.protocol import (
    HELD_OUT_LEARNED,
    LEAST_GAIN,
    TRAINING_SET,
    Anchor,
    best_response,
    headline,
    held_out_rules,
    lead,
    met,
    scaled,
    trained_against,
)
from paramarket_baselines.policies.learned import trainings_of
from paramarket_baselines.policies.varied import OPPONENTS
from paramarket_baselines.training.plan import TRAINING_OPPONENTS, Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_baselines.training.teachers import PATIENCE
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.scenarios import SCENARIOS, scenario
from tests.helpers import tiny_market

SHORT = [name for name in SCENARIOS if name.endswith("-short")]
ANCHORS = {"a": Anchor(2.0, "x"), "b": Anchor(0.5, "x"), "c": Anchor(LEAST_GAIN / 2, "x")}


# --- the sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHORT)
def test_at_least_eight_populations_of_four_families_are_held_out(name: str) -> None:
    families = {**held_out_rules(scenario(name)), **HELD_OUT_LEARNED}
    assert len(families) >= 8
    assert len(set(families.values())) >= 4


@pytest.mark.parametrize("name", SHORT)
def test_every_population_can_play(name: str) -> None:
    batch = MarketBatch(scenario(name), 1, "cpu")
    for population in (*TRAINING_SET, *held_out_rules(batch.config)):
        POLICIES.parse(population)(seat_of(batch, 1))


def test_no_training_opponent_is_held_out() -> None:
    held_out = {rule: rule for rule in held_out_rules(scenario("digits-priced-short"))}
    assert met([*TRAINING_SET, *TRAINING_OPPONENTS], held_out) == []
    drawn = {round(12 * share) for share in (*OPPONENTS.patience, *PATIENCE)}
    assert not {4, 10} & drawn


def test_without_prices_no_rule_is_listed_twice() -> None:
    rules = held_out_rules(scenario("digits-short"))
    assert len({POLICIES.parse(rule) for rule in rules}) == len(rules)
    assert not {"paper+thompson", "patient:6+ratchet"} & set(rules)


# --- who may not take part --------------------------------------------------------------------------------------------


def test_opponents_are_compared_as_policies_not_as_texts() -> None:
    populations = {"choosy": "choosy", "patient:4": "patient:4", "paper": "paper"}
    assert met(["patient(patience=4)", "choosy:0.3", "patient:5"], populations) == ["choosy", "patient:4"]
    assert met([], populations) == []


def test_a_learned_opponent_is_its_files_wherever_they_lie(tmp_path: Path) -> None:
    plan = Plan(tiny_market(max_cycles=2), "a2c", timesteps=1, num_markets=2, against=("patient:11",))
    learn(plan, tmp_path / "copies/2", "cpu")
    shutil.copytree(tmp_path / "copies/2", tmp_path / "copies/10")
    first, second = (f"learned:{tmp_path}/copies/{number}" for number in (2, 10))
    assert trainings_of(f"learned:{tmp_path}/copies") == trainings_of(f"learned:{tmp_path}/copies/*") == [first, second]
    assert trained_against(first) == trained_against(f"learned:{tmp_path}/copies") == ["patient:11"]
    assert met([first], {"exploiter": second, "gone": f"learned:{tmp_path}/gone"}) == ["exploiter"]
    assert trainings_of("paper") == ["paper"]
    assert trainings_of(first) == [first]


# --- the scale --------------------------------------------------------------------------------------------------------


def test_the_headline_is_the_mean_of_the_scaled_scores_and_skips_populations_without_a_scale() -> None:
    ones = np.ones((2, 3, 4))
    mine = {"a": ones, "b": ones * 0.25, "c": ones * 9}
    assert scaled(mine, ANCHORS).shape == (2, 6, 4)
    assert headline(mine, ANCHORS).value == pytest.approx((1 / 2 + 0.25 / 0.5) / 2)
    assert np.isnan(headline({"c": ones}, ANCHORS).value)


def test_the_lead_is_paired_by_seed() -> None:
    seeds = np.arange(5.0)[None, None]
    theirs, mine = {"a": seeds}, {"a": np.concatenate([seeds, seeds]) + 0.5}
    found = lead(mine, theirs, ANCHORS)
    assert (found.low, found.value, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert headline(mine, ANCHORS).high > headline(mine, ANCHORS).value + 0.5


def test_the_best_response_is_who_gains_most() -> None:
    found = best_response({"x": np.full((1, 2, 3), 0.5), "y": np.full((5, 2, 3), 0.75)})
    assert found == Anchor(0.75, "y")
    assert found.has_scale
    assert not Anchor(0.09, "y").has_scale
