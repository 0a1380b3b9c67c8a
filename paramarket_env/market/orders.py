"""What agents want and what came of it: the engine's words for one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Orders:
    """What every agent wants in one step, ``[M, N]`` each but ``ask``."""

    train: Tensor
    """bool."""
    offer: Tensor
    """int64: the offer to buy, or -1."""
    bid: Tensor
    """int64: the ask level that is bid for it, where the mechanism takes bids; otherwise of no meaning."""
    ask: Tensor
    """int64 ``[M, N, S]``: the ask level to post (the number of levels withholds), or -1 to leave it."""


def no_orders(num_markets: int, agents: int, ask_slots: int, device: torch.device) -> Orders:
    """The orders of agents who all do nothing."""
    nothing = torch.full((num_markets, agents), -1, device=device)
    asks = nothing.unsqueeze(2).expand(-1, -1, ask_slots)
    return Orders(train=nothing >= 0, offer=nothing, bid=torch.zeros_like(nothing), ask=asks)


@dataclass(frozen=True)
class StepRecord:
    """What happened in one step, ``[M, N]`` each, ``truncated`` ``[M]``."""

    trained: Tensor
    """bool."""
    asked: Tensor
    """bool: posted an ask."""
    offer: Tensor
    """int64: the offer bought, or -1."""
    seller: Tensor
    """int64: the agent bought from, or -1."""
    bid: Tensor
    """int64, ticks: what was bid for it; 0 where nothing was bought, or the mechanism takes no bids."""
    weight: Tensor
    """float32: the merge weight of the purchase, 0 where none."""
    quoted: Tensor
    """float64: the gain that was quoted for the purchase, in nats, 0 where none."""
    paid: Tensor
    """int64, ticks."""
    received: Tensor
    """int64, ticks, the broker's fee taken off."""
    refusal: Tensor
    """int64: index into ``REFUSALS``, or -1."""
    gain: Tensor
    """float64: fall of the validation loss in the step, by purchase and training, in nats."""
    reward: Tensor
    """float64."""
    terminated: Tensor
    """bool: the agent's loss, or a parameter, stopped being finite in this step."""
    truncated: Tensor
    """bool ``[M]``: the episode has reached ``max_cycles``."""
