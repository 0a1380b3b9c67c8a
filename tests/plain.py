"""A plain implementation of clearing: one market, one order at a time, in Python integers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from paramarket_env.economics.clearing import WITHHELD, Mechanism
from paramarket_env.economics.mechanisms import DoubleAuction, SecondPrice

BIDS = ("double-auction", "second-price")
"""The mechanisms that take bids."""


@dataclass(frozen=True)
class Order:
    """The order of one agent, with the ask, balance and priority that decide on it."""

    seller: int
    """-1: no order."""
    good: int
    bid: int
    ask: int
    quoted: bool
    balance: int
    priority: int


@dataclass(frozen=True)
class Outcome:
    """The outcome of an order."""

    seller: int = -1
    price: int = 0
    refusal: str | None = None


def obstacle(mechanism: Mechanism, order: Order, market_open: bool) -> str | None:
    """The reason to refuse an order regardless of the other orders, or None."""
    highest = order.bid if mechanism.bids else order.ask
    if not market_open:
        return "closed"
    if not order.quoted:
        return "unquoted"
    if order.ask == WITHHELD:
        return "withheld"
    if highest > order.balance:
        return "unaffordable"
    return "underbid" if highest < order.ask else None


def auction(orders: list[Order], copies: int) -> dict[Order, Outcome]:
    """Sell all copies of one good at the highest losing bid or the reserve. Ties go to the lowest priority."""
    ranked = sorted(orders, key=lambda order: (-order.bid, order.priority))
    losing_bids = [order.bid for order in ranked[copies:]]
    price = max([ranked[0].ask, *losing_bids])
    won = {order: Outcome(order.seller, price) for order in ranked[:copies]}
    return won | {order: Outcome(refusal="outbid") for order in ranked[copies:]}


def cleared(mechanism: Mechanism, orders: list[Order], market_open: bool = True) -> list[Outcome]:
    """The outcomes of the orders of one market."""
    outcomes: dict[Order, Outcome] = {}
    standing: list[Order] = []
    for order in orders:
        cause = obstacle(mechanism, order, market_open) if order.seller >= 0 else None
        outcomes[order] = Outcome(refusal=cause)
        if order.seller >= 0 and cause is None:
            standing.append(order)
    if isinstance(mechanism, SecondPrice):
        for sold in {(order.seller, order.good) for order in standing}:
            outcomes |= auction([order for order in standing if (order.seller, order.good) == sold], mechanism.copies)
    else:
        outcomes |= {order: Outcome(order.seller, price_of(mechanism, order)) for order in standing}
    return [outcomes[order] for order in orders]


def price_of(mechanism: Mechanism, order: Order) -> int:
    """The price of an order without competing orders."""
    if isinstance(mechanism, DoubleAuction):
        return order.ask + floor(Fraction(str(mechanism.k)) * (order.bid - order.ask))
    return order.ask
