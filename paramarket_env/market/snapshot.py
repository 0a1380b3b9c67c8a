"""Copies of markets, to restore and branch them.

A state holds the networks, the optimizers, the ledger, and the seeds and counters that determine all random numbers. So
a copy continues exactly as the original does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.market.state import MarketState, tree_map


def snapshot(state: MarketState) -> MarketState:
    """A copy that shares no memory with ``state``."""
    return tree_map(torch.clone, state)


def fork(state: MarketState, markets: Tensor) -> MarketState:
    """The state of the markets with these indices (int64 ``[m]``; an index may occur more than once)."""
    return tree_map(lambda tensor: tensor.index_select(0, markets), state)
