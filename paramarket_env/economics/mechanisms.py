"""The mechanisms: posted prices, personal prices, a double auction and a second-price auction."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.economics.clearing import MECHANISMS, Book
from paramarket_env.economics.ledger import share_of
from paramarket_env.validation import Count, configuration


@MECHANISMS.register
@configuration
class Posted:
    """The seller posts one price for all buyers, who take it or leave it."""

    bids: ClassVar[bool] = False
    personal: ClassVar[bool] = False
    sealed: ClassVar[bool] = False

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


@MECHANISMS.register
@configuration
class Personal(Posted):
    """The seller posts a price for each buyer, who takes it or leaves it."""

    personal: ClassVar[bool] = True


@configuration
class Auction:
    """The part that auctions share: a buyer must be able to pay its bid, and a bid below the ask or reserve fails."""

    bids: ClassVar[bool] = True
    personal: ClassVar[bool] = False

    def unaffordable(self, bid: Tensor, ask: Tensor, balance: Tensor) -> Tensor:
        """See :meth:`Mechanism.unaffordable`."""
        return bid > balance

    def underbid(self, bid: Tensor, ask: Tensor) -> Tensor:
        """See :meth:`Mechanism.underbid`."""
        return bid < ask

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.outbid`. Copies are unlimited, so nobody is outbid."""
        return torch.zeros_like(standing)


@MECHANISMS.register
@configuration
class DoubleAuction(Auction):
    """The sealed-bid k-double auction (Chatterjee and Samuelson, *Bargaining under incomplete information*, 1983).

    A bid of at least the ask trades at ask + k (bid - ask), rounded down to whole ticks.
    """

    sealed: ClassVar[bool] = True

    k: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The position of the price between the ask (0) and the bid (1)."""

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.price`."""
        return book.ask + share_of(torch.where(standing, book.bid - book.ask, 0), self.k)


@MECHANISMS.register
@configuration
class SecondPrice(Auction):
    """A limited number of copies goes to the highest bids of at least the seller's reserve, its ask.

    All winners pay the highest losing bid, or the reserve if that is higher (Vickrey 1961). Since no buyer wants more
    than one copy, bidding the true value is a dominant strategy.
    """

    sealed: ClassVar[bool] = False

    copies: Count = 1
    """The number of copies of each good that are for sale in a step."""

    def _rivals(self, book: Book, standing: Tensor) -> tuple[Tensor, Tensor]:
        """Each order's rivals for the same good, bool ``[M, N, N]``, and how many go before it, int64 ``[M, N]``."""

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
