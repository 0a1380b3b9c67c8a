"""Clearing turns purchase orders, bids and asks into trades, all at once, on the balances before the step.

A mechanism decides which orders become trades and at which price. The ledger and the merge do not depend on the
mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from paramarket_env.plugins import Registry

REFUSALS = ("closed", "unquoted", "withheld", "unaffordable", "underbid", "outbid")
"""The causes for which a purchase is refused, in the order in which they are checked."""

WITHHELD = -1
"""The ask of a seller that does not sell, in place of a price."""


@dataclass(frozen=True)
class Book:
    """Each agent's purchase order, and the data that decide on it: ``[M, N]`` each, except for ``market_open``."""

    wanted: Tensor
    """int64: the seller to buy from, or -1 without an order."""
    good: Tensor
    """int64: the seller's good to buy. Orders for the same good of a seller compete. Ignored where ``wanted`` is -1."""
    bid: Tensor
    """int64: the most that the buyer pays, in ticks. Ignored by a mechanism without bids."""
    ask: Tensor
    """int64: the seller's ask to this buyer, in ticks, or ``WITHHELD``. Ignored where ``wanted`` is -1."""
    quoted: Tensor
    """bool: whether the broker quoted the offer."""
    balance: Tensor
    """int64: the buyer's balance, in ticks."""
    priority: Tensor
    """int64, distinct within a market. Among equal bids, the lowest number goes first."""
    market_open: Tensor
    """bool ``[M]``: whether purchases clear in this cycle."""


@dataclass(frozen=True)
class Trades:
    """The outcome of each agent's purchase order, int64 ``[M, N]`` each."""

    wanted: Tensor
    """The agent that the order was to buy from, or -1 without an order."""
    seller: Tensor
    """The agent bought from, or -1 where nothing was bought."""
    price: Tensor
    """The price paid, in ticks; 0 where nothing was bought."""
    refusal: Tensor
    """The index of the cause in ``REFUSALS``, or -1 where nothing was refused."""


@runtime_checkable
class Mechanism(Protocol):
    """A plug-in that decides how orders become trades."""

    bids: ClassVar[bool]
    """Whether buyers name a price. Otherwise they take or leave the seller's."""
    personal: ClassVar[bool]
    """Whether a seller has an ask for each buyer. Otherwise it has one for all."""
    sealed: ClassVar[bool]
    """Whether asks are hidden from buyers, who then see only which agents sell."""

    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        """Whether the buyer might have to pay more than its balance, bool. The arguments are ticks and broadcast."""

    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        """Whether the bid is below the ask, bool. The arguments are ticks and broadcast."""

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """Whether other orders take all copies, bool ``[M, N]``.

        ``standing``, bool ``[M, N]``, marks the orders that no other cause refuses.
        """

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """The price of each order if it becomes a trade, in ticks: int64 ``[M, N]``."""


MECHANISMS: Registry[Mechanism] = Registry("mechanism", Mechanism)


def clear(mechanism: Mechanism, book: Book) -> Trades:
    """Turn the orders of a book into trades where both sides' orders allow it, and refuse the others."""
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
