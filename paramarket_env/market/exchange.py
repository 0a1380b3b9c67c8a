"""The exchange, which matches orders with asks, settles the trades, and records the public information about them."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import REFUSALS, WITHHELD, Book, Trades, clear
from paramarket_env.economics.ledger import receipts, settle
from paramarket_env.market.broker import Broker
from paramarket_env.market.meetings import Meetings
from paramarket_env.market.orders import Orders
from paramarket_env.market.state import MarketState
from paramarket_env.seeding import bits, stream


class Exchange:
    """Passes the orders of M markets to the mechanism, and the resulting trades to the ledger."""

    def __init__(self, config: MarketConfig, broker: Broker, device: torch.device) -> None:
        self.config, self.broker = config, broker
        self.mechanism = config.economy.mechanism
        self.ask_slots = config.agents - 1 if self.mechanism.personal else 1
        """S: the number of asks of a seller."""
        self.bid_levels = len(config.economy.ask_levels) if self.mechanism.bids else 1
        """The number of bids that a buyer can make for an offer: 1 where the mechanism takes no bids."""
        self._prices = torch.tensor([*config.economy.ask_levels, WITHHELD], device=device)
        self._causes = torch.arange(len(REFUSALS), device=device)

    def asks(self, state: MarketState) -> Tensor:
        """Posted prices in ticks, int64 ``[M, N, S]``; ``WITHHELD`` where the seller withholds."""
        return self._prices[state.ask]

    def offer_prices(self, meetings: Meetings, asks: Tensor) -> Tensor:
        """The seller's ask for each offer in ticks, int64 ``[M, N, offers]``, from ``asks``, int64 ``[M, N, S]``."""
        prices = meetings.mirrored(asks) if self.mechanism.personal else meetings.of_partners(asks.squeeze(2))
        return prices.unsqueeze(3).expand(*prices.shape, len(self.broker.goods.names)).flatten(2)

    def legal_purchases(self, offer_prices: Tensor, balance: Tensor, quoted: Tensor) -> Tensor:
        """bool ``[M, N, offers, bids]``: the purchases that would clear, as far as the buyer can know.

        ``offer_prices`` int64 and ``quoted`` bool ``[M, N, offers]``, ``balance`` int64 ``[M, N]``.
        """
        asks, balance = offer_prices.unsqueeze(3), balance.view(*balance.shape, 1, 1)
        bids = self._prices[: self.bid_levels]
        refused = (asks == WITHHELD) | self.mechanism.unaffordable(bids, asks, balance)
        if self.mechanism.bids and not self.mechanism.sealed:
            refused = refused | self.mechanism.underbid(bids, asks)
        return ~refused & quoted.unsqueeze(3)

    def bids(self, orders: Orders) -> Tensor:
        """The bid of each agent in ticks, int64 ``[M, N]``; 0 where the mechanism takes no bids."""
        return self._prices[orders.bid] if self.mechanism.bids else torch.zeros_like(orders.bid)

    def clear(self, state: MarketState, orders: Orders, gains: Tensor, market_open: Tensor) -> Trades:
        """The trades that the orders of living agents lead to, given the quoted ``gains``. The state stays the same."""
        offer = torch.where(state.alive, orders.offer, -1)
        place = offer.clamp_min(0).unsqueeze(2)
        draws = bits(stream(state.seeds, "priority", state.cycle), self.config.agents)
        book = Book(
            wanted=self.broker.seller_of(state, offer),
            good=offer % len(self.broker.goods.names),
            bid=self.bids(orders),
            ask=self.offer_prices(state.meetings, self.asks(state)).gather(2, place).squeeze(2),
            quoted=gains.gather(2, place).squeeze(2).isfinite(),
            balance=state.balance,
            priority=draws.argsort(dim=1),
            market_open=market_open,
        )
        return clear(self.mechanism, book)

    @staticmethod
    def _by_seller(meetings: Meetings, chosen: Tensor) -> Tensor:
        """The partners that chose each agent, bool ``[M, N, k]``; ``chosen``, int64 ``[M, N]``, is a partner or -1."""
        return meetings.mirrored(meetings.partners == chosen.unsqueeze(2))

    def settle(self, state: MarketState, trades: Trades, market_open: Tensor) -> Tensor:
        """Pay for the trades and record them and the refusals.

        Returns the receipts of each agent in ticks, int64 ``[M, N]``. All payments must be covered.
        """
        meetings, bought = state.meetings, trades.seller >= 0
        state.refusals += trades.refusal.unsqueeze(2) == self._causes
        done = settle(state.balance, trades.seller, trades.price, self.config.economy.broker_fee)
        state.balance, state.fees = done.balances, state.fees + done.fees
        state.sales = self._by_seller(meetings, trades.seller)
        # A buyer that was outbid would have paid the ask, so it did not decline.
        outbid = torch.where(trades.refusal == REFUSALS.index("outbid"), trades.wanted, -1)
        state.declined = self._could_buy(state, market_open) & ~state.sales & ~self._by_seller(meetings, outbid)
        sold = state.sales.sum(2)
        average = receipts(trades.seller, trades.price) // sold.clamp_min(1)
        state.last_price = torch.where(sold > 0, average, state.last_price)
        state.sold += sold
        state.earned += done.received
        state.bought += bought
        state.since_purchase = torch.where(bought, 0, state.since_purchase + 1)
        return done.received

    def settle_nothing(self, state: MarketState, market_open: Tensor) -> None:
        """Record a step in which nobody orders a purchase: the same as :meth:`settle` without trades."""
        state.sales = torch.zeros_like(state.sales)
        state.declined = self._could_buy(state, market_open)
        state.since_purchase = state.since_purchase + 1

    def _could_buy(self, state: MarketState, market_open: Tensor) -> Tensor:
        """The partners that could have bought at each agent's ask, bool ``[M, N, k]``."""
        selling = state.ask != len(self.config.economy.ask_levels)
        return selling & state.meetings.of_partners(state.alive) & market_open.view(-1, 1, 1)
