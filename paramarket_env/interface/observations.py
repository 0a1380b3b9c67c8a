"""What an agent sees, as a table of fields from which the space, the vector and the documentation all come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.economics.kappa import KAPPA_MAX
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


def build_layout(engine: Engine) -> ObservationLayout:
    """The layout of a market: what there is to see follows from its mechanism and its disclosure."""
    return ObservationLayout((*_own_fields(engine), *_offer_fields(engine), *_disclosed_fields(engine)))


def _own_fields(engine: Engine) -> tuple[Field, ...]:
    config, slots, others = engine.config, engine.exchange.ask_slots, engine.config.agents - 1
    price, cycles, money = _highest_price(config), config.max_cycles, max(sum(config.budgets), 1) * config.economy.tick
    whose = " to each other agent" if engine.exchange.mechanism.personal else ""
    return (
        Field("time_left", 1, 0, 1, "share", "cycles left in the episode"),
        Field("market_open", 1, 0, 1, "flag", "purchases clear in this step"),
        Field("loss", 1, 0, NATS_HIGH, "nats", "own validation loss"),
        Field("last_gain", 1, -NATS_HIGH, NATS_HIGH, "nats", "fall of the own loss in the last step"),
        Field("balance", 1, 0, money, "reward", "own balance"),
        Field("ask", slots, 0, price, "reward", f"own price{whose}; 0 while withheld"),
        Field("selling", slots, 0, 1, "flag", f"own parameters are for sale{whose}"),
        Field("kappa", 1, 0, KAPPA_MAX, "reward/nat", "own kappa"),
        Field("since_purchase", 1, 0, 1, "share", "cycles since the own last purchase, or the start"),
        Field("sold", 1, 0, others * cycles, "sales", "own sales so far"),
        Field("sold_now", others, 0, 1, "flag", "each other agent bought from this one in the last step"),
        Field(
            "declined", others, 0, 1, "flag", "each other agent could have, at the ask of the last step, and did not"
        ),
        Field("earned", 1, 0, others * cycles * price, "reward", "own receipts so far"),
    )


def _offer_fields(engine: Engine) -> tuple[Field, ...]:
    offers, sealed = engine.offers, engine.exchange.mechanism.sealed
    gain = Field("offer_gain", offers, -NATS_HIGH, NATS_HIGH, "nats", "quoted fall of the own loss; 0 where not quoted")
    price = Field(
        "offer_price", offers, 0, _highest_price(engine.config), "reward", "the seller's ask; 0 while withheld"
    )
    what = "quoted, for sale, and some bid is affordable now" if sealed else "quoted, for sale and affordable now"
    legal = Field("offer_legal", offers, 0, 1, "flag", what)
    return (gain, legal) if sealed else (gain, price, legal)


def _disclosed_fields(engine: Engine) -> tuple[Field, ...]:
    config, others, offers = engine.config, engine.config.agents - 1, engine.offers
    each, price, nats = "each other agent's", _highest_price(config), NATS_HIGH
    transactions = (
        Field("trade_price", others, 0, price, "reward", "price at which each other agent last sold"),
        Field("trades_now", others, 0, others, "sales", "sales of each other agent in the last step"),
    )
    bounds = (
        Field("gain_low", offers, -nats, nats, "nats", f"{each} gain from each own parameter set is at least this"),
        Field("gain_high", offers, -nats, nats, "nats", f"{each} gain from each own parameter set is at most this"),
    )
    top = KAPPA_MAX * nats
    values = (Field("buyer_value", offers, 0, top, "reward", f"{each} value of each own parameter set"),)
    disclosed = {
        "none": (),
        "transactions": transactions,
        "bounds": transactions + bounds,
        "full": transactions + values,
    }
    return disclosed[config.economy.disclosure]


def _highest_price(config: MarketConfig) -> float:
    return max(config.economy.ask_levels[-1], 1) * config.economy.tick


def observe(engine: Engine, layout: ObservationLayout) -> Tensor:
    """What all agents see now: float32 ``[M, N, D]``.

    Private to each: its loss, balance, kappa and quotes, and who bought from it. Public: asks that are not sealed. The
    rest is as the market discloses it.
    """
    state, agents = engine.state, engine.config.agents
    seen = {
        "time_left": 1 - state.cycle / engine.config.max_cycles,
        "market_open": engine.market_open,
    }
    values = {name: value[:, None, None].expand(-1, agents, 1) for name, value in seen.items()}
    values |= _seen_of_itself(engine) | _seen_of_offers(engine, layout) | _disclosed(engine)
    return layout.pack(values)


def _seen_of_itself(engine: Engine) -> dict[str, Tensor]:
    state, tick, asks = engine.state, engine.config.economy.tick, engine.asks
    single = {
        "loss": state.loss,
        "last_gain": state.gain,
        "balance": state.balance * tick,
        "kappa": state.kappa,
        "since_purchase": state.since_purchase / engine.config.max_cycles,
        "sold": state.sold,
        "earned": state.earned * tick,
    }
    several = {
        "ask": asks.clamp_min(0) * tick,
        "selling": asks >= 0,
        "sold_now": state.sales,
        "declined": state.declined,
    }
    return {name: value.unsqueeze(-1) for name, value in single.items()} | several


def _seen_of_offers(engine: Engine, layout: ObservationLayout) -> dict[str, Tensor]:
    gains = engine.gains
    seen = {
        "offer_gain": torch.where(gains.isfinite(), gains, 0.0),
        "offer_legal": engine.legal_purchases.any(3),
    }
    if "offer_price" in layout.slices:
        seen["offer_price"] = engine.offer_prices.clamp_min(0) * engine.config.economy.tick
    return seen


def _disclosed(engine: Engine) -> dict[str, Tensor]:
    """What the market tells of the other agents: ``_disclosed_fields``."""
    state, economy, broker = engine.state, engine.config.economy, engine.broker
    if economy.disclosure == "none":
        return {}
    disclosed = {
        "trade_price": state.last_price[:, broker.sellers] * economy.tick,
        "trades_now": state.sales.sum(2)[:, broker.sellers],
    }
    gains = engine.gains
    if economy.disclosure == "bounds":
        bounds = torch.where(gains.isfinite().unsqueeze(-1), broker.bounds(state), 0.0)
        low, high = broker.to_sellers(bounds).unbind(-1)
        disclosed |= {"gain_low": low, "gain_high": high}
    if economy.disclosure == "full":
        disclosed["buyer_value"] = broker.to_sellers(engine.values)
    return disclosed
