"""Every scenario plays with every policy; those whose data must be downloaded are at least well formed."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.decisions import RULES
from paramarket_env.learning.data.datasets import DATASETS
from paramarket_env.scenarios import SCENARIOS, scenario

EMBEDDED = [name for name in SCENARIOS if all("digits" in DATASETS.text(source) for source in scenario(name).datasets)]


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("policy", RULES)
def test_a_scenario_plays_with_a_policy(name: str, policy: str) -> None:
    config = replace(scenario(name), max_cycles=2)
    steps = play(config, Arm(policy, (policy,)), [0], "cpu").steps
    assert steps.validation_loss.between(0, 10).all()
    assert len(steps) == 3 * config.agents


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_names_a_dataset_and_says_what_it_is(name: str) -> None:
    assert all(DATASETS.text(source) in DATASETS for source in scenario(name).datasets)
    assert inspect.getdoc(SCENARIOS[name])


def test_unknown_scenarios_list_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown scenario 'x': choose from cifar10, costly-training, "):
        scenario("x")
