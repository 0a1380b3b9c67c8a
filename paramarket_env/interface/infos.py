"""What an agent is told besides its observation: the columns of all infos."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import StepRecord

NOTHING_HAPPENED: dict[str, tuple[float, torch.dtype]] = {
    "trained": (False, torch.bool),
    "offer": (-1, torch.int64),
    "seller": (-1, torch.int64),
    "weight": (0.0, torch.float64),
    "quoted": (0.0, torch.float64),
    "paid": (0, torch.int64),
    "received": (0, torch.int64),
    "gain": (0.0, torch.float64),
}
"""The part of an info that tells of the step before, as it is at the reset, and its dtype."""


def info_columns(engine: Engine, record: StepRecord | None) -> dict[str, Tensor]:
    """The infos of all agents by name, ``[M, N]`` each: bool, int64 or float64.

    The names and types are the same at the reset, when there is no record, as clients expect that fix the layout of an
    info when they first see one.
    """
    state = engine.state
    columns = {"loss": state.loss, "balance": state.balance, "refused": state.refusals.sum(-1)}
    columns |= {f"refused_{cause}": state.refusals[..., code] for code, cause in enumerate(REFUSALS)}
    for name, (nothing, dtype) in NOTHING_HAPPENED.items():
        happened = torch.full_like(state.balance, nothing) if record is None else getattr(record, name)
        columns[name] = happened.to(dtype)
    return columns
