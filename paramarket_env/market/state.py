"""The complete state of M markets as tensors whose first dimension is ``[M]``, and functions on such trees of tensors.

Random numbers follow from ``seeds`` and the counters, so a market has no other state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from paramarket_env.learning.data.endowments import Partition
from paramarket_env.learning.training import OptimizerState
from paramarket_env.market.meetings import Meetings

Tree = TypeVar("Tree")


@dataclass
class Quotes:
    """The broker's quotes, indexed by buyer, slot of the seller among the buyer's partners, and parameter set."""

    loss: Tensor
    """float64 ``[M, N, k, K]``: validation loss of the merged network; inf where there is no quote."""
    candidate: Tensor
    """int64 ``[M, N, k, K]``: the index of the quoted network among the merger's candidates."""
    permutations: Tensor
    """int16 or int32 (see ``unit_dtype``) ``[M, N, k, H]``: the seller's hidden units in the buyer's order."""
    lines: Tensor
    """float64 ``[M, N, k, K, 4]``: the line between buyer and seller, as ``learning.bounds.LINE`` lists it;
    ``[M, N, k, K, 0]`` if no bounds are disclosed."""


@dataclass
class MarketState:
    """M markets of N agents with k partners each. Shapes are ``[M, N]`` unless stated."""

    seeds: Tensor
    """int64 ``[M]``: the seed of each market's episode."""
    cycle: Tensor
    """int64 ``[M]``: steps taken in the episode."""
    partition: Partition
    start: Tensor
    """float32 ``[M, P]``: the network with which all agents began, if the merger needs it; otherwise ``[M, 0]``."""
    parameters: Tensor
    """float32 ``[M, N, P]``."""
    optimizer: OptimizerState
    passes: Tensor
    """int64: training passes in the episode."""
    balance: Tensor
    """int64, ticks."""
    fees: Tensor
    """int64 ``[M]``: the broker's account, ticks."""
    kappa: Tensor
    """float64: the reward for a nat of gain."""
    ask: Tensor
    """int64 ``[M, N, S]``: index of the posted ask level; the number of levels means withheld. S is 1, or N-1 with
    personal prices."""
    alive: Tensor
    """bool: not terminated."""
    loss: Tensor
    """float64: validation loss, in nats."""
    gain: Tensor
    """float64: fall of the validation loss in the last step, in nats."""
    bought: Tensor
    """int64: purchases in the episode."""
    sold: Tensor
    """int64: sales in the episode."""
    earned: Tensor
    """int64: ticks received in the episode."""
    sales: Tensor
    """bool ``[M, N, k]``: which partners of the last step bought from the agent."""
    declined: Tensor
    """bool ``[M, N, k]``: which partners of the last step could have bought, at the posted ask, but did not."""
    last_price: Tensor
    """int64: ticks, the average price of the agent's last sales in one step; 0 before the first sale."""
    since_purchase: Tensor
    """int64: steps since the agent's last purchase, or since the start of the episode."""
    refusals: Tensor
    """int64 ``[M, N, causes]``: refused purchases in the episode, by cause."""
    meetings: Meetings
    """The partners of each agent in the next step."""
    quotes: Quotes
    changed: Tensor
    """bool: the network or its partners have changed since it was last quoted."""


def tree_map(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """Apply ``function`` to the tensors of trees with equal structure (nested tensors, dicts and dataclasses)."""
    mapped: Tree = _map(function, trees)
    return mapped


def _map(function: Callable[..., Tensor], trees: tuple[Any, ...]) -> Any:
    first = trees[0]
    if isinstance(first, dict):
        return {key: _map(function, tuple(tree[key] for tree in trees)) for key in first}
    if is_dataclass(first):
        names = [field.name for field in fields(first)]
        parts = {name: _map(function, tuple(getattr(tree, name) for tree in trees)) for name in names}
        return replace(first, **parts)  # type: ignore[type-var]  # a state holds instances, not classes
    return function(*trees)


def write_rows(target: Tree, rows: Tensor, source: Tree) -> None:
    """Write the m markets of ``source`` into the rows ``rows`` (int64 ``[m]``) of ``target``, in place."""
    tree_map(lambda old, new: old.index_copy_(0, rows, new), target, source)
