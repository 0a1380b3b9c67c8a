"""What an agent sees, as a table of fields from which the space, the vector and the documentation all come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.config import VALUE_HIGH, MarketConfig
from paramarket_env.market.engine import Engine

Vector = TypeVar("Vector", Tensor, np.ndarray)

NATS_HIGH = 10.0
"""Losses and gains are clipped to this many nats in observations (a uniform guess among ten classes loses 2.3)."""


@dataclass(frozen=True)
class Field:
    """One named part of the observation vector."""

    name: str
    size: int
    low: float
    high: float
    unit: str
    meaning: str


class ObservationLayout:
    """The observation vector of one agent: its fields in their order, float32, each within its bounds."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        ends = np.cumsum([field.size for field in fields]).tolist()
        self.slices = {field.name: slice(end - field.size, end) for field, end in zip(fields, ends, strict=True)}
        self.size: int = ends[-1]
        self.low = np.repeat([field.low for field in fields], [field.size for field in fields]).astype(np.float32)
        self.high = np.repeat([field.high for field in fields], [field.size for field in fields]).astype(np.float32)

    def space(self) -> spaces.Box:
        """A new observation space of one agent."""
        return spaces.Box(self.low, self.high, dtype=np.float32)

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """The vectors float32 ``[..., D]`` of every field's values ``[..., size]``, clipped to the bounds."""
        vector = torch.cat([values[field.name].to(torch.float32) for field in self.fields], dim=-1)
        low, high = (torch.from_numpy(bound).to(vector.device) for bound in (self.low, self.high))
        return vector.clamp(low, high)

    def unpack(self, observation: Vector) -> dict[str, Vector]:
        """Views of the fields by name, ``[..., size]`` each, of vectors ``[..., D]``."""
        return {name: observation[..., part] for name, part in self.slices.items()}

    def table(self) -> str:
        """The fields as a Markdown table."""
        rows = ["| field | size | low | high | unit | meaning |", "|---|---|---|---|---|---|"]
        rows += [f"| `{f.name}` | {f.size} | {f.low:g} | {f.high:g} | {f.unit} | {f.meaning} |" for f in self.fields]
        return "\n".join(rows)


def build_layout(config: MarketConfig, offers: int) -> ObservationLayout:
    """The layout of a market in which each buyer has so many offers."""
    others, cycles, economy = config.agents - 1, config.max_cycles, config.economy
    price = max(economy.ask_levels[-1], 1) * economy.tick
    money = max(economy.budget * config.agents, 1) * economy.tick
    nats = NATS_HIGH
    return ObservationLayout(
        (
            Field("time_left", 1, 0, 1, "share", "cycles left in the episode"),
            Field("market_open", 1, 0, 1, "flag", "purchases clear in this step"),
            Field("loss", 1, 0, nats, "nats", "own validation loss"),
            Field("last_gain", 1, -nats, nats, "nats", "fall of the own loss in the last step"),
            Field("balance", 1, 0, money, "reward", "own balance"),
            Field("ask", 1, 0, price, "reward", "own posted price; 0 while withheld"),
            Field("selling", 1, 0, 1, "flag", "own parameters are for sale"),
            Field("value_per_nat", 1, 0, VALUE_HIGH, "reward/nat", "own kappa"),
            Field("since_purchase", 1, 0, 1, "share", "cycles since the own last purchase, or the start"),
            Field("sold", 1, 0, others * cycles, "sales", "own sales so far"),
            Field("sold_now", 1, 0, others, "sales", "own sales in the last step"),
            Field("earned", 1, 0, others * cycles * price, "reward", "own receipts so far"),
            Field("offer_gain", offers, -nats, nats, "nats", "quoted fall of the own loss; 0 where not quoted"),
            Field("offer_price", offers, 0, price, "reward", "the seller's ask; 0 while withheld"),
            Field("offer_legal", offers, 0, 1, "flag", "quoted, for sale and affordable now"),
            Field("trade_price", others, 0, price, "reward", "price at which each other agent last sold"),
            Field("trades_now", others, 0, others, "sales", "sales of each other agent in the last step"),
        )
    )


def observe(engine: Engine, layout: ObservationLayout) -> Tensor:
    """What all agents see now: float32 ``[M, N, D]``.

    Private to each: its loss, balance, kappa and quotes. Public: asks and trades.
    """
    state, config, tick = engine.state, engine.config, engine.config.economy.tick
    sellers = engine.broker.sellers
    gains = engine.gains
    per_market = {
        "time_left": 1 - state.cycle / config.max_cycles,
        "market_open": engine.market_open,
    }
    per_agent = {
        "loss": state.loss,
        "last_gain": state.gain,
        "balance": state.balance * tick,
        "ask": engine.asks.clamp_min(0) * tick,
        "selling": engine.asks >= 0,
        "value_per_nat": engine.values.expand_as(state.loss),
        "since_purchase": state.since_purchase / config.max_cycles,
        "sold": state.sold,
        "sold_now": state.sold_now,
        "earned": state.earned * tick,
    }
    per_offer = {
        "offer_gain": torch.where(gains.isfinite(), gains, 0.0),
        "offer_price": engine.offer_prices.clamp_min(0) * tick,
        "offer_legal": engine.legal_offers,
        "trade_price": state.last_price[:, sellers] * tick,
        "trades_now": state.sold_now[:, sellers],
    }
    values = {name: value[:, None, None].expand(-1, config.agents, 1) for name, value in per_market.items()}
    values |= {name: value.unsqueeze(-1) for name, value in per_agent.items()} | per_offer
    return layout.pack(values)
