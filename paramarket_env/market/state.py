"""The whole state of M markets as tensors that lead with ``[M]``, and how such trees are mapped, picked and written.

Random numbers follow from ``seeds`` and the counters, so there is nothing to a market beyond what is here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from paramarket_env.learning.data.endowments import Partition
from paramarket_env.learning.training import OptimizerState

Tree = TypeVar("Tree")


@dataclass
class Quotes:
    """The broker's word on every offer: for buyer i, seller slot s (the other agents in order), parameter set k."""

    loss: Tensor
    """float64 ``[M, N, N-1, K]``: validation loss of the merged network; inf where nothing is quoted."""
    weight: Tensor
    """float32 ``[M, N, N-1, K]``: the merge weight that gave it."""
    permutations: Tensor
    """int64 ``[M, N, N-1, H]``: the seller's hidden units in the buyer's order."""
    lines: Tensor
    """float64 ``[M, N, N-1, K, 4]``: derivative, length and curvatures of the line between buyer and seller (see
    ``learning.bounds``); ``[M, N, N-1, K, 0]`` where no bounds are disclosed."""


@dataclass
class MarketState:
    """M markets of N agents. ``[M, N]`` unless said otherwise."""

    seeds: Tensor
    """int64 ``[M]``: the seed of each market's episode."""
    cycle: Tensor
    """int64 ``[M]``: steps taken in the episode."""
    partition: Partition
    parameters: Tensor
    """float32 ``[M, N, P]``."""
    optimizer: OptimizerState
    passes: Tensor
    """int64: training passes taken."""
    balance: Tensor
    """int64, ticks."""
    fees: Tensor
    """int64 ``[M]``: the broker's account, ticks."""
    kappa: Tensor
    """float64: what a nat of validation loss is worth to the agent."""
    ask: Tensor
    """int64 ``[M, N, S]``: index of the posted ask level; the number of levels: withheld. S is 1, or N-1 if each of the
    other agents has its own."""
    alive: Tensor
    """bool: not terminated."""
    loss: Tensor
    """float64: validation loss, in nats."""
    gain: Tensor
    """float64: fall of the validation loss in the last step."""
    bought: Tensor
    """int64: purchases in the episode."""
    sold: Tensor
    """int64: sales in the episode."""
    earned: Tensor
    """int64: ticks received in the episode."""
    sales: Tensor
    """bool ``[M, N, N-1]``: which of the other agents bought from the agent in the last step."""
    declined: Tensor
    """bool ``[M, N, N-1]``: which of them could have in an open market, at the agent's ask, and did not."""
    last_price: Tensor
    """int64: ticks that the agent's parameters last sold at, on average over its buyers; 0 before the first sale."""
    since_purchase: Tensor
    """int64: steps since the agent's last purchase, or since the start."""
    refusals: Tensor
    """int64 ``[M, N, causes]``: refused purchases in the episode, by cause."""
    quotes: Quotes
    changed: Tensor
    """bool: the network is another than when it was last quoted."""


def tree_map(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """The tree (tensor, dict or dataclass, nested) of ``function`` applied to the tensors of equal trees."""
    mapped: Tree = _map(function, trees)
    return mapped


def _map(function: Callable[..., Tensor], trees: tuple[Any, ...]) -> Any:
    first = trees[0]
    if isinstance(first, dict):
        return {key: _map(function, tuple(tree[key] for tree in trees)) for key in first}
    if is_dataclass(first):
        names = [field.name for field in fields(first)]
        parts = {name: _map(function, tuple(getattr(tree, name) for tree in trees)) for name in names}
        return replace(first, **parts)  # type: ignore[type-var]  # an instance, as all that stands in a state
    return function(*trees)


def write_rows(target: Tree, rows: Tensor, source: Tree) -> None:
    """Replace the markets ``rows`` (int64 ``[m]``) of ``target`` by those of ``source``, in place."""
    tree_map(lambda old, new: old.index_copy_(0, rows, new), target, source)


def nbytes(tree: object) -> int:
    """Bytes of all tensors of a tree."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    tree_map(count, tree)
    return total
