"""Which purchase orders become trades, at which price, and why the others do not."""

from __future__ import annotations

import pytest
import torch

from paramarket_env.economics.clearing import REFUSALS, WITHHELD, Trades, posted_price


def clear(
    wanted: list[int],
    asks: list[int],
    balances: list[int],
    quoted: list[bool] | None = None,
    market_open: bool = True,
) -> Trades:
    """One market, in which all offers are quoted unless said otherwise."""
    quotes = torch.tensor([quoted or [True] * len(wanted)])
    rows = (torch.tensor([numbers]) for numbers in (asks, balances))
    return posted_price(torch.tensor([wanted]), quotes, *rows, torch.tensor([market_open]))


def causes(trades: Trades) -> list[str | None]:
    return [REFUSALS[code] if code >= 0 else None for code in trades.refusal[0].tolist()]


def test_a_purchase_clears_at_the_ask_of_its_seller() -> None:
    trades = clear([2, -1, -1], asks=[1, 2, 30], balances=[100, 100, 100])
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
def test_a_purchase_is_refused_for_the_first_cause_that_holds(
    market_open: bool,
    quoted: bool,
    ask: int,
    balance: int,
    cause: str,
) -> None:
    trades = clear([1, -1], [0, ask], [balance, 9], quoted=[quoted, True], market_open=market_open)
    assert causes(trades) == [cause, None]
    assert trades.seller.tolist() == [[-1, -1]]
    assert trades.price.tolist() == [[0, 0]]


def test_the_order_of_the_causes_is_the_documented_one() -> None:
    assert REFUSALS == ("closed", "unquoted", "withheld", "unaffordable")


@pytest.mark.parametrize(("ask", "balance"), [(9, 9), (0, 0), (2**63 - 1, 2**63 - 1)])
def test_a_price_of_exactly_the_balance_is_affordable(ask: int, balance: int) -> None:
    trades = clear([1, -1], [0, ask], [balance, 0])
    assert trades.seller.tolist() == [[1, -1]]
    assert trades.price.tolist() == [[ask, 0]]


@pytest.mark.parametrize("market_open", [True, False])
def test_who_wants_nothing_is_refused_nothing(market_open: bool) -> None:
    trades = clear([-1, -1], [WITHHELD, 5], [0, 0], quoted=[False, False], market_open=market_open)
    assert causes(trades) == [None, None]
    assert trades.seller.tolist() == [[-1, -1]]


def test_two_agents_can_buy_from_each_other_at_once() -> None:
    trades = clear([1, 0], asks=[3, 4], balances=[4, 3])
    assert trades.seller.tolist() == [[1, 0]]
    assert trades.price.tolist() == [[4, 3]]


def test_a_seller_can_sell_to_several_at_once() -> None:
    trades = clear([2, 2, -1], asks=[0, 0, 7], balances=[7, 8, 0])
    assert trades.seller.tolist() == [[2, 2, -1]]
    assert trades.price.tolist() == [[7, 7, 0]]


def test_a_refusal_of_one_buyer_leaves_the_others_purchases() -> None:
    trades = clear([2, 2, 0], asks=[1, 0, 7], balances=[6, 7, 1])
    assert trades.seller.tolist() == [[-1, 2, 0]]
    assert causes(trades) == ["unaffordable", None, None]


def test_markets_clear_each_for_itself() -> None:
    wanted, asks = torch.tensor([[1, -1]] * 3), torch.tensor([[0, 5], [0, 5], [0, 6]])
    balances, quoted = torch.full((3, 2), 5), torch.ones(3, 2, dtype=torch.bool)
    trades = posted_price(wanted, quoted, asks, balances, torch.tensor([True, False, True]))
    assert trades.seller.tolist() == [[1, -1], [-1, -1], [-1, -1]]
    assert trades.refusal.tolist() == [[-1, -1], [0, -1], [3, -1]]
