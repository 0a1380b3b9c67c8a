"""The checks of a policy: every policy passes them, and each finds the policy that is wrong in its way alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_baselines.checks import POLICY_CHECKS, NotClaimed, PolicyTrial, check_policy, policy_trials
from paramarket_baselines.checks.markets import DEFAULT_SCENARIOS, variants
from paramarket_baselines.policies.decisions import RULES
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_env.economics.kappa import KAPPA_MAX
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, Seat
from paramarket_env.scenarios import scenario
from tests.baselines.checks.mutants import Mutants, failed
from tests.helpers import priced_market, tiny_market
from tests.test_examples import EXAMPLES

PLAYERS = (*RULES, "linear-equilibrium", "varied")
"""All policies of the registry that play without a file."""

MARKET = priced_market(max_cycles=7)
MARKETS = {
    "two firms": priced_market(agents=2, mechanism="double-auction", disclosure="none"),
    "three firms": priced_market(action_mode="round", mechanism="personal"),
    "eight firms": priced_market(action_mode="round", mechanism="second-price", agents=8, partners=2),
    "free": tiny_market(),
}
"""Markets with few and many firms, in both modes and of every mechanism."""


def faults(policy: PolicyFactory) -> set[str]:
    """The checks that a policy fails in a market."""
    return failed(POLICY_CHECKS, PolicyTrial(policy, "tiny", MARKET))


# --- policies that are right ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAYERS)
@pytest.mark.parametrize("market", MARKETS)
def test_every_rule_passes(name: str, market: str) -> None:
    trial = PolicyTrial(name, market, MARKETS[market])
    for check in POLICY_CHECKS:
        check(trial)


@pytest.fixture(scope="module", params=["maskable-ppo", "recurrent-ppo"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The algorithm and the folder of a policy that was trained for a moment."""
    folder = tmp_path_factory.mktemp("learned")
    learn(Plan(MARKET, request.param, timesteps=1, num_markets=2), folder, "cpu").save(folder / "model.zip")
    return {"algo": request.param, "folder": folder}


@pytest.mark.parametrize("name", ["learned:{folder}/checkpoint", "sb3(path='{folder}/model.zip', algo='{algo}')"])
def test_a_learned_policy_passes_in_its_market_and_claims_no_other(name: str, learned: dict[str, object]) -> None:
    policy = name.format(**learned)
    own, other = PolicyTrial(policy, "own", MARKET), PolicyTrial(policy, "other", MARKETS["free"])
    for check in POLICY_CHECKS:
        check(own)
        with pytest.raises(NotClaimed):
            check(other)


def test_the_example_passes() -> None:
    policy = f"file:{EXAMPLES / 'own_policy.py'}"
    for check in POLICY_CHECKS:
        check(PolicyTrial(policy, "personal", MARKETS["three firms"]))
    assert isinstance(PolicyTrial(policy, "auction", MARKETS["eight firms"]).refusal, ValueError)


def test_every_policy_is_tested() -> None:
    assert {*PLAYERS, "learned", "sb3"} == set(POLICIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLAYERS, "paper+history", "patient+thompson", "hold+bounds", "hold+omniscient"])
@pytest.mark.parametrize("market", DEFAULT_SCENARIOS)
def test_every_rule_passes_in_all_variants(name: str, market: str) -> None:
    check_policy(name, market)


# --- policies that are wrong ------------------------------------------------------------------------------------------


class Honest(Policy):
    """Holds and trains in turn, by a count of its steps in each episode."""

    def __init__(self, seat: Seat) -> None:
        self.seat, self.steps = seat, torch.zeros(seat.num_markets, dtype=torch.int64)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        self.steps = self.steps.index_fill(0, rows, 0)

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        self.steps = self.steps + 1
        return self.steps % 2

    def fields(self, observation: Tensor) -> dict[str, Tensor]:
        return self.seat.layout.unpack(observation)


def test_an_honest_policy_passes() -> None:
    assert faults(Honest) == set()


MUTANTS = Mutants()
fails = MUTANTS.fails


@fails("takes-or-refuses-a-seat")
class Rude(Honest):
    def __init__(self, seat: Seat) -> None:
        raise KeyError("no")


@fails("takes-or-refuses-a-seat")
class Mute(Honest):
    def __init__(self, seat: Seat) -> None:
        raise ValueError


@fails("finishes-an-episode")
class Short(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return [super().act(observation, mask)][int(self.steps.max() > 3)]


@fails("finishes-an-episode")
class NoStart(Honest):
    def reset(self, rows: Tensor, keys: Tensor) -> None:
        raise RuntimeError


@fails("acts-in-the-space")
class Narrow(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Any:
        return super().act(observation, mask).int()


@fails("acts-in-the-space")
class Column(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return super().act(observation, mask).unsqueeze(1)


@fails("acts-in-the-space")
class Absent(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Any:
        return None


@fails("acts-in-the-space")
class Outside(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return torch.full((len(mask),), mask.shape[1])


@fails("acts-legally")
class Illegal(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return (~mask).long().argmax(1)


SEATS = count()


@fails("is-deterministic")
class Moody(Honest):
    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self.mood = next(SEATS)

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return (super().act(observation, mask) + self.mood) % 2


def markets_in_sight() -> Iterator[MarketBatch]:
    """The markets that the callers play."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        yield from (value for value in frame.f_locals.values() if isinstance(value, MarketBatch))


@fails("needs-no-market")
class Spy(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        known = [batch.engine.state.balance[:, 1] for batch in markets_in_sight()]
        return torch.zeros(len(mask), dtype=torch.int64) + len(known)


@fails("leaves-the-market-alone")
class Thief(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        for batch in markets_in_sight():
            batch.engine.state.balance[:, 0] += 1
        return super().act(observation, mask)


@fails("plays-each-row-alone")
class Crowd(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return super().act(observation, mask) * int(len(mask) > 1)


@fails("plays-each-row-alone")
class FirstRow(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        return super().act(observation, mask) * (torch.arange(len(mask)) == 0)


@fails("leaves-its-inputs-alone")
class Eraser(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        observation.zero_()
        return super().act(observation, mask)


@fails("leaves-its-inputs-alone")
class Forger(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        mask.fill_(True)
        return super().act(observation, mask)


@fails("leaves-its-inputs-alone")
class KeyEraser(Honest):
    def reset(self, rows: Tensor, keys: Tensor) -> None:
        super().reset(rows, keys)
        keys.zero_()


@fails("leaves-global-randomness-alone")
class Draws(Honest):
    draw: Callable[[], Any] = staticmethod(lambda: torch.rand(1))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        self.draw()
        return super().act(observation, mask)


@fails("leaves-global-randomness-alone")
class DrawsOfNumPy(Draws):
    draw = staticmethod(np.random.rand)


@fails("leaves-global-randomness-alone")
class DrawsOfPython(Draws):
    draw = staticmethod(random.random)


@fails("begins-anew")
class Remembering(Honest):
    def reset(self, rows: Tensor, keys: Tensor) -> None:
        return


@fails("resets-only-the-given-rows")
class Forgetful(Honest):
    def reset(self, rows: Tensor, keys: Tensor) -> None:
        self.steps = torch.zeros_like(self.steps)


@fails("survives-deaths")
class Mourning(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        seen = self.fields(observation)
        assert bool(((seen["alive"] > 0).all(1) | (seen["market_open"][:, 0] == 0)).all())
        return super().act(observation, mask)


@fails("survives-a-closed-market")
class Trader(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        seen = self.fields(observation)
        assert bool(((seen["market_open"] > 0) | (seen["time_left"] == 0)).all())
        return super().act(observation, mask)


@fails("plays-any-observation")
class Modest(Honest):
    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        assert bool((self.fields(observation)["kappa"] < KAPPA_MAX).all())
        return super().act(observation, mask)


@pytest.mark.parametrize(("check", "policy"), MUTANTS, ids=MUTANTS.names)
def test_each_check_finds_the_policy_that_is_wrong_in_its_way_alone(check: str, policy: type[Honest]) -> None:
    assert faults(policy) == {check}


def test_every_check_has_a_mutant_and_a_sentence() -> None:
    MUTANTS.assert_complete(POLICY_CHECKS)


# --- the function and the settings ------------------------------------------------------------------------------------


def test_a_failure_names_check_market_and_what_was_expected_and_came() -> None:
    message = r"^acts-legally \(3 firms\): expected at most 10% illegal actions, got \d+ of 14$"
    with pytest.raises(AssertionError, match=message):
        check_policy(Illegal, MARKET)


def test_an_exception_of_a_policy_is_named() -> None:
    with pytest.raises(
        AssertionError, match=r"^finishes-an-episode \(3 firms\): expected no exception, got IndexError: "
    ):
        check_policy(Short, MARKET)


def test_a_policy_that_claims_nothing_fails_with_its_reason() -> None:
    with pytest.raises(AssertionError, match=r"takes part in at least one of the settings, got fixed.level=99 is not"):
        check_policy("hold+fixed:99", tiny_market())


def test_a_policy_or_a_scenario_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy 'nobody'"):
        check_policy("nobody")
    with pytest.raises(ValueError, match="unknown scenario 'nowhere'"):
        policy_trials("hold", "nowhere")


def test_a_scenario_is_played_as_it_is_and_varied_by_mode_mechanism_disclosure_and_partners() -> None:
    found = variants("crowd-short")
    assert found["crowd-short"] == scenario("crowd-short")
    assert found["crowd-short, action_mode=round, mechanism=personal"] == scenario(
        "crowd-short", action_mode="round", mechanism="personal"
    )
    assert found["crowd-short, partners=2"].broker.partners == 2
    assert len(set(found.values())) == len(found) == 8 + 3 + 1
    assert not any("partners" in name for name in variants("three-firms-short"))
