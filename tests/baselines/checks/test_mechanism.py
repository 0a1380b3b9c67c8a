"""The checks of a mechanism: every mechanism passes them, and each finds the one that is wrong in its way alone."""

from __future__ import annotations

import runpy
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from paramarket_baselines.checks import MECHANISM_CHECKS, check_mechanism, mechanism_trials
from paramarket_env.economics.clearing import MECHANISMS, Book, Mechanism
from paramarket_env.economics.ledger import share_of
from paramarket_env.economics.mechanisms import DoubleAuction, Personal, Posted, SecondPrice
from tests.baselines.checks.mutants import Mutants, failed
from tests.test_examples import EXAMPLES


def faults(mechanism: Mechanism) -> set[str]:
    """The checks that a mechanism fails with any number of firms."""
    return failed(MECHANISM_CHECKS, *mechanism_trials(mechanism))


@pytest.mark.parametrize("name", [*MECHANISMS, "double-auction(k=0)", "double-auction(k=1)", "second-price(copies=2)"])
def test_every_mechanism_passes(name: str) -> None:
    check_mechanism(name)


def test_the_example_passes() -> None:
    check_mechanism(runpy.run_path(str(EXAMPLES / "own_mechanism.py"))["mechanism"](copies=2))


MUTANTS = Mutants()
fails = MUTANTS.fails


@fails("clears-every-book")
class Unfinished(Posted):
    def price(self, book: Book, standing: Tensor) -> Tensor:
        raise NotImplementedError


@fails("returns-flags-and-ticks")
class Fractions(Posted):
    def price(self, book: Book, standing: Tensor) -> Tensor:
        return book.ask.double()


@fails("returns-flags-and-ticks")
class OneBid(DoubleAuction):
    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        return super().underbid(bid[-1], ask.squeeze(-1)) if ask.dim() > 2 else super().underbid(bid, ask)


@fails("sells-something")
class Shut(Posted):
    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        return torch.ones_like(standing)


@fails("charges-at-least-the-ask")
class Discount(Personal):
    def price(self, book: Book, standing: Tensor) -> Tensor:
        return (book.ask - 1).clamp_min(0)


@fails("charges-at-most-the-bid")
class Surcharge(DoubleAuction):
    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        return bid >= balance

    def price(self, book: Book, standing: Tensor) -> Tensor:
        return book.bid + 1


@fails("conserves-money")
class Credit(Posted):
    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        return torch.zeros_like(ask > balance)


CALLS = count()


@fails("is-deterministic")
class Lottery(DoubleAuction):
    def price(self, book: Book, standing: Tensor) -> Tensor:
        return book.ask + share_of((book.bid - book.ask).clamp_min(0), next(CALLS) * 0.37 % 1)


@fails("clears-each-market-alone")
class OnePrice(DoubleAuction):
    """All trades of all markets are at their bids if one buyer was ready to pay much more than its seller asks."""

    def price(self, book: Book, standing: Tensor) -> Tensor:
        return book.bid if bool(((book.bid - book.ask)[standing] > 30).any()) else book.ask


@fails("treats-firms-alike")
class FirstComeFirstServed(Posted):
    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        return standing & (standing.cumsum(1) > 1)


@fails("ignores-orders-that-are-refused-anyway")
class Gossip(SecondPrice):
    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        return super().outbid(book, standing) | (book.bid < book.bid.amax(1, keepdim=True))


@fails("leaves-the-book-alone")
class Stamp(Posted):
    def price(self, book: Book, standing: Tensor) -> Tensor:
        price = book.ask.clone()
        book.priority.zero_()
        return price


@fails("leaves-global-randomness-alone")
class Draws(Posted):
    def price(self, book: Book, standing: Tensor) -> Tensor:
        torch.rand(1)
        return book.ask


@pytest.mark.parametrize(("check", "mechanism"), MUTANTS, ids=MUTANTS.names)
def test_each_check_finds_the_mechanism_that_is_wrong_in_its_way_alone(check: str, mechanism: type[Any]) -> None:
    assert faults(mechanism()) == {check}


def test_every_check_has_a_mutant_and_a_sentence() -> None:
    MUTANTS.assert_complete(MECHANISM_CHECKS)


def test_a_failure_names_check_market_and_what_was_expected_and_came() -> None:
    message = r"^charges-at-least-the-ask \(2 firms\): expected a price at least the ask, got \d+ with {'ask': \d+, "
    with pytest.raises(AssertionError, match=message):
        check_mechanism(Discount())
