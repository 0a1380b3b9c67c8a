"""The orders of one step, and the record of its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, get_type_hints

import torch
from torch import Tensor


@dataclass(frozen=True)
class Orders:
    """The orders of all agents in one step. Each field but ``ask`` is ``[M, N]``."""

    train: Tensor
    """bool: take a training pass."""
    offer: Tensor
    """int64: the offer to buy, or -1 to buy nothing."""
    bid: Tensor
    """int64: the ask level to bid for the offer; ignored if the mechanism takes no bids."""
    ask: Tensor
    """int64 ``[M, N, S]``: the ask level to post (the number of levels withholds), or -1 to keep the current one."""


def no_orders(num_markets: int, agents: int, ask_slots: int, device: torch.device) -> Orders:
    """The orders of agents that do nothing."""
    nothing = torch.full((num_markets, agents), -1, device=device)
    asks = nothing.unsqueeze(2).expand(-1, -1, ask_slots)
    return Orders(train=nothing >= 0, offer=nothing, bid=torch.zeros_like(nothing), ask=asks)


@dataclass(frozen=True)
class Column:
    """The description of a column ``[M, N]`` of a step's record, for infos, tables and their documentation."""

    dtype: torch.dtype
    nothing: float
    """The value for an agent to which nothing happened."""
    unit: str
    meaning: str


@dataclass(frozen=True)
class StepRecord:
    """The record of one step: columns ``[M, N]``, and ``truncated`` ``[M]``."""

    trained: Annotated[Tensor, Column(torch.bool, False, "flag", "took a training pass")]
    asked: Annotated[Tensor, Column(torch.bool, False, "flag", "posted an ask")]
    offer: Annotated[Tensor, Column(torch.int64, -1, "offer", "the offer bought, or -1")]
    seller: Annotated[Tensor, Column(torch.int64, -1, "agent", "the agent bought from, or -1")]
    bid: Annotated[Tensor, Column(torch.int64, 0, "ticks", "the bid of the purchase; 0 if the mechanism takes no bids")]
    weight: Annotated[Tensor, Column(torch.float32, 0, "share", "the merge weight of the purchase")]
    quoted: Annotated[Tensor, Column(torch.float64, 0, "nats", "the quoted gain of the purchase")]
    paid: Annotated[Tensor, Column(torch.int64, 0, "ticks", "the price paid")]
    received: Annotated[Tensor, Column(torch.int64, 0, "ticks", "receipts from sales, less the broker's fee")]
    refusal: Annotated[Tensor, Column(torch.int64, -1, "cause", "index into ``REFUSALS``, or -1")]
    gain: Annotated[Tensor, Column(torch.float64, 0, "nats", "fall of the validation loss, from purchase and training")]
    reward: Annotated[Tensor, Column(torch.float64, 0, "reward", "the step's reward")]
    terminated: Annotated[Tensor, Column(torch.bool, False, "flag", "the network has failed")]
    truncated: Tensor
    """bool ``[M]``: the episode has reached ``max_cycles``."""

    @property
    def bought(self) -> Tensor:
        """bool ``[M, N]``: the agent bought an offer."""
        return self.seller >= 0

    @property
    def refused(self) -> Tensor:
        """bool ``[M, N]``: the agent's purchase was refused."""
        return self.refusal >= 0


COLUMNS: dict[str, Column] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(StepRecord, include_extras=True).items()
    if name != "truncated"
}
"""The columns of a step's record, by name."""


PURCHASE = ("offer", "seller", "bid", "weight", "quoted", "paid", "received", "refusal")
"""The columns of a step's record that tell of purchases and sales."""


def blank_record(like: Tensor) -> StepRecord:
    """The record of a step in which nothing happened. ``like``, ``[M, N]``, gives the shape and the device."""
    columns = {name: torch.full_like(like, column.nothing, dtype=column.dtype) for name, column in COLUMNS.items()}
    return StepRecord(**columns, truncated=torch.zeros_like(like[:, 0], dtype=torch.bool))
