"""Which purchase orders become trades, at which price, and why the others do not: every mechanism."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.clearing import (
    MECHANISMS,
    REFUSALS,
    WITHHELD,
    Book,
    Mechanism,
    Trades,
    clear,
)
from paramarket_env.economics.mechanisms import SecondPrice
from tests import plain

INT64_MAX = 2**63 - 1
FEWER = settings(max_examples=40)
EVERY_MECHANISM = pytest.mark.parametrize("name", MECHANISMS)


def mechanism(name: str = "posted", **fields: Any) -> Mechanism:
    made: Mechanism = MECHANISMS[name](**fields)
    return made


@dataclass(frozen=True)
class Market:
    """A book by hand: one number or flag an agent. ``asks`` has a price for each seller, or of each for each buyer."""

    wanted: list[int]
    asks: list[Any]
    balances: list[int] | None = None
    bids: list[int] | None = None
    goods: list[int] | None = None
    quoted: list[bool] | None = None
    priority: list[int] | None = None
    market_open: bool = True

    def ask(self, buyer: int) -> int:
        """The seller's ask for this buyer."""
        asked = self.asks[self.wanted[buyer]]
        return int(asked[buyer] if isinstance(asked, list) else asked)

    def orders(self) -> list[plain.Order]:
        agents = range(len(self.wanted))
        given = (self.goods, self.bids, self.quoted, self.balances, self.priority)
        defaults = ([0] * len(agents), [0] * len(agents), [True] * len(agents), [100] * len(agents), list(agents))
        good, bid, quoted, balance, priority = (one or other for one, other in zip(given, defaults, strict=True))
        return [
            plain.Order(self.wanted[i], good[i], bid[i], self.ask(i), quoted[i], balance[i], priority[i])
            for i in agents
        ]


def book(markets: list[list[plain.Order]], market_open: list[bool]) -> Book:
    def column(name: str) -> Tensor:
        return torch.tensor([[getattr(order, name) for order in orders] for orders in markets])

    names = ("seller", "good", "bid", "ask", "quoted", "balance", "priority")
    return Book(*(column(name) for name in names), torch.tensor(market_open))


def cleared(how: Mechanism, market: Market) -> Trades:
    return clear(how, book([market.orders()], [market.market_open]))


def causes(trades: Trades) -> list[str | None]:
    return [REFUSALS[code] if code >= 0 else None for code in trades.refusal[0].tolist()]


def outcomes(trades: Trades, market: int = 0) -> list[plain.Outcome]:
    rows = (column[market].tolist() for column in (trades.seller, trades.price, trades.refusal))
    return [
        plain.Outcome(seller, price, REFUSALS[code] if code >= 0 else None)
        for seller, price, code in zip(*rows, strict=True)
    ]


def test_the_order_of_the_causes_is_the_documented_one() -> None:
    assert REFUSALS == ("closed", "unquoted", "withheld", "unaffordable", "underbid", "outbid")


def test_an_unknown_mechanism_is_refused_with_those_that_exist() -> None:
    known = "double-auction, personal, posted, second-price"
    with pytest.raises(ValueError, match=f"unknown mechanism 'barter': choose from {known}"):
        mechanism("barter")


def test_trades_say_what_was_wanted_whether_or_not_it_was_bought() -> None:
    trades = cleared(mechanism(), Market([2, 2, -1], asks=[0, 0, 30], balances=[30, 29, 0]))
    assert trades.wanted.tolist() == [[2, 2, -1]]
    assert trades.seller.tolist() == [[2, -1, -1]]


# --- posted prices --------------------------------------------------------------------------------------------------


def test_a_purchase_clears_at_the_ask_of_its_seller() -> None:
    trades = cleared(mechanism(), Market([2, -1, -1], asks=[1, 2, 30]))
    assert trades.seller.tolist() == [[2, -1, -1]]
    assert trades.price.tolist() == [[30, 0, 0]]
    assert causes(trades) == [None, None, None]


@pytest.mark.parametrize(
    ("market_open", "quoted", "ask", "balance", "cause"),
    [
        (False, True, 5, 9, "closed"),
        (True, False, 5, 9, "unquoted"),
        (True, True, WITHHELD, 9, "withheld"),
        (True, True, 10, 9, "unaffordable"),
        (False, False, WITHHELD, 9, "closed"),
        (False, False, 10, 9, "closed"),
        (False, True, WITHHELD, 0, "closed"),
        (False, True, 10, 9, "closed"),
        (True, False, WITHHELD, 9, "unquoted"),
        (True, False, 10, 9, "unquoted"),
        (True, True, WITHHELD, 0, "withheld"),
    ],
)
@pytest.mark.parametrize("name", ["posted", "personal"])
def test_a_purchase_is_refused_for_the_first_cause_that_holds(
    name: str, market_open: bool, quoted: bool, ask: int, balance: int, cause: str
) -> None:
    trades = cleared(
        mechanism(name), Market([1, -1], [0, ask], [balance, 9], None, None, [quoted, True], None, market_open)
    )
    assert causes(trades) == [cause, None]
    assert trades.seller.tolist() == [[-1, -1]]
    assert trades.price.tolist() == [[0, 0]]


@pytest.mark.parametrize(("ask", "balance"), [(9, 9), (0, 0), (INT64_MAX, INT64_MAX)])
def test_a_price_of_exactly_the_balance_is_affordable(ask: int, balance: int) -> None:
    trades = cleared(mechanism(), Market([1, -1], [0, ask], [balance, 0]))
    assert trades.seller.tolist() == [[1, -1]]
    assert trades.price.tolist() == [[ask, 0]]


@EVERY_MECHANISM
@pytest.mark.parametrize("market_open", [True, False])
def test_who_wants_nothing_is_refused_nothing(name: str, market_open: bool) -> None:
    market = Market([-1, -1], [WITHHELD, 5], [0, 0], [3, 9], None, [False, False], None, market_open)
    trades = cleared(mechanism(name), market)
    assert causes(trades) == [None, None]
    assert trades.seller.tolist() == [[-1, -1]]
    assert trades.price.tolist() == [[0, 0]]


@EVERY_MECHANISM
def test_two_agents_can_buy_from_each_other_at_once(name: str) -> None:
    trades = cleared(
        mechanism(name, **({"k": 1.0} if name == "double-auction" else {})),
        Market([1, 0], asks=[3, 4], balances=[4, 3], bids=[4, 3]),
    )
    assert trades.seller.tolist() == [[1, 0]]
    assert trades.price.tolist() == [[4, 3]]


@pytest.mark.parametrize("name", ["posted", "personal", "double-auction"])
def test_a_seller_can_sell_to_several_at_once(name: str) -> None:
    trades = cleared(mechanism(name), Market([2, 2, -1], asks=[0, 0, 7], balances=[7, 8, 0], bids=[7, 7, 0]))
    assert trades.seller.tolist() == [[2, 2, -1]]
    assert trades.price.tolist() == [[7, 7, 0]]


def test_a_refusal_of_one_buyer_leaves_the_others_purchases() -> None:
    trades = cleared(mechanism(), Market([2, 2, 0], asks=[1, 0, 7], balances=[6, 7, 1]))
    assert trades.seller.tolist() == [[-1, 2, 0]]
    assert causes(trades) == ["unaffordable", None, None]


@EVERY_MECHANISM
def test_markets_clear_each_for_itself(name: str) -> None:
    markets = [Market([1, -1], [0, ask], [5, 5], [5, 0]).orders() for ask in (5, 5, 6)]
    trades = clear(mechanism(name), book(markets, [True, False, True]))
    assert trades.seller.tolist() == [[1, -1], [-1, -1], [-1, -1]]
    refused = "underbid" if name in plain.BIDS else "unaffordable"
    assert trades.refusal.tolist() == [[-1, -1], [0, -1], [REFUSALS.index(refused), -1]]


def test_a_bid_is_of_no_meaning_where_the_mechanism_takes_none() -> None:
    for name in ("posted", "personal"):
        market = Market([1, 0], asks=[3, 4], balances=[4, 3], bids=[0, 999])
        assert cleared(mechanism(name), market).price.tolist() == [[4, 3]]


# --- personal prices ------------------------------------------------------------------------------------------------


def test_each_buyer_pays_the_price_that_is_asked_of_it() -> None:
    asks = [[0, 0, 0], [0, 0, 0], [7, WITHHELD, 0]]
    trades = cleared(mechanism("personal"), Market([2, 2, -1], asks))
    assert outcomes(trades) == [plain.Outcome(2, 7), plain.Outcome(refusal="withheld"), plain.Outcome()]


# --- the double auction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "bid", "ask", "price"),
    [
        (0.0, 20, 10, 10),  # the buyer has it all
        (0.5, 20, 10, 15),  # they share
        (1.0, 20, 10, 20),  # the seller has it all
        (0.5, 21, 10, 15),  # 15.5, rounded down
        (0.25, 13, 10, 10),  # 10.75
        (0.75, 13, 10, 12),  # 12.25
        (0.5, 10, 10, 10),
        (0.5, 1, 0, 0),
    ],
)
def test_a_bid_of_at_least_the_ask_trades_between_the_two(k: float, bid: int, ask: int, price: int) -> None:
    trades = cleared(mechanism("double-auction", k=k), Market([1, -1], [0, ask], [bid, 0], [bid, 0]))
    assert outcomes(trades) == [plain.Outcome(1, price), plain.Outcome()]


@pytest.mark.parametrize(
    ("market_open", "quoted", "ask", "bid", "cause"),
    [
        (True, True, 6, 5, "underbid"),
        (True, True, 6, 10, "unaffordable"),  # although the price, 8, would not be
        (True, True, 11, 10, "unaffordable"),  # before it is looked at whether it is enough
        (True, True, WITHHELD, 10, "withheld"),
        (True, False, 6, 5, "unquoted"),
        (False, False, WITHHELD, 10, "closed"),
    ],
)
@pytest.mark.parametrize("name", plain.BIDS)
def test_a_bid_is_refused_for_the_first_cause_that_holds(
    name: str, market_open: bool, quoted: bool, ask: int, bid: int, cause: str
) -> None:
    market = Market([1, -1], [0, ask], [9, 9], [bid, 0], None, [quoted, True], None, market_open)
    assert outcomes(cleared(mechanism(name), market)) == [plain.Outcome(refusal=cause), plain.Outcome()]


@pytest.mark.parametrize("name", plain.BIDS)
def test_the_whole_balance_can_be_bid(name: str) -> None:
    assert causes(cleared(mechanism(name), Market([1, -1], [0, 9], [9, 0], [9, 0]))) == [None, None]


@given(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(0, 2**49), st.integers(0, 2**49))
def test_prices_of_hundreds_of_trillions_are_exact_to_the_tick(k: float, ask: int, more: int) -> None:
    market = Market([1, -1], [0, ask], [ask + more, 0], [ask + more, 0])
    expected = plain.cleared(mechanism("double-auction", k=k), market.orders())
    assert outcomes(cleared(mechanism("double-auction", k=k), market)) == expected


@given(st.floats(0, 1), st.lists(st.integers(0, INT64_MAX), min_size=2, max_size=2))
def test_no_price_is_below_the_ask_or_above_the_bid_however_large_they_are(k: float, ends: list[int]) -> None:
    ask, bid = sorted(ends)
    market = Market([1, -1], [0, ask], [bid, 0], [bid, 0])
    price = int(cleared(mechanism("double-auction", k=k), market).price[0, 0])
    assert ask <= price <= bid
    assert price - ask == pytest.approx(k * (bid - ask), rel=1e-15, abs=1)


@pytest.mark.parametrize("k", [0.0, 0.5, 1.0])
def test_the_largest_bid_trades_with_an_ask_of_nothing(k: float) -> None:
    market = Market([1, -1], [0, 0], [INT64_MAX, 0], [INT64_MAX, 0])
    price = int(cleared(mechanism("double-auction", k=k), market).price[0, 0])
    assert price == pytest.approx(k * INT64_MAX, rel=1e-15)


# --- the second-price auction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bids", "reserve", "copies", "expected"),
    [
        ([30, 20, 10], 15, 1, [20, "outbid", "underbid"]),  # the second bid
        ([30, 10, 5], 15, 1, [15, "underbid", "underbid"]),  # the reserve
        ([30, 20, 10], 15, 2, [15, 15, "underbid"]),
        ([30, 20, 10], 5, 2, [10, 10, "outbid"]),  # the first bid that lost, for all
        ([10, 30, 20], 0, 2, ["outbid", 10, 10]),
        ([30, 20, 10], 5, 3, [5, 5, 5]),  # nobody lost
        ([30, 20, 10], 5, INT64_MAX, [5, 5, 5]),
        ([20, 20, 20], 5, 1, [20, "outbid", "outbid"]),
        ([0, 0, 0], 0, 2, [0, 0, "outbid"]),
        ([INT64_MAX, INT64_MAX - 1, 0], 0, 1, [INT64_MAX - 1, "outbid", "outbid"]),
    ],
)
def test_the_highest_bids_win_and_pay_the_first_that_lost_or_the_reserve(
    bids: list[int], reserve: int, copies: int, expected: list[int | str]
) -> None:
    market = Market([3, 3, 3, -1], [0, 0, 0, reserve], [INT64_MAX] * 4, [*bids, 0])
    found = outcomes(cleared(mechanism("second-price", copies=copies), market))
    assert [outcome.refusal or outcome.price for outcome in found[:3]] == expected
    assert [outcome.seller for outcome in found[:3]] == [-1 if isinstance(said, str) else 3 for said in expected]


@pytest.mark.parametrize("priority", list(permutations(range(3))))
def test_of_equal_bids_the_lowest_priority_goes_first(priority: tuple[int, ...]) -> None:
    market = Market([3, 3, 3, -1], [0, 0, 0, 1], bids=[8, 8, 8, 0], priority=[*priority, 3])
    trades = cleared(mechanism("second-price", copies=2), market)
    assert [cause == "outbid" for cause in causes(trades)] == [*(place == 2 for place in priority), False]
    assert sorted(trades.price[0, :3].tolist()) == [0, 8, 8]


def test_a_higher_bid_goes_before_a_lower_priority() -> None:
    market = Market([2, 2, -1], [0, 0, 1], bids=[8, 9, 0], priority=[0, 1, 2])
    assert causes(cleared(mechanism("second-price"), market)) == ["outbid", None, None]


def test_goods_and_sellers_are_auctioned_each_for_itself() -> None:
    market = Market([3, 3, 3, 0, 3], [2, 0, 0, 1, 0], bids=[9, 8, 7, 6, 5], goods=[0, 1, 0, 0, 1])
    found = outcomes(cleared(mechanism("second-price"), market))
    assert [outcome.refusal or outcome.price for outcome in found] == [7, 5, "outbid", 2, "outbid"]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"balances": [100, 19, 100]},  # more than it has
        {"bids": [30, 4, 0]},  # less than the reserve
        {"quoted": [True, False, True]},
        {"wanted": [2, -1, -1]},
    ],
)
def test_an_order_that_cannot_stand_raises_nobodys_price(spoilt: dict[str, Any]) -> None:
    fine: dict[str, Any] = {"wanted": [2, 2, -1], "asks": [0, 0, 5], "bids": [30, 20, 0]}
    assert cleared(mechanism("second-price"), Market(**fine)).price.tolist() == [[20, 0, 0]]
    assert cleared(mechanism("second-price"), Market(**fine | spoilt)).price.tolist() == [[5, 0, 0]]


def test_an_order_that_cannot_stand_takes_no_copy() -> None:
    market = Market([2, 2, -1], [0, 0, 5], [29, 20, 0], [30, 20, 0])
    found = outcomes(cleared(mechanism("second-price"), market))
    assert found == [plain.Outcome(refusal="unaffordable"), plain.Outcome(2, 5), plain.Outcome()]


VALUES = (0, 10, 20, 30)


@pytest.mark.parametrize(("bidders", "copies"), [(2, 1), (2, 2), (3, 1), (3, 2)])
def test_no_bid_is_better_than_ones_value_whatever_the_others_bid(bidders: int, copies: int) -> None:
    """Every bid of all, every order of priority, every reserve; then every value and every bidder."""
    orders = list(permutations(range(bidders)))
    cases = list(product(orders, VALUES, *[VALUES] * bidders))
    markets = [
        Market([bidders] * bidders + [-1], [0] * bidders + [reserve], bids=[*bids, 0], priority=[*turns, bidders])
        for turns, reserve, *bids in cases
    ]
    trades = clear(
        mechanism("second-price", copies=copies), book([market.orders() for market in markets], [True] * len(markets))
    )
    shape = (len(orders), len(VALUES), *[len(VALUES)] * bidders, bidders + 1)
    won, price = (column.view(shape) for column in (trades.seller >= 0, trades.price))
    outbid = 0
    for bidder in range(bidders):
        for place, value in enumerate(VALUES):
            profit = torch.where(won, value - price, 0)[..., bidder]
            honest = profit.select(2 + bidder, place).unsqueeze(2 + bidder)
            assert bool((honest >= profit).all())
            assert bool((honest >= 0).all())
            outbid += int((honest > profit).sum())
    assert outbid > 0


# --- every mechanism ------------------------------------------------------------------------------------------------


@st.composite
def markets(draw: st.DrawFn, personal: bool) -> tuple[list[list[plain.Order]], list[bool]]:
    """Three markets of any orders among up to five agents, and which of them are open."""
    agents = draw(st.integers(2, 5))

    def numbers(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=agents, max_size=agents))

    rows = []
    for _ in range(3):
        # Who buys names one of the others: its own number stands for the last.
        wanted = [other if other != agent else -1 for agent, other in enumerate(numbers(-1, agents - 1))]
        columns = [numbers(0, 1), numbers(0, 6), numbers(0, 8)]
        asks: list[Any] = [numbers(-1, 6) for _ in range(agents)] if personal else numbers(-1, 6)
        quoted = [number > 0 for number in numbers(0, 4)]
        goods, bids, balances = columns
        priority = draw(st.permutations(range(agents)))
        rows.append(Market(wanted, asks, balances, bids, goods, quoted, list(priority)).orders())
    return rows, draw(st.lists(st.sampled_from([True, True, True, False]), min_size=3, max_size=3))


def any_mechanism(data: st.DataObject, name: str) -> Mechanism:
    if name == "double-auction":
        return mechanism(name, k=data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])))
    return mechanism(name, copies=data.draw(st.integers(1, 3))) if name == "second-price" else mechanism(name)


@EVERY_MECHANISM
@FEWER
@given(st.data())
def test_clearing_equals_clearing_in_loops(name: str, data: st.DataObject) -> None:
    chosen = any_mechanism(data, name)
    rows, market_open = data.draw(markets(personal=name == "personal"))
    trades = clear(chosen, book(rows, market_open))
    for market, (orders, is_open) in enumerate(zip(rows, market_open, strict=True)):
        assert outcomes(trades, market) == plain.cleared(chosen, orders, is_open)


@EVERY_MECHANISM
@FEWER
@given(st.data())
def test_no_trade_is_one_that_either_sides_order_refuses(name: str, data: st.DataObject) -> None:
    rows, market_open = data.draw(markets(personal=name == "personal"))
    asked = book(rows, market_open)
    trades = clear(any_mechanism(data, name), asked)
    bought = trades.seller >= 0
    assert torch.equal(trades.seller[bought], asked.wanted[bought])
    allowed = asked.quoted & (asked.ask != WITHHELD) & asked.market_open.unsqueeze(1)
    assert bool(allowed[bought].all())
    price = trades.price[bought]
    assert bool(((price >= asked.ask[bought]) & (price <= asked.balance[bought])).all())
    if name in plain.BIDS:
        assert bool((price <= asked.bid[bought]).all())
    # Each order is a trade, or is refused, or wanted nothing.
    assert torch.equal(asked.wanted >= 0, bought | (trades.refusal >= 0))
    assert not bool((bought & (trades.refusal >= 0)).any())
    assert not bool(trades.price[~bought].any())


@FEWER
@given(st.data())
def test_no_more_copies_of_a_good_are_sold_than_there_are_and_all_at_one_price(data: st.DataObject) -> None:
    chosen = any_mechanism(data, "second-price")
    rows, market_open = data.draw(markets(personal=False))
    trades = clear(chosen, book(rows, market_open))
    for market, orders in enumerate(rows):
        prices: dict[tuple[int, int], list[int]] = {}
        for order, outcome in zip(orders, outcomes(trades, market), strict=True):
            if outcome.seller >= 0:
                prices.setdefault((order.seller, order.good), []).append(outcome.price)
        assert isinstance(chosen, SecondPrice)
        assert all(len(paid) <= chosen.copies and len(set(paid)) == 1 for paid in prices.values())
