"""The ledger: integer accounts, so that money is conserved to the tick."""

from __future__ import annotations

import torch
from torch import Tensor


def open_accounts(markets: int, agents: int, budget: int, device: torch.device) -> Tensor:
    """Balances at the start, in ticks: int64 ``[M, N]``."""
    return torch.full((markets, agents), budget, dtype=torch.int64, device=device)


def receipts(sellers: Tensor, payments: Tensor) -> Tensor:
    """What each agent receives, int64 ``[M, N]``, when agent i of a market pays ``payments[i]`` to ``sellers[i]``.

    ``sellers`` int64 ``[M, N]``, -1 for an agent that buys nothing.
    """
    buying = sellers >= 0
    amounts = torch.where(buying, payments, 0)
    return torch.zeros_like(payments).scatter_add_(1, sellers.clamp_min(0), amounts)


def settle(balances: Tensor, sellers: Tensor, payments: Tensor) -> Tensor:
    """The balances after all payments at once (arguments as for :func:`receipts`).

    Raises ``ValueError``, and moves nothing, if a payment is negative or larger than the payer's balance before.
    """
    paid = torch.where(sellers >= 0, payments, 0)
    if bool(((paid < 0) | (paid > balances)).any()):
        raise ValueError("a payment must be within [0, the payer's balance before the step]")
    return balances - paid + receipts(sellers, payments)
