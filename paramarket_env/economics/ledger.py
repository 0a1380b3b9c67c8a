"""The ledger: integer accounts, so that money is conserved to the tick."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settlement:
    """What payments do to the accounts, in ticks."""

    balances: Tensor
    """int64 ``[M, N]``: after all payments at once."""
    received: Tensor
    """int64 ``[M, N]``: what each agent got as a seller, the fee taken off."""
    fees: Tensor
    """int64 ``[M]``: what the broker got."""


def share_of(amounts: Tensor, share: float) -> Tensor:
    """A share within [0, 1] of amounts >= 0, rounded down to whole ticks: int64 like ``amounts``.

    What float64 makes of it stays within [0, amount], and 0.29 of 100 is 29.
    """
    part = amounts.double() * share * (1 + 2**-52)
    # A float64 has 53 bits of an int64's 63: it may round up, even to more than an int64 holds.
    return torch.where(part < amounts.double(), part.floor().long(), amounts)


def receipts(sellers: Tensor, amounts: Tensor) -> Tensor:
    """What each agent receives, int64 ``[M, N]``, when agent i of a market pays ``amounts[i]`` to ``sellers[i]``.

    ``sellers`` int64 ``[M, N]``, -1 for an agent that buys nothing.
    """
    paid = torch.where(sellers >= 0, amounts, 0)
    return torch.zeros_like(amounts).scatter_add_(1, sellers.clamp_min(0), paid)


def settle(balances: Tensor, sellers: Tensor, payments: Tensor, fee: float = 0.0) -> Settlement:
    """Make all payments at once: agent i of a market pays ``payments[i]`` to ``sellers[i]``, all int64 ``[M, N]``.

    Of each payment the broker keeps the share ``fee`` within [0, 1), rounded down to whole ticks. Raises
    ``ValueError``, and moves nothing, if a payment is negative or larger than the payer's balance before.
    """
    paid = torch.where(sellers >= 0, payments, 0)
    if bool(((paid < 0) | (paid > balances)).any()):
        raise ValueError("a payment must be within [0, the payer's balance before the step]")
    kept = share_of(paid, fee)
    received = receipts(sellers, paid - kept)
    return Settlement(balances - paid + received, received, kept.sum(1))
