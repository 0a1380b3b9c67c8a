"""The columns of all infos, which tell an agent more than its observation, and the trades of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.interface.tables import markdown_table
from paramarket_env.market.orders import COLUMNS, StepRecord, blank_record
from paramarket_env.market.state import MarketState

REFUSED = tuple(f"refused_{cause}" for cause in REFUSALS)
"""The columns of refused purchases by cause, wherever they are told."""

HAPPENED = ("trained", "offer", "seller", "weight", "quoted", "paid", "received", "gain")
"""The columns of the last step's record that infos tell."""


@dataclass(frozen=True)
class InfoColumn:
    """One entry of every agent's info."""

    name: str
    dtype: torch.dtype
    """bool, int64 or float64."""
    unit: str
    meaning: str
    read: Callable[[MarketState, StepRecord], Tensor]
    """``[M, N]``, of the state and the record of the step that led to it."""


def _happened(name: str) -> InfoColumn:
    column = COLUMNS[name]
    dtype = torch.float64 if column.dtype.is_floating_point else column.dtype
    return InfoColumn(
        name, dtype, column.unit, f"in the last step: {column.meaning}", lambda _, record: getattr(record, name)
    )


def _refused(name: str, code: int) -> InfoColumn:
    meaning = f"of these, refused as {REFUSALS[code]}"
    return InfoColumn(name, torch.int64, "purchases", meaning, lambda state, _: state.refusals[..., code])


INFOS = (
    InfoColumn("loss", torch.float64, "nats", "own validation loss", lambda state, _: state.loss),
    InfoColumn("balance", torch.int64, "ticks", "own balance", lambda state, _: state.balance),
    InfoColumn(
        "refused", torch.int64, "purchases", "purchases refused so far", lambda state, _: state.refusals.sum(-1)
    ),
    *(_refused(name, code) for code, name in enumerate(REFUSED)),
    *(_happened(name) for name in HAPPENED),
)
"""All entries of an info but the ``action_mask``, which each client takes in its own form."""


def info_columns(state: MarketState, record: StepRecord | None) -> dict[str, Tensor]:
    """The infos of all agents by name, ``[M, N]`` each: bool, int64 or float64.

    The names and types are the same at the reset, when there is no record, as clients expect that fix the layout of an
    info when they first see one.
    """
    happened = record or blank_record(state.balance)
    return {column.name: column.read(state, happened).to(column.dtype) for column in INFOS}


def info_table() -> str:
    """The entries of an info as a Markdown table."""
    rows = [(f"`{c.name}`", str(c.dtype).removeprefix("torch."), c.unit, c.meaning) for c in INFOS]
    return markdown_table(("name", "dtype", "unit", "meaning"), rows)


def trade_columns(record: StepRecord, set_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The trades of a step by column, market by market and buyer by buyer; ``price`` in ticks, gains in nats."""
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
