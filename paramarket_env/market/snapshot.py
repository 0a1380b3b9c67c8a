"""Copies of markets, to restore, branch and save them.

A state holds the networks, the optimizers, the ledger, and the seeds and counters that determine all random numbers. So
a copy continues exactly as the original does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from paramarket_env.market.state import MarketState, tree_map


def snapshot(state: MarketState) -> MarketState:
    """A copy that shares no memory with ``state``."""
    return tree_map(torch.clone, state)


def fork(state: MarketState, markets: Tensor) -> MarketState:
    """The state of the markets with these indices (int64 ``[m]``; an index may occur more than once)."""
    return tree_map(lambda tensor: tensor.index_select(0, markets), state)


def save(state: MarketState, path: str | Path) -> None:
    """Write a state to a file."""
    torch.save(state, path)


def load(path: str | Path, device: torch.device | str = "cpu") -> MarketState:
    """Read a state that :func:`save` wrote. Only load files that you trust: the format is Python's pickle."""
    state: MarketState = torch.load(path, map_location=device, weights_only=False)
    return state
