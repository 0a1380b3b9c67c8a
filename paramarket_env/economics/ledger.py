"""The ledger: integer accounts, so that money is conserved to the tick."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settlement:
    """The effect of payments on the accounts, in ticks."""

    balances: Tensor
    """int64 ``[M, N]``: each agent's balance after all payments."""
    received: Tensor
    """int64 ``[M, N]``: each agent's receipts as a seller, after the fee."""
    fees: Tensor
    """int64 ``[M]``: the broker's receipts."""


def share_of(amounts: Tensor, share: float) -> Tensor:
    """A share within [0, 1] of amounts >= 0, rounded down to whole ticks: int64 like ``amounts``.

    The share is computed in float64. Rounding errors do not take it out of [0, amount], and 0.29 of 100 is 29.
    """
    part = amounts.double() * share * (1 + 2**-52)
    # A float64 keeps 53 of an int64's 63 bits. It can be rounded up, even beyond the largest int64.
    return torch.where(part < amounts.double(), part.floor().long(), amounts)


def receipts(sellers: Tensor, amounts: Tensor) -> Tensor:
    """Each agent's receipts, int64 ``[M, N]``, if agent i of a market pays ``amounts[i]`` to ``sellers[i]``.

    ``amounts`` and ``sellers`` are int64 ``[M, N]``; ``sellers`` is -1 for an agent that buys nothing.
    """
    paid = torch.where(sellers >= 0, amounts, 0)
    return torch.zeros_like(amounts).scatter_add_(1, sellers.clamp_min(0), paid)


def covered(balances: Tensor, sellers: Tensor, payments: Tensor) -> Tensor:
    """Whether each payment of :func:`settle` is within [0, the payer's balance before the step]: bool ``[M, N]``."""
    return (sellers < 0) | ((payments >= 0) & (payments <= balances))


def settle(balances: Tensor, sellers: Tensor, payments: Tensor, fee: float = 0.0) -> Settlement:
    """Make all payments at once: agent i of a market pays ``payments[i]`` to ``sellers[i]``, all int64 ``[M, N]``.

    The broker keeps the share ``fee`` within [0, 1) of each payment, rounded down to whole ticks. All payments must be
    :func:`covered`, which the caller checks before it begins to trade.
    """
    paid = torch.where(sellers >= 0, payments, 0)
    kept = share_of(paid, fee)
    received = receipts(sellers, paid - kept)
    return Settlement(balances - paid + received, received, kept.sum(1))
