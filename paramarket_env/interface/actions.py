"""Two encodings of orders as actions, with their masks. The engine knows only orders.

Both encodings number the ask levels in the same way: the prices in order, then one more level that withholds. There is
one purchase for each offer and bid if the mechanism takes bids, and one for each offer if it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from paramarket_env.config import ActionMode
from paramarket_env.market.orders import Orders
from paramarket_env.validation import require

MaskStyle = Literal["tuple", "flat", "none"]
"""The form of ``info["action_mask"]``; ``none``: infos have no mask, for clients that cannot bear one."""


@dataclass(frozen=True)
class Choices:
    """The numbers of offers, bids, asks and ask levels that an agent can choose from."""

    offers: int
    """The number of offers to a buyer: k * K."""
    bids: int
    """The number of bids for each offer; 1 if the mechanism takes no bids."""
    ask_slots: int
    """S, the number of asks of a seller: 1, or N - 1 with personal prices."""
    levels: int
    """The number of levels of an ask, including the level that withholds: L + 1."""

    @property
    def purchases(self) -> int:
        """The number of purchases. Purchase ``offer * bids + bid`` buys an offer at a bid."""
        return self.offers * self.bids

    def purchase(self, offer: Tensor, bid: Tensor) -> Tensor:
        """The purchase of an offer at a bid, as its number; -1 where the offer is -1."""
        return torch.where(offer >= 0, offer * self.bids + bid, -1)

    def offer_and_bid(self, purchase: Tensor) -> tuple[Tensor, Tensor]:
        """The offer and the bid of a purchase; -1 and 0 where the purchase is -1."""
        if self.bids == 1:
            return purchase, torch.zeros_like(purchase)
        bought = purchase >= 0
        return torch.where(bought, purchase // self.bids, -1), torch.where(bought, purchase % self.bids, 0)


class Actions(Protocol):
    """An encoding. ``[...]`` is any batch shape: ``[M, N]`` for markets, ``[B]`` for one seat in B markets."""

    choices: Choices
    """The numbers that determine the encoding."""
    nvec: tuple[int, ...]
    """The number of values of each part of an action, as in ``MultiDiscrete.nvec``. Value 0 does nothing."""
    mask_size: int
    """A, the length of a flat mask."""

    def space(self) -> spaces.Space[Any]:
        """A new action space for one agent."""

    def decode(self, actions: Tensor) -> Orders:
        """Decode actions, int64 ``[...]`` (``verb``) or ``[..., 2 + S]`` (``round``), into orders.

        Raises ``ValueError`` for an action outside the space.
        """

    def encode(self, orders: Orders) -> Tensor:
        """Encode orders as actions. An encoding with one order per action keeps only one order of each agent."""

    def best(self, scores: Tensor) -> Tensor:
        """The actions with the highest score in each part; ``scores``, ``[..., A]``, have the layout of a mask."""

    def mask(self, legal: Tensor) -> Tensor:
        """The flat mask, bool ``[..., A]``; ``legal``, bool ``[..., offers, bids]``, marks the legal purchases.

        All other actions, such as hold, are always legal.
        """

    def legal_purchases(self, mask: Tensor) -> Tensor:
        """The purchases that a flat mask allows, bool ``[..., offers, bids]``: the inverse of :meth:`mask`."""


def _refuse(actions: Tensor, inside: Tensor, allowed: str) -> None:
    if not bool(inside.all()):
        where = (~inside).nonzero()[0].tolist()
        value = actions[tuple(where)].tolist()
        raise ValueError(f"action={value!r} at index {where} is not allowed: it must be {allowed}")


class VerbActions:
    """``Discrete``: 0 hold, 1 train, then one number for each purchase, then one for each ask level (slot by slot)."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.first_ask = 2 + choices.purchases
        self.mask_size = self.first_ask + choices.ask_slots * choices.levels
        self.nvec: tuple[int, ...] = (self.mask_size,)

    def space(self) -> spaces.Discrete:
        """See :meth:`Actions.space`."""
        return spaces.Discrete(self.mask_size)

    def decode(self, actions: Tensor) -> Orders:
        """See :meth:`Actions.decode`."""
        inside = (actions >= 0) & (actions < self.mask_size)
        _refuse(actions, inside, f"an integer from 0 to {self.mask_size - 1}")
        orders = _orders_of_verbs(self.choices, actions.device)[actions]
        return Orders(orders[..., 0] == 1, orders[..., 1], orders[..., 2], orders[..., 3:])

    def encode(self, orders: Orders) -> Tensor:
        """See :meth:`Actions.encode`. It keeps the purchase if there is one, then the first ask, then training."""
        posts = orders.ask >= 0
        slot = posts.to(torch.int8).argmax(-1, keepdim=True)
        ask = self.first_ask + (slot * self.choices.levels + orders.ask.gather(-1, slot)).squeeze(-1)
        verb = torch.where(posts.any(-1), ask, orders.train.long())
        return torch.where(orders.offer >= 0, 2 + self.choices.purchase(orders.offer, orders.bid), verb)

    def best(self, scores: Tensor) -> Tensor:
        """See :meth:`Actions.best`."""
        return scores.argmax(dim=-1)

    def mask(self, legal: Tensor) -> Tensor:
        """See :meth:`Actions.mask`."""
        return F.pad(legal.flatten(-2), (2, self.mask_size - self.first_ask), value=True)

    def legal_purchases(self, mask: Tensor) -> Tensor:
        """See :meth:`Actions.legal_purchases`."""
        return mask[..., 2 : self.first_ask].view(*mask.shape[:-1], self.choices.offers, self.choices.bids)


class RoundActions:
    """``MultiDiscrete([2, 1 + purchases, 1 + levels, ...])``: train or not, buy or not, re-price or not, in one step.

    The last part is repeated for each ask of a seller.
    """

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.nvec: tuple[int, ...] = (2, 1 + choices.purchases, *(1 + choices.levels,) * choices.ask_slots)
        self.mask_size = sum(self.nvec)

    def space(self) -> spaces.MultiDiscrete[np.int64]:
        """See :meth:`Actions.space`."""
        return spaces.MultiDiscrete(list(self.nvec))

    def decode(self, actions: Tensor) -> Orders:
        """See :meth:`Actions.decode`."""
        inside = ((actions >= 0) & (actions < _tensor(self.nvec, actions.device))).all(dim=-1)
        _refuse(actions, inside, f"integers >= 0 and below {list(self.nvec)}")
        return Orders(actions[..., 0] == 1, *self.choices.offer_and_bid(actions[..., 1] - 1), actions[..., 2:] - 1)

    def encode(self, orders: Orders) -> Tensor:
        """See :meth:`Actions.encode`."""
        purchase = self.choices.purchase(orders.offer, orders.bid)
        return torch.cat([torch.stack([orders.train.long(), purchase + 1], dim=-1), orders.ask + 1], dim=-1)

    def best(self, scores: Tensor) -> Tensor:
        """See :meth:`Actions.best`."""
        return torch.stack([part.argmax(dim=-1) for part in scores.split(self.nvec, dim=-1)], dim=-1)

    def mask(self, legal: Tensor) -> Tensor:
        """See :meth:`Actions.mask`. The masks of the parts are concatenated."""
        # Before the purchases are the two values of train, and buying nothing.
        return F.pad(legal.flatten(-2), (3, sum(self.nvec[2:])), value=True)

    def legal_purchases(self, mask: Tensor) -> Tensor:
        """See :meth:`Actions.legal_purchases`."""
        return mask[..., 3 : 3 + self.choices.purchases].view(*mask.shape[:-1], self.choices.offers, self.choices.bids)


@lru_cache(maxsize=16)
def _orders_of_verbs(choices: Choices, device: torch.device) -> Tensor:
    """The orders of all actions in ``verb`` mode, int64 ``[A, 3 + S]``: training, offer, bid and asks."""
    first_ask = 2 + choices.purchases
    actions = torch.arange(first_ask + choices.ask_slots * choices.levels, device=device)
    slots = torch.arange(choices.ask_slots, device=device)
    buys = (actions >= 2) & (actions < first_ask)
    offer, bid = choices.offer_and_bid(torch.where(buys, actions - 2, -1))
    level = (actions - first_ask).unsqueeze(1) - choices.levels * slots
    ask = torch.where((level >= 0) & (level < choices.levels), level, -1)
    return torch.cat([torch.stack([(actions == 1).long(), offer, bid], dim=1), ask], dim=1)


@lru_cache(maxsize=16)
def _tensor(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def build_actions(mode: ActionMode, choices: Choices) -> Actions:
    """The encoding for an action mode."""
    return VerbActions(choices) if mode == "verb" else RoundActions(choices)


def client_mask(mask: np.ndarray, space: spaces.Space[Any], style: MaskStyle) -> np.ndarray | tuple[np.ndarray, ...]:
    """Convert a flat mask, bool ``[A]``, to the form that a client expects, int8.

    ``tuple`` gives one array for each part of a ``MultiDiscrete`` space, and one array for a ``Discrete`` space, as
    Gymnasium's ``space.sample(mask)`` and PettingZoo expect. ``flat`` always gives one array (MaskablePPO, TorchRL).
    """
    flat = mask.astype(np.int8)
    if style == "flat" or not isinstance(space, spaces.MultiDiscrete):
        return flat
    return tuple(np.split(flat, np.cumsum(space.nvec)[:-1]))


def mask_info(mask: np.ndarray, space: spaces.Space[Any], style: MaskStyle) -> dict[str, Any]:
    """The entry ``action_mask`` of an agent's info (see :func:`client_mask`); no entry in the style ``none``."""
    return {} if style == "none" else {"action_mask": client_mask(mask, space, style)}


def require_mask_style(style: object) -> None:
    """Raise ``ValueError`` for a style that does not exist."""
    known = isinstance(style, str) and style in get_args(MaskStyle)
    require(known, "mask_style", style, "'tuple', 'flat' or 'none'")


def checked_actions(given: Any, space: spaces.Space[Any], rows: tuple[int, ...] = ()) -> np.ndarray:
    """Check the actions of one agent (``rows=()``) or of many, and convert any integer type to int64.

    ``space`` is the action space of one agent, and the actions have the shape ``[*rows, *space.shape]``. Raises
    ``ValueError`` if they are not integers, have another shape, or are outside the space.
    """
    try:
        actions = np.asarray(given)
    except ValueError:  # a ragged list
        actions = np.asarray(None)
    nvec = space.n if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
    fits = actions.dtype.kind in "iu" and actions.shape == (*rows, *(space.shape or ()))
    if not fits or not ((actions >= 0) & (actions < nvec)).all():
        each = f", one for each of {rows}" if rows else ""
        raise ValueError(f"action={given!r} is not allowed: it must be in {space}{each}")
    return actions.astype(np.int64)
