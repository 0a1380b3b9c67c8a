"""Observations: a table of fields, from which the space, the vector and the documentation are derived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.config import Disclosure, MarketConfig
from paramarket_env.economics.kappa import KAPPA_MAX
from paramarket_env.interface.tables import markdown_table
from paramarket_env.market.engine import Engine
from paramarket_env.market.host import joined
from paramarket_env.market.view import MarketView

Vector = TypeVar("Vector", Tensor, np.ndarray)

NATS_HIGH = 10.0
"""Observations clip losses and gains to this many nats. A uniform guess among ten classes has a loss of 2.3."""


@dataclass(frozen=True)
class Field:
    """One named part of the observation vector."""

    name: str
    size: int
    low: float
    high: float
    unit: str
    meaning: str


Read = Callable[[MarketView], Tensor]
"""Reads the values of a field, ``[M, N, size]``, from a view of the markets."""


@dataclass(frozen=True)
class Scaled:
    """Reads the values of a field in another unit. The observation has ``scale`` times these values."""

    read: Read
    scale: float


Readings = dict[Field, Read | Scaled]
"""The fields in order, each with the function that reads it. The layout has only the fields, so it can be pickled."""


class ObservationLayout:
    """The layout of an agent's observation vector: its fields in order, float32, each within its bounds."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        ends = np.cumsum([field.size for field in fields]).tolist()
        self.slices = {field.name: slice(end - field.size, end) for field, end in zip(fields, ends, strict=True)}
        self.size: int = ends[-1]
        self.low = np.repeat([field.low for field in fields], [field.size for field in fields]).astype(np.float32)
        self.high = np.repeat([field.high for field in fields], [field.size for field in fields]).astype(np.float32)

    def space(self) -> spaces.Box:
        """A new observation space for one agent."""
        return spaces.Box(self.low, self.high, dtype=np.float32)

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """Concatenate the fields' values, ``[..., size]``, to vectors, float32 ``[..., D]``, clipped to the bounds."""
        return self.clip(joined([values[field.name] for field in self.fields]))

    def clip(self, vector: Tensor) -> Tensor:
        """Values of all fields ``[..., D]`` as observations, float32, clipped to the bounds."""
        return vector.float().clamp_(*_bounds(self, vector.device))

    def unpack(self, observation: Vector) -> dict[str, Vector]:
        """Split vectors, ``[..., D]``, into views of the fields by name, ``[..., size]`` each."""
        return {name: observation[..., part] for name, part in self.slices.items()}

    def table(self) -> str:
        """The fields as a Markdown table."""
        rows = [(f"`{f.name}`", f.size, f"{f.low:g}", f"{f.high:g}", f.unit, f.meaning) for f in self.fields]
        return markdown_table(("field", "size", "low", "high", "unit", "meaning"), rows)


@lru_cache(maxsize=16)
def _bounds(layout: ObservationLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """The lowest and the highest values of an observation, float32 ``[D]``."""
    return torch.from_numpy(layout.low).to(device), torch.from_numpy(layout.high).to(device)


class Observer:
    """Reads the observations of all agents. The fields depend on the market's mechanism, disclosure and tasks.

    An agent's loss, balance, kappa, quotes and buyers are private. Public are asks that are not sealed, and whether an
    agent is alive. The market's disclosure determines the rest. Where tasks differ, an agent also sees its loss at
    chance.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.readings: Readings = _own_fields(engine) | _offer_fields(engine) | _disclosed_fields(engine)
        self.layout = ObservationLayout(tuple(self.readings))
        scale = [read.scale if isinstance(read, Scaled) else 1.0 for read in self.readings.values()]
        self._scale = torch.tensor(scale, dtype=torch.float64, device=engine.device).repeat_interleave(
            torch.tensor([field.size for field in self.readings], device=engine.device)
        )

    def __reduce__(self) -> tuple[type[Observer], tuple[Engine]]:
        """Pickle only the engine, as functions cannot be pickled. A copy builds its readings again."""
        return Observer, (self._engine,)

    def observe(self, view: MarketView) -> Tensor:
        """The observations of all agents in a view, float32 ``[M, N, D]``."""
        values = [(read.read if isinstance(read, Scaled) else read)(view) for read in self.readings.values()]
        return self.layout.clip(joined(values) * self._scale)


def _own_fields(engine: Engine) -> Readings:
    config, slots, partners = engine.config, engine.exchange.ask_slots, engine.config.num_partners
    each, last = _each_partner(config), _each_partner(config, "of the last step")
    cycles, price, in_reward = config.max_cycles, _highest_price(config), config.economy.in_reward
    money, receipts = in_reward(max(sum(config.budgets), 1)), partners * cycles * price
    tick, share = config.economy.tick, 1 / cycles
    recipient = " for each other agent" if engine.exchange.mechanism.personal else ""
    declined = f"{last} could have bought at the ask of the last step, but did not"

    def same_for_all(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1).expand(-1, config.agents, 1)

    # A loss that is low among ten classes can be worse than a guess between two.
    chance: Readings = {
        Field("chance", 1, 0, NATS_HIGH, "nats", "loss of a uniform guess among the classes of the own task"): (
            lambda view: engine.tasks.chance.expand_as(view.state.loss).unsqueeze(2)
        )
    }
    own: Readings = {
        Field("time_left", 1, 0, 1, "share", "cycles left in the episode"): (
            Scaled(lambda view: same_for_all(cycles - view.state.cycle), share)
        ),
        Field("market_open", 1, 0, 1, "flag", "purchases clear in this step"): (
            lambda view: same_for_all(view.market_open)
        ),
        Field("alive", partners, 0, 1, "flag", f"{each} takes part; 0 once its network has failed"): (
            lambda view: view.state.meetings.of_partners(view.state.alive)
        ),
        Field("loss", 1, 0, NATS_HIGH, "nats", "own validation loss"): (lambda view: view.state.loss.unsqueeze(2)),
        Field("last_gain", 1, -NATS_HIGH, NATS_HIGH, "nats", "fall of the own validation loss in the last step"): (
            lambda view: view.state.gain.unsqueeze(2)
        ),
        Field("balance", 1, 0, money, "reward", "own balance"): (
            Scaled(lambda view: view.state.balance.unsqueeze(2), tick)
        ),
        Field("ask", slots, 0, price, "reward", f"own price{recipient}; 0 while withheld"): (
            Scaled(lambda view: view.asks.clamp_min(0), tick)
        ),
        Field("selling", slots, 0, 1, "flag", f"own parameters are for sale{recipient}"): (lambda view: view.asks >= 0),
        Field("kappa", 1, 0, KAPPA_MAX, "reward/nat", "own kappa"): (lambda view: view.state.kappa.unsqueeze(2)),
        Field("since_purchase", 1, 0, 1, "share", "cycles since the last own purchase, or since the start"): (
            Scaled(lambda view: view.state.since_purchase.unsqueeze(2), share)
        ),
        Field("sold", 1, 0, partners * cycles, "sales", "own sales so far"): (
            lambda view: view.state.sold.unsqueeze(2)
        ),
        Field("sold_now", partners, 0, 1, "flag", f"{last} bought own parameters in the last step"): (
            lambda view: view.state.sales
        ),
        Field("declined", partners, 0, 1, "flag", declined): (lambda view: view.state.declined),
        Field("earned", 1, 0, receipts, "reward", "own receipts so far"): (
            Scaled(lambda view: view.state.earned.unsqueeze(2), tick)
        ),
    }
    return own | (chance if engine.tasks.differ else {})


def _offer_fields(engine: Engine) -> Readings:
    offers, sealed = engine.offers, engine.exchange.mechanism.sealed
    highest, price = _highest_price(engine.config), "the seller's ask; 0 while withheld"
    legal = "quoted, for sale, and some bid is affordable" if sealed else "quoted, for sale and affordable"
    gains: Readings = {
        Field("offer_gain", offers, -NATS_HIGH, NATS_HIGH, "nats", "quoted gain; 0 where there is no quote"): (
            lambda view: torch.where(view.quoted, view.gains, 0.0)
        ),
    }
    prices: Readings = {
        Field("offer_price", offers, 0, highest, "reward", price): Scaled(
            lambda view: view.offer_prices.clamp_min(0), engine.config.economy.tick
        )
    }
    legality: Readings = {Field("offer_legal", offers, 0, 1, "flag", legal): lambda view: view.legal_purchases.any(3)}
    return gains | ({} if sealed else prices) | legality


def _disclosed_fields(engine: Engine) -> Readings:
    config, partners, offers = engine.config, engine.config.num_partners, engine.offers
    each, nats = _each_partner(config), NATS_HIGH
    transactions: Readings = {
        Field("trade_price", partners, 0, _highest_price(config), "reward", f"price at which {each} last sold"): (
            Scaled(lambda view: view.state.meetings.of_partners(view.state.last_price), config.economy.tick)
        ),
        Field("trades_now", partners, 0, partners, "sales", f"sales of {each} in the last step"): (
            lambda view: view.state.meetings.of_partners(view.state.sales.sum(2))
        ),
    }
    # A partner that changes in every step is known by its record.
    record: Readings = {
        Field("trades", partners, 0, partners * config.max_cycles, "sales", f"sales of {each} so far"): (
            lambda view: view.state.meetings.of_partners(view.state.sold)
        ),
    }
    bounds: Readings = {
        Field("gain_low", offers, -nats, nats, "nats", f"{each}'s gain from each own parameter set is at least this"): (
            lambda view: view.buyer_bounds[..., 0]
        ),
        Field("gain_high", offers, -nats, nats, "nats", f"{each}'s gain from each own parameter set is at most this"): (
            lambda view: view.buyer_bounds[..., 1]
        ),
    }
    values: Readings = {
        Field("buyer_value", offers, 0, KAPPA_MAX * nats, "reward", f"{each}'s value of each own parameter set"): (
            lambda view: view.broker.to_sellers(view.state, view.values)
        ),
    }
    transactions |= {} if config.broker.partners is None else record
    disclosed: dict[Disclosure, Readings] = {
        "none": {},
        "transactions": transactions,
        "bounds": transactions | bounds,
        "full": transactions | values,
    }
    return disclosed[config.economy.disclosure]


def _each_partner(config: MarketConfig, of: str = "of this step") -> str:
    """The words for the agents in the slots: all others, or the partners of a step."""
    return "each other agent" if config.broker.partners is None else f"each partner {of}"


def _highest_price(config: MarketConfig) -> float:
    return config.economy.in_reward(max(config.economy.ask_levels[-1], 1))
