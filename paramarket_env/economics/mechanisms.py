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

    def _ranked(self, book: Book, standing: Tensor) -> tuple[Tensor, Tensor]:
        """Each standing order's place among the orders for the same good, and the highest losing bid for it.

        Both are int64 ``[M, N]``. The place counts the orders that go before it. The bid is 0 if all orders win.
        """
        good = torch.where(standing, book.wanted * (book.good.max() + 1) + book.good, -1)
        order = book.priority.argsort(dim=1)
        for key, descending in ((book.bid, True), (good, False)):
            order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=descending, stable=True))
        goods, bids = good.gather(1, order), book.bid.gather(1, order)
        first = torch.searchsorted(goods, goods)
        agents = goods.shape[1]
        loser = first + min(self.copies, agents)
        inside = loser.clamp_max(agents - 1)
        loses = (inside == loser) & (goods.gather(1, inside) == goods)
        place = torch.arange(agents, device=goods.device) - first
        losing = torch.where(loses, bids.gather(1, inside), 0)
        return torch.empty_like(order).scatter_(1, order, place), torch.empty_like(bids).scatter_(1, order, losing)

    def outbid(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.outbid`."""
        return self._ranked(book, standing)[0] >= self.copies

    def price(self, book: Book, standing: Tensor) -> Tensor:
        """See :meth:`Mechanism.price`."""
        return torch.maximum(book.ask, self._ranked(book, standing)[1])
