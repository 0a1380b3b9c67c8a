"""Profiles are played in all seatings, on the same seeds."""

from __future__ import annotations

import json
from math import factorial

import numpy as np
import pytest

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.evaluation.welfare import returns
from paramarket_baselines.games.payoffs import tabulate
from paramarket_baselines.games.profiles import PlayedProfile, play_profile, seatings
from tests.helpers import priced_market, tiny_market

POLICIES = {"buyer": ("paper",), "waiter": ("patient:3",), "loner": ("train",)}


def test_seatings_are_all_distinct_orders() -> None:
    assert list(seatings(("a", "a", "b"))) == [("a", "a", "b"), ("a", "b", "a"), ("b", "a", "a")]
    assert len(set(seatings(("a", "b", "c", "c")))) == factorial(4) / 2
    assert len(list(seatings(("a",) * 63 + ("b",)))) == 64


def test_a_policys_payoff_is_the_mean_over_its_seats_in_all_seatings() -> None:
    config, seeds = priced_market(), (5, 3)
    played = play_profile(config, ("buyer", "buyer", "loner"), POLICIES, seeds, "cpu")
    expected: dict[str, list[np.ndarray]] = {"buyer": [], "loner": []}
    for names in (("buyer", "buyer", "loner"), ("buyer", "loner", "buyer"), ("loner", "buyer", "buyer")):
        arm = Arm("arm", tuple(POLICIES[name][0] for name in names))
        found = returns(play(config, arm, seeds, "cpu", closing_trade=False))
        for seat, name in enumerate(names):
            expected[name].append(np.array([found[seed, seat] for seed in seeds]))
    assert played.seeds == seeds
    for name, by_seating in expected.items():
        assert played.returns[name] == pytest.approx(np.mean(by_seating, axis=0))
        assert played.payoff()[name] == pytest.approx(np.mean(by_seating))


def test_trainings_take_turns_from_seed_to_seed() -> None:
    config, profile, seeds = tiny_market(), ("learned", "loner"), (4, 5, 6)
    both = play_profile(config, profile, {**POLICIES, "learned": ("paper", "patient:3")}, seeds, "cpu")
    first, second = (
        play_profile(config, profile, {**POLICIES, "learned": (name,)}, seeds, "cpu") for name in ("paper", "patient:3")
    )
    expected = (first.returns["learned"][0], second.returns["learned"][1], first.returns["learned"][2])
    assert both.returns["learned"] == pytest.approx(expected, rel=1e-5)
    assert first.returns["learned"][1] != pytest.approx(expected[1], rel=1e-3)


def test_the_same_seeds_give_the_same_profile_and_it_survives_json() -> None:
    once, again = (play_profile(tiny_market(), ("loner", "waiter"), POLICIES, (0, 1), "cpu") for _ in range(2))
    assert once == again
    assert PlayedProfile.from_dict(json.loads(json.dumps(once.to_dict()))) == once


def test_a_markets_payoffs_come_from_its_profiles() -> None:
    def payoff(profile: tuple[str, ...]) -> dict[str, float]:
        return play_profile(tiny_market(), profile, POLICIES, (0,), "cpu").payoff()

    payoffs = tabulate(("buyer", "loner"), 2, 2, payoff)
    assert payoffs.table[0, 0] > payoffs.table[1, 1]  # two who buy from each other return more than two who do not


def test_a_profile_has_a_policy_for_each_agent() -> None:
    with pytest.raises(ValueError, match="one for each agent"):
        play_profile(tiny_market(), ("loner",), POLICIES, (0,), "cpu")
