"""Clearing: how purchase orders, bids and asks become trades, all at once, on the balances before the step.

A mechanism says which orders become trades and at which price. The ledger and the merge do not know which one ran.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paramarket_env.config import EconomyConfig, lookup
from paramarket_env.economics.ledger import share_of

REFUSALS = ("closed", "unquoted", "withheld", "unaffordable", "underbid", "outbid")
"""Why a purchase is refused, in the order in which the causes are looked for."""

WITHHELD = -1
"""The ask, in place of a price, of a seller that does not sell."""


@dataclass(frozen=True)
class Book:
    """Each agent's purchase order, and what it meets: ``[M, N]`` each but ``market_open`` ``[M]``."""

    wanted: Tensor
    """int64: the seller to buy from, or -1."""
    good: Tensor
    """int64: what is wanted of it; orders of one seller and good compete. Of no meaning where ``wanted`` is -1."""
    bid: Tensor
    """int64: the most that the buyer pays, in ticks; of no meaning where the mechanism takes no bids."""
    ask: Tensor
    """int64: what that seller asks of this buyer, in ticks, or ``WITHHELD``; of no meaning where ``wanted`` is -1."""
    quoted: Tensor
    """bool: the broker quoted the offer."""
    balance: Tensor
    """int64: the buyer's, in ticks."""
    priority: Tensor
    """int64, different for all agents of a market: of equal bids the lowest goes first."""
    market_open: Tensor
    """bool ``[M]``."""


@dataclass(frozen=True)
class Trades:
    """What became of each agent's purchase order, int64 ``[M, N]``, one row a market."""

    wanted: Tensor
    """The agent it was to buy from, or -1."""
    seller: Tensor
    """The agent bought from, or -1."""
    price: Tensor
    """Ticks paid; 0 where nothing was bought."""
    refusal: Tensor
    """Index into ``REFUSALS``, or -1 where nothing was refused."""


class Mechanism(Protocol):
    """How orders become trades."""

    bids: bool
    """Buyers name a price; otherwise they take the seller's or leave it."""
    personal: bool
    """A seller has an ask for each buyer; otherwise one for all."""
    sealed: bool
    """Buyers do not see the asks, only who sells."""

    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        """bool: more than the buyer has might have to be paid. Ticks of any shapes that broadcast."""

    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        """bool: the bid is below the ask."""

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """bool ``[M, N]``: others take all copies; ``standing`` bool ``[M, N]``: nothing else is against the order."""

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """int64 ``[M, N]``: what each order pays if it becomes a trade."""


class Posted:
    """The seller posts a price, the buyer takes it or leaves it; of a ``personal`` one, each buyer has its own."""

    bids = sealed = False

    def __init__(self, *, personal: bool) -> None:
        self.personal = personal

    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        """See :meth:`Mechanism.unaffordable`."""
        return ask > balance

    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        """See :meth:`Mechanism.underbid`."""
        return torch.zeros_like(ask, dtype=torch.bool)

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.outbid`."""
        return torch.zeros_like(standing)

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.price`."""
        return book.ask


class Auction:
    """What auctions have in common: a bid is a promise to pay as much, for an ask or a reserve of no more."""

    bids = True
    personal = False

    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        """See :meth:`Mechanism.unaffordable`."""
        return bid > balance

    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        """See :meth:`Mechanism.underbid`."""
        return bid < ask

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.outbid`: where there are copies for all, nobody is."""
        return torch.zeros_like(standing)


class DoubleAuction(Auction):
    """The sealed-bid k-double auction (Chatterjee and Samuelson, *Bargaining under incomplete information*, 1983).

    A bid of at least the ask trades at ask + k (bid - ask), rounded down to whole ticks.
    """

    sealed = True

    def __init__(self, k: float) -> None:
        self.k = k

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.price`."""
        return book.ask + share_of(torch.where(standing, book.bid - book.ask, 0), self.k)


class SecondPrice(Auction):
    """Each good has so many copies; they go to the highest bids of at least the seller's reserve, its ask.

    All winners pay the highest bid that lost, or the reserve (Vickrey 1961). As nobody wants more than one copy, to bid
    one's value is a dominant strategy.
    """

    sealed = False

    def __init__(self, copies: int) -> None:
        self.copies = copies

    def _rivals(self, book: Book, standing: Tensor) -> tuple[Tensor, Tensor]:
        """For each order: which others want the same good, bool ``[M, N, N]``, and how many of them go before it."""

        def pair(column: Tensor) -> tuple[Tensor, Tensor]:
            return column.unsqueeze(2), column.unsqueeze(1)

        (mine, theirs), (my_turn, their_turn) = pair(book.bid), pair(book.priority)
        (seller, their_seller), (good, their_good) = pair(book.wanted), pair(book.good)
        rivals = (seller == their_seller) & (good == their_good) & standing.unsqueeze(1)
        first = (theirs > mine) | ((theirs == mine) & (their_turn < my_turn))
        return rivals, (rivals & first).sum(2)

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.outbid`."""
        return self._rivals(book, standing)[1] >= self.copies

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.price`."""
        rivals, place = self._rivals(book, standing)
        loses = rivals & (place >= self.copies).unsqueeze(1)
        return torch.maximum(book.ask, torch.where(loses, book.bid.unsqueeze(1), 0).amax(2))


def clear(mechanism: Mechanism, book: Book) -> Trades:
    """Turn the orders of a book into trades, each of which both sides' orders allow; the others are refused."""
    wants = book.wanted >= 0
    causes = [
        ~book.market_open.unsqueeze(1).expand_as(wants),
        ~book.quoted,
        book.ask == WITHHELD,
        mechanism.unaffordable(book.bid, book.ask, book.balance),
        mechanism.underbid(book.bid, book.ask),
    ]
    standing = wants & ~torch.stack(causes).any(0)
    causes.append(mechanism.outbid(book, standing))
    refusal = torch.full_like(book.wanted, -1)
    for code in reversed(range(len(REFUSALS))):
        refusal = torch.where(wants & causes[code], code, refusal)
    bought = wants & (refusal < 0)
    price = torch.where(bought, mechanism.price(book, standing), 0)
    return Trades(book.wanted, torch.where(bought, book.wanted, -1), price, refusal)


MECHANISMS: dict[str, Callable[[EconomyConfig], Mechanism]] = {
    "posted": lambda economy: Posted(personal=False),
    "personal": lambda economy: Posted(personal=True),
    "double-auction": lambda economy: DoubleAuction(economy.auction_k),
    "second-price": lambda economy: SecondPrice(economy.copies),
}


def build_mechanism(economy: EconomyConfig) -> Mechanism:
    """The mechanism of a configuration; ``ValueError`` that lists the names for one that does not exist."""
    mechanism: Mechanism = lookup(MECHANISMS, economy.mechanism, "mechanism")(economy)
    return mechanism
