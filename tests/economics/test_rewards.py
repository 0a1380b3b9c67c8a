"""Reward terms against their closed forms."""

from __future__ import annotations

import pytest
import torch

from paramarket_env.economics.rewards import REWARD_TERMS, Outcome, RelativeGain, Rivalry, TrainCost, step_reward

OUTCOME = Outcome(
    kappa=torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64),
    gain=torch.tensor([[0.3, -0.1, 0.2]], dtype=torch.float64),
    income=torch.tensor([[0.0, 0.05, -0.05]], dtype=torch.float64),
    trained=torch.tensor([[True, False, True]]),
)


def test_the_reward_is_kappa_times_gain_plus_income() -> None:
    assert step_reward(OUTCOME, ()).tolist() == [pytest.approx([0.3, -0.15, 0.05])]


def test_a_training_pass_has_its_cost() -> None:
    assert TrainCost(0.01)(OUTCOME).tolist() == [pytest.approx([-0.01, 0.0, -0.01])]


def test_rivalry_takes_the_mean_gain_of_the_others() -> None:
    assert Rivalry(0.5)(OUTCOME).tolist() == [pytest.approx([-0.025, -0.125, -0.05])]


def test_a_lead_is_worth_its_owners_kappa() -> None:
    assert RelativeGain(0.5)(OUTCOME).tolist() == [pytest.approx([-0.025, -0.25, -0.025])]


def test_terms_add_up() -> None:
    terms = (TrainCost(0.01), Rivalry(0.5))
    total = step_reward(OUTCOME, ()) + sum(term(OUTCOME) for term in terms)
    torch.testing.assert_close(step_reward(OUTCOME, terms), total)


@pytest.mark.parametrize("text", ["train-cost(cost=-1.0)", "rivalry(weight=-0.5)", "rivalry", "generosity"])
def test_what_is_not_allowed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cost|weight|generosity"):
        REWARD_TERMS.parse(text)
