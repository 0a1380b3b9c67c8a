"""Clearing: how purchase orders and asks become trades. All orders clear at once, on the balances before the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

REFUSALS = ("closed", "unquoted", "withheld", "unaffordable")
"""Why a purchase is refused, in the order in which the causes are looked for."""

WITHHELD = -1
"""The ask, in place of a price, of a seller that does not sell."""


@dataclass(frozen=True)
class Trades:
    """What became of each agent's purchase order, int64 ``[M, N]``, one row a market."""

    seller: Tensor
    """The agent bought from, or -1."""
    price: Tensor
    """Ticks paid; 0 where nothing was bought."""
    refusal: Tensor
    """Index into ``REFUSALS``, or -1 where nothing was refused."""


def posted_price(wanted: Tensor, quoted: Tensor, asks: Tensor, balances: Tensor, market_open: Tensor) -> Trades:
    """Each buyer takes its offer at the price that the seller posted, or is refused.

    ``wanted`` int64 ``[M, N]``, the seller that each agent wants to buy from, or -1; ``quoted`` bool ``[M, N]``,
    whether the broker quoted that offer; ``asks`` int64 ``[M, N]`` in ticks or ``WITHHELD``; ``balances`` int64
    ``[M, N]``; ``market_open`` bool ``[M]``.
    """
    ask = asks.gather(1, wanted.clamp_min(0))
    causes = (~market_open.unsqueeze(1).expand_as(quoted), ~quoted, ask == WITHHELD, ask > balances)
    refusal = torch.full_like(wanted, -1)
    for code in reversed(range(len(REFUSALS))):
        refusal = torch.where((wanted >= 0) & causes[code], code, refusal)
    bought = (wanted >= 0) & (refusal < 0)
    return Trades(torch.where(bought, wanted, -1), torch.where(bought, ask, 0), refusal)
