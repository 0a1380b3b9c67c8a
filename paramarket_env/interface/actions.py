"""Two encodings of the same orders as actions, with their masks. The engine knows only orders.

Both number the ask levels alike: the prices in their order, then one more that withholds.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.config import ActionMode
from paramarket_env.market.engine import Orders

MaskStyle = Literal["tuple", "flat"]


class Actions(Protocol):
    """One encoding. ``[...]`` is any batch shape: ``[M, N]`` for markets, ``[B]`` for one seat of B markets."""

    offers: int
    """How many offers a buyer chooses from."""
    levels: int
    """How many ask levels, the one that withholds included."""
    choices: tuple[int, ...]
    """How many choices each part of an action has, of which the first does nothing."""
    mask_size: int
    """A, the length of a flat mask."""

    def space(self) -> spaces.Space[Any]:
        """A new action space of one agent."""

    def decode(self, actions: Tensor) -> Orders:
        """The orders of actions, int64 ``[...]`` (``verb``) or ``[..., 3]`` (``round``).

        Raises ``ValueError`` for an action outside the space.
        """

    def encode(self, orders: Orders) -> Tensor:
        """The actions that say these orders, as far as the encoding can say them at once."""

    def best(self, scores: Tensor) -> Tensor:
        """The actions whose choices have the highest scores ``[..., A]`` (laid out as a mask)."""

    def mask(self, legal_offers: Tensor) -> Tensor:
        """The flat mask, bool ``[..., A]``, given which offers ``[..., offers]`` would clear. Hold is always legal."""

    def legal_offers(self, mask: Tensor) -> Tensor:
        """The part of a flat mask that speaks of the offers: ``[..., offers]``."""


def _refuse(actions: Tensor, inside: Tensor, allowed: str) -> None:
    if not bool(inside.all()):
        where = (~inside).nonzero()[0].tolist()
        value = actions[tuple(where)].tolist()
        raise ValueError(f"action={value!r} at index {where} is not allowed: it must be {allowed}")


class VerbActions:
    """``Discrete``: 0 hold, 1 train, then one number for each offer, then one for each ask level."""

    def __init__(self, offers: int, levels: int) -> None:
        self.offers, self.levels = offers, levels
        self.first_ask = 2 + offers
        self.mask_size = self.first_ask + levels
        self.choices: tuple[int, ...] = (self.mask_size,)

    def space(self) -> spaces.Discrete:
        """See :meth:`Actions.space`."""
        return spaces.Discrete(self.mask_size)

    def decode(self, actions: Tensor) -> Orders:
        """See :meth:`Actions.decode`."""
        inside = (actions >= 0) & (actions < self.mask_size)
        _refuse(actions, inside, f"an integer from 0 to {self.mask_size - 1}")
        buys = (actions >= 2) & (actions < self.first_ask)
        asks = actions >= self.first_ask
        return Orders(
            train=actions == 1,
            offer=torch.where(buys, actions - 2, -1),
            ask=torch.where(asks, actions - self.first_ask, -1),
        )

    def encode(self, orders: Orders) -> Tensor:
        """See :meth:`Actions.encode`: of several orders the purchase is said, else the ask, else the training."""
        verb = torch.where(orders.ask >= 0, self.first_ask + orders.ask, orders.train.long())
        return torch.where(orders.offer >= 0, 2 + orders.offer, verb)

    def best(self, scores: Tensor) -> Tensor:
        """See :meth:`Actions.best`."""
        return scores.argmax(dim=-1)

    def mask(self, legal_offers: Tensor) -> Tensor:
        """See :meth:`Actions.mask`."""
        always = torch.ones_like(legal_offers[..., :1])
        hold_and_train = always.expand(*always.shape[:-1], 2)
        return torch.cat([hold_and_train, legal_offers, always.expand(*always.shape[:-1], self.levels)], dim=-1)

    def legal_offers(self, mask: Tensor) -> Tensor:
        """See :meth:`Actions.legal_offers`."""
        return mask[..., 2 : self.first_ask]


class RoundActions:
    """``MultiDiscrete([2, 1 + offers, 1 + levels])``: train or not, buy or not, re-price or not, in one step."""

    def __init__(self, offers: int, levels: int) -> None:
        self.offers, self.levels = offers, levels
        self.choices: tuple[int, ...] = (2, 1 + offers, 1 + levels)
        self.mask_size = sum(self.choices)

    def space(self) -> spaces.MultiDiscrete[np.int64]:
        """See :meth:`Actions.space`."""
        return spaces.MultiDiscrete(list(self.choices))

    def decode(self, actions: Tensor) -> Orders:
        """See :meth:`Actions.decode`."""
        inside = ((actions >= 0) & (actions < torch.tensor(self.choices, device=actions.device))).all(dim=-1)
        _refuse(actions, inside, f"integers >= 0 and below {list(self.choices)}")
        train, offer, ask = actions.unbind(-1)
        return Orders(train=train == 1, offer=offer - 1, ask=ask - 1)

    def encode(self, orders: Orders) -> Tensor:
        """See :meth:`Actions.encode`."""
        return torch.stack([orders.train.long(), orders.offer + 1, orders.ask + 1], dim=-1)

    def best(self, scores: Tensor) -> Tensor:
        """See :meth:`Actions.best`."""
        return torch.stack([part.argmax(dim=-1) for part in scores.split(self.choices, dim=-1)], dim=-1)

    def mask(self, legal_offers: Tensor) -> Tensor:
        """See :meth:`Actions.mask`: the three parts one behind the other."""
        always = torch.ones_like(legal_offers[..., :1])
        before = always.expand(*always.shape[:-1], 3)  # hold or train, and not to buy
        return torch.cat([before, legal_offers, always.expand(*always.shape[:-1], self.choices[2])], dim=-1)

    def legal_offers(self, mask: Tensor) -> Tensor:
        """See :meth:`Actions.legal_offers`."""
        return mask[..., 3 : 3 + self.offers]


def build_actions(mode: ActionMode, offers: int, levels: int) -> Actions:
    """The encoding of an action mode for so many offers and so many ask levels (that which withholds included)."""
    return VerbActions(offers, levels) if mode == "verb" else RoundActions(offers, levels)


def client_mask(mask: np.ndarray, space: spaces.Space[Any], style: MaskStyle) -> np.ndarray | tuple[np.ndarray, ...]:
    """A flat mask (bool ``[A]``) as a client takes it, int8.

    ``tuple``: as ``gymnasium``'s ``space.sample(mask)`` and PettingZoo take it: one array for each part of a
    ``MultiDiscrete``, one array for a ``Discrete``. ``flat``: one array for both (MaskablePPO, TorchRL).
    """
    flat = mask.astype(np.int8)
    if style == "flat" or not isinstance(space, spaces.MultiDiscrete):
        return flat
    return tuple(np.split(flat, np.cumsum(space.nvec)[:-1]))


def checked_actions(given: Any, space: spaces.Space[Any], rows: tuple[int, ...] = ()) -> np.ndarray:
    """Actions of one agent (``rows`` ``()``) or of many as int64 ``[*rows, *space.shape]``, whatever integers they are.

    ``space`` is that of one agent. Raises ``ValueError`` for what is not integers of that shape, or outside the space.
    """
    try:
        actions = np.asarray(given)
    except ValueError:  # a ragged list
        actions = np.asarray(None)
    choices = space.n if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
    fits = actions.dtype.kind in "iu" and actions.shape == (*rows, *(space.shape or ()))
    if not fits or not ((actions >= 0) & (actions < choices)).all():
        each = f", one for each of {rows}" if rows else ""
        raise ValueError(f"action={given!r} is not allowed: it must be in {space}{each}")
    return actions.astype(np.int64)
