"""Clearing: how purchase orders, bids and asks become trades, all at once, on the balances before the step.

A mechanism says which orders become trades and at which price. The ledger and the merge do not know which one ran.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from paramarket_env.plugins import Registry

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


@runtime_checkable
class Mechanism(Protocol):
    """How orders become trades: a plug-in."""

    bids: ClassVar[bool]
    """Buyers name a price; otherwise they take the seller's or leave it."""
    personal: ClassVar[bool]
    """A seller has an ask for each buyer; otherwise one for all."""
    sealed: ClassVar[bool]
    """Buyers do not see the asks, only who sells."""

    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        """bool: more than the buyer has might have to be paid. Ticks of any shapes that broadcast."""

    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        """bool: the bid is below the ask."""

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """bool ``[M, N]``: others take all copies; ``standing`` bool ``[M, N]``: nothing else is against the order."""

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """int64 ``[M, N]``: what each order pays if it becomes a trade."""


MECHANISMS: Registry[Mechanism] = Registry("mechanism", Mechanism)


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
