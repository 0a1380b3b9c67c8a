"""A view of the current state of M markets, which computes each quantity once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.market.broker import Broker
from paramarket_env.market.exchange import Exchange
from paramarket_env.market.state import MarketState


@dataclass(frozen=True)
class MarketView:
    """The markets between two steps. Each quantity is computed when it is first read, and then cached.

    A step, a reset or any other change of the state makes a view stale. Take a new view from ``Engine.view``.
    """

    config: MarketConfig
    broker: Broker
    exchange: Exchange
    state: MarketState

    @cached_property
    def market_open(self) -> Tensor:
        """bool ``[M]``: purchases clear in the next step."""
        broker, cycle = self.config.broker, self.state.cycle
        opens = cycle < self.config.max_cycles
        if broker.opens_at > 0:
            opens &= cycle >= broker.opens_at
        if broker.trade_every > 1:
            opens &= (cycle - broker.opens_at) % broker.trade_every == 0
        return opens

    @cached_property
    def asks(self) -> Tensor:
        """Posted prices in ticks, int64 ``[M, N, S]``; ``WITHHELD`` where the seller withholds."""
        return self.exchange.asks(self.state)

    @cached_property
    def offer_prices(self) -> Tensor:
        """The seller's ask for each offer in ticks, int64 ``[M, N, offers]``, or ``WITHHELD``."""
        return self.exchange.offer_prices(self.state.meetings, self.asks)

    @cached_property
    def gains(self) -> Tensor:
        """Quoted gains in nats, float64 ``[M, N, offers]``; -inf where there is no quote or the market is closed."""
        return torch.where(self.market_open.view(-1, 1, 1), self.broker.gains(self.state), -torch.inf)

    @cached_property
    def quoted(self) -> Tensor:
        """bool ``[M, N, offers]``: the offer has a quote, and the market is open."""
        return self.gains > -torch.inf

    @cached_property
    def values(self) -> Tensor:
        """The value of each offer to its buyer in units of reward, kappa times the gain, float64 ``[M, N, offers]``.

        -inf where there is no quote or the market is closed.
        """
        return torch.where(self.quoted, self.gains * self.state.kappa.unsqueeze(2), -torch.inf)

    @cached_property
    def legal_purchases(self) -> Tensor:
        """bool ``[M, N, offers, bids]``: the purchase would clear in the next step, as far as the buyer can know."""
        return self.exchange.legal_purchases(self.offer_prices, self.state.balance, self.quoted)

    @cached_property
    def buyer_bounds(self) -> Tensor:
        """Lower and upper bounds on the gains of a seller's buyers, in nats: float64 ``[M, N, offers, 2]``.

        The rows are sellers, and the offers are ordered by buyer and parameter set. 0 where there is no quote.
        """
        bounds = torch.where(self.quoted.unsqueeze(-1), self.broker.bounds(self.state), 0.0)
        return self.broker.to_sellers(self.state, bounds)
