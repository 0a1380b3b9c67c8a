"""The checks of a pricing rule: every rule passes them, and each finds the one that is wrong in its way alone."""

from __future__ import annotations

import runpy
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from paramarket_baselines.checks import PRICING_CHECKS, PricingTrial, check_pricing
from paramarket_baselines.policies.pricing import PRICING, Fields, Memory, PricingRule
from paramarket_env.interface.policy import Seat
from tests.baselines.checks.mutants import Mutants, failed
from tests.helpers import priced_market
from tests.test_examples import EXAMPLES

MARKET = priced_market(max_cycles=7, action_mode="round")


def faults(rule: PricingRule) -> set[str]:
    """The checks that a rule fails in a market."""
    return failed(PRICING_CHECKS, PricingTrial(rule, "tiny", MARKET))


@pytest.mark.parametrize("name", PRICING)
def test_every_rule_passes(name: str) -> None:
    check_pricing(name, MARKET)


def test_the_example_passes() -> None:
    check_pricing(runpy.run_path(str(EXAMPLES / "own_pricing.py"))["pricing"](), MARKET)


class Honest(PricingRule):
    """Asks more with each step and more after each sale, and begins anew from the lowest price."""

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        return {"count": torch.zeros_like(keys)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        return {"count": memory["count"] + 1 + (now["sold_now"] > 0).any(1)}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        slots = seat.actions.choices.ask_slots
        return (memory["count"] % (len(seat.prices) + 1)).unsqueeze(1).expand(-1, slots)


def test_an_honest_rule_passes() -> None:
    assert faults(Honest()) == set()


MUTANTS = Mutants()
fails = MUTANTS.fails


@fails("takes-or-refuses-a-market")
class Rude(Honest):
    def require_playable(self, seat: Seat) -> None:
        raise KeyError("no")


@fails("prices-every-observation")
class Short(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return [super().price(seat, memory, fields)][int(fields["time_left"].min() < 0.5)]


@fails("returns-levels")
class Dear(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return super().price(seat, memory, fields) + 1


@fails("returns-levels")
class Flat(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return super().price(seat, memory, fields)[:, 0]


@fails("returns-levels")
class Fractions(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return super().price(seat, memory, fields).double()


@fails("posts-in-a-period")
class Never(Honest):
    def posting_period(self, seat: Seat) -> int:
        return 0


@fails("keeps-a-memory-of-rows")
class Diary(Honest):
    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        return super().learn(seat, memory, before, now) | {"seen": now["loss"]}


@fails("keeps-a-memory-of-rows")
class Wisdom(Honest):
    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        return super().memory(seat, keys) | {"prior": torch.ones(len(seat.prices) + 7)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        return memory | super().learn(seat, memory, before, now)


@fails("is-deterministic")
class Secretive(Honest):
    def __init__(self) -> None:
        self.calls = count()

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return torch.full_like(super().price(seat, memory, fields), next(self.calls) % 3)


@fails("prices-each-row-alone")
class Average(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return super().price(seat, memory, fields) * int(seat.num_markets > 1)


@fails("leaves-its-inputs-alone")
class InPlace(Honest):
    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        memory["count"] += 1
        return memory


@fails("leaves-its-inputs-alone")
class Eraser(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        fields["ask"].zero_()
        return super().price(seat, memory, fields)


@fails("leaves-global-randomness-alone")
class Draws(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        torch.rand(1)
        return super().price(seat, memory, fields)


@fails("prices-any-observation")
class Poor(Honest):
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        return super().price(seat, memory, fields) + 9 * (fields["kappa"] > 99).long()


@pytest.mark.parametrize(("check", "rule"), MUTANTS, ids=MUTANTS.names)
def test_each_check_finds_the_rule_that_is_wrong_in_its_way_alone(check: str, rule: Any) -> None:
    assert faults(rule()) == {check}


def test_every_check_has_a_mutant_and_a_sentence() -> None:
    MUTANTS.assert_complete(PRICING_CHECKS)


def test_a_failure_names_check_market_and_what_was_expected_and_came() -> None:
    message = r"^returns-levels \(3 firms\): expected levels in the market, got .*, which are not all from 0 to 4"
    with pytest.raises(AssertionError, match=message):
        check_pricing(Dear(), MARKET)
