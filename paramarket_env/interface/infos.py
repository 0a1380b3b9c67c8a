"""The columns of the infos, which add to an agent's observation, and the trades of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.interface.tables import markdown_table
from paramarket_env.market.host import to_host
from paramarket_env.market.orders import COLUMNS, StepRecord, blank_record
from paramarket_env.market.state import MarketState

REFUSED = tuple(f"refused_{cause}" for cause in REFUSALS)
"""The names of the columns that count refused purchases by cause, in infos and tables."""

HAPPENED = ("trained", "offer", "seller", "weight", "quoted", "paid", "received", "gain")
"""The columns of the last step's record that are in the infos."""


@dataclass(frozen=True)
class Moment:
    """The markets after a step, and the record of the step."""

    state: MarketState
    record: StepRecord
    refusals: tuple[Tensor, ...]
    """The state's refusals for each cause, int64 ``[M, N]``. One call makes all of these views."""


@dataclass(frozen=True)
class InfoColumn:
    """One entry of every agent's info."""

    name: str
    dtype: torch.dtype
    """bool, int64 or float64."""
    unit: str
    meaning: str
    read: Callable[[Moment], Tensor]
    """Reads the column, ``[M, N]``."""


def _happened(name: str) -> InfoColumn:
    column = COLUMNS[name]
    dtype = torch.float64 if column.dtype.is_floating_point else column.dtype
    return InfoColumn(
        name, dtype, column.unit, f"in the last step: {column.meaning}", lambda moment: getattr(moment.record, name)
    )


def _refused(name: str, code: int) -> InfoColumn:
    meaning = f"purchases refused so far with the cause {REFUSALS[code]}"
    return InfoColumn(name, torch.int64, "purchases", meaning, lambda moment: moment.refusals[code])


INFOS = (
    InfoColumn("loss", torch.float64, "nats", "own validation loss", lambda moment: moment.state.loss),
    InfoColumn("balance", torch.int64, "ticks", "own balance", lambda moment: moment.state.balance),
    InfoColumn(
        "refused", torch.int64, "purchases", "purchases refused so far", lambda moment: moment.state.refusals.sum(-1)
    ),
    *(_refused(name, code) for code, name in enumerate(REFUSED)),
    *(_happened(name) for name in HAPPENED),
)
"""All entries of an info except ``action_mask``, whose form depends on the client."""


def info_columns(state: MarketState, record: StepRecord | None) -> dict[str, np.ndarray]:
    """The infos of all agents by name, ``[M, N]`` each: new arrays of bool, int64 or float64.

    The names and dtypes are the same after a reset, when there is no record. Some clients require this, because they
    fix the layout of an info when they first receive one.
    """
    moment = Moment(state, record or blank_record(state.balance), state.refusals.unbind(-1))
    arrays: dict[str, np.ndarray] = {}
    # A float64 does not hold every int64, so there is one copy from the device for each of the two.
    for is_float in (True, False):
        columns = [column for column in INFOS if column.dtype.is_floating_point == is_float]
        stacked = to_host(*(column.read(moment) for column in columns))
        arrays |= {column.name: array for column, array in zip(columns, stacked, strict=True)}
    flags = {column.name: arrays[column.name] != 0 for column in INFOS if column.dtype == torch.bool}
    return {column.name: (arrays | flags)[column.name] for column in INFOS}


def info_table() -> str:
    """The entries of an info as a Markdown table."""
    rows = [(f"`{c.name}`", str(c.dtype).removeprefix("torch."), c.unit, c.meaning) for c in INFOS]
    return markdown_table(("name", "dtype", "unit", "meaning"), rows)


def trade_columns(record: StepRecord, set_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The trades of a step as columns, sorted by market and buyer; prices are in ticks, gains in nats."""
    market, buyer = record.bought.nonzero().cpu().unbind(1)

    def pick(column: Tensor) -> np.ndarray:
        return np.asarray(column.cpu()[market, buyer])

    return {
        "market": market.numpy(),
        "buyer": buyer.numpy(),
        "seller": pick(record.seller),
        "parameter_set": np.asarray(set_names, dtype=object)[pick(record.offer) % len(set_names)],
        "merge_weight": pick(record.weight),
        "price": pick(record.paid),
        "quoted_gain": pick(record.quoted),
    }
