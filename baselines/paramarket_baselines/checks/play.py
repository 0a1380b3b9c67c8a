"""Episodes for checks: a policy plays a market, and later plays what it saw again without the market."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, Seat, seat_of
from paramarket_env.market.state import MarketState, tree_map
from paramarket_env.seeding import stream

Returned = TypeVar("Returned")

NUM_MARKETS = 2
"""Markets that are played at once. The policy has seat 0, and policies that draw at random have the others."""


class PolicyError(Exception):
    """A policy raised an exception in an episode."""


class ActionError(Exception):
    """A policy returned something else than actions of the space."""


@dataclass(frozen=True)
class Recording:
    """An episode of T steps, as one seat saw it in M markets."""

    seat: Seat
    keys: Tensor
    """int64 ``[M]``: the random streams of the seat."""
    observations: Tensor
    """float32 ``[T, M, D]``."""
    masks: Tensor
    """bool ``[T, M, A]``."""
    actions: Tensor
    """int64 ``[T, M]`` (``verb``) or ``[T, M, 2 + S]`` (``round``)."""
    untouched: bool
    """Whether ``act`` left the state of the markets as it was."""

    @property
    def num_steps(self) -> int:
        """T, the number of steps."""
        return len(self.observations)

    @cached_property
    def legal(self) -> Tensor:
        """Whether each action is legal, bool ``[T, M]``."""
        actions = self.actions.view(*self.masks.shape[:2], -1)
        parts = self.masks.split(self.seat.actions.nvec, dim=2)
        allowed = [part.gather(2, actions[..., [place]]) for place, part in enumerate(parts)]
        return torch.cat(allowed, dim=2).all(2)


Disturb = Callable[[MarketBatch, int], None]
"""Changes the markets before a cycle."""


def undisturbed(batch: MarketBatch, cycle: int) -> None:
    """Leaves the markets as they are."""


def play(
    policy: PolicyFactory, market: MarketConfig, disturb: Disturb = undisturbed, num_steps: int | None = None
) -> Recording:
    """Play one episode, or its first ``num_steps`` steps.

    Raises :class:`PolicyError` or :class:`ActionError` where the policy does not play on.
    """
    batch = MarketBatch(market, NUM_MARKETS, "cpu")
    seeds, agents = torch.arange(NUM_MARKETS), market.agents
    batch.reset(seeds)
    seat = seat_of(batch, NUM_MARKETS)
    players = [_guarded(policy, seat), *(POLICIES.parse("random")(seat) for _ in range(agents - 1))]
    keys = [stream(seeds, "policy", agent) for agent in range(agents)]
    for player, key in zip(players, keys, strict=True):
        _guarded(player.reset, torch.arange(NUM_MARKETS), key.clone())
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    untouched = True
    for cycle in range(market.max_cycles)[:num_steps]:
        disturb(batch, cycle)
        observation, mask = batch.observe_and_mask()
        before = tree_map(torch.clone, batch.engine.state)
        mine = _guarded(players[0].act, observation[:, 0].clone(), mask[:, 0].clone())
        untouched &= _same(before, batch.engine.state)
        require_in_space(mine, seat, NUM_MARKETS)
        others = [player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players[1:], start=1)]
        seen.append((observation[:, 0].clone(), mask[:, 0].clone(), mine.clone()))
        batch.step(torch.stack([mine, *others], dim=1))
    observations, masks, actions = (torch.stack(column) for column in zip(*seen, strict=True))
    return Recording(seat, keys[0], observations, masks, actions, untouched)


def _guarded(call: Callable[..., Returned], *arguments: object) -> Returned:
    """What a policy returns; raises :class:`PolicyError` for its exceptions."""
    try:
        return call(*arguments)
    except Exception as error:
        raise PolicyError(f"{type(error).__name__}: {error}") from error


def _same(one: MarketState, other: MarketState) -> bool:
    """Whether two states are equal to the bit."""
    equal = True

    def compare(left: Tensor, right: Tensor) -> Tensor:
        nonlocal equal
        equal &= torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))
        return left

    tree_map(compare, one, other)
    return equal


def require_in_space(actions: Tensor, seat: Seat, rows: int) -> None:
    """Raise :class:`ActionError` unless these are actions of the space for so many rows."""
    parts = len(seat.actions.nvec)
    shape = (rows,) if parts == 1 else (rows, parts)
    if not isinstance(actions, Tensor) or actions.dtype != torch.int64 or tuple(actions.shape) != shape:
        came = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, Tensor) else type(actions).__name__
        raise ActionError(f"expected actions of int64 {list(shape)}, got {came}")
    outside = (actions.view(rows, parts) < 0) | (actions.view(rows, parts) >= torch.tensor(seat.actions.nvec))
    if bool(outside.any()):
        raise ActionError(f"expected values >= 0 and below {list(seat.actions.nvec)}, got {actions.tolist()}")


def seated(policy: PolicyFactory, recording: Recording, rows: Tensor) -> Policy:
    """The policy in a new seat with the recording's random streams of these ``rows``, int64 ``[B]``, after a reset."""
    player = policy(replace(recording.seat, num_markets=len(rows)))
    player.reset(torch.arange(len(rows)), recording.keys[rows].clone())
    return player


def repeat(player: Policy, recording: Recording, rows: Tensor) -> Tensor:
    """The actions of a policy that sees the recorded observations of these ``rows`` again: ``[T, B, ...]``."""
    seen = zip(recording.observations[:, rows], recording.masks[:, rows], strict=True)
    return torch.stack([player.act(observation.clone(), mask.clone()) for observation, mask in seen])
