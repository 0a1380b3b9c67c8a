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

    @property
    def rows(self) -> Tensor:
        """The numbers of the markets, int64 ``[M]``."""
        return torch.arange(len(self.keys), device="cpu")

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
    batch, seeds = MarketBatch(market, NUM_MARKETS, "cpu"), torch.arange(NUM_MARKETS, device="cpu")
    batch.reset(seeds)
    seat, (key, *keys) = seat_of(batch, NUM_MARKETS), [stream(seeds, "policy", i) for i in range(market.agents)]
    player = _guarded(seated, policy, seat, key)
    others = [seated(POLICIES.parse("random"), seat, other) for other in keys]
    steps, untouched = [], True
    for cycle in range(market.max_cycles)[:num_steps]:
        disturb(batch, cycle)
        observation, mask = batch.observe_and_mask()
        before = _bits(batch.engine.state)
        mine = _guarded(player.act, observation[:, 0].clone(), mask[:, 0].clone())
        untouched &= _bits(batch.engine.state) == before
        require_in_space(mine, seat, NUM_MARKETS)
        steps.append((observation[:, 0], mask[:, 0], mine.clone()))
        theirs = [other.act(observation[:, i], mask[:, i]) for i, other in enumerate(others, start=1)]
        batch.step(torch.stack([mine, *theirs], dim=1))
    observations, masks, actions = (torch.stack(column) for column in zip(*steps, strict=True))
    return Recording(seat, key, observations, masks, actions, untouched)


def seated(policy: PolicyFactory, seat: Seat, keys: Tensor) -> Policy:
    """The policy in a new seat after a reset, with a market for each random stream of ``keys``, int64 ``[B]``."""
    player = policy(replace(seat, num_markets=len(keys)))
    player.reset(torch.arange(len(keys), device="cpu"), keys.clone())
    return player


def _guarded(call: Callable[..., Returned], *arguments: object) -> Returned:
    """Call a method of a policy; raises :class:`PolicyError` for its exceptions."""
    try:
        return call(*arguments)
    except Exception as error:  # a check judges whatever the policy raises
        raise PolicyError(f"{type(error).__name__}: {error}") from error


def _bits(state: MarketState) -> list[bytes]:
    """The bits of all tensors of a state."""
    bits = []

    def keep(tensor: Tensor) -> Tensor:
        bits.append(tensor.numpy().tobytes())
        return tensor

    tree_map(keep, state)
    return bits


def require_in_space(actions: Tensor, seat: Seat, rows: int) -> None:
    """Raise :class:`ActionError` unless these are actions of the space for so many rows."""
    parts = len(seat.actions.nvec)
    shape = (rows,) if parts == 1 else (rows, parts)
    if not isinstance(actions, Tensor) or actions.dtype != torch.int64 or tuple(actions.shape) != shape:
        came = f"{actions.dtype} {list(actions.shape)}" if isinstance(actions, Tensor) else type(actions).__name__
        raise ActionError(f"expected actions of int64 {list(shape)}, got {came}")
    sizes, chosen = torch.tensor(seat.actions.nvec, device="cpu"), actions.view(rows, parts)
    outside = (chosen < 0) | (chosen >= sizes)
    if bool(outside.any()):
        raise ActionError(f"expected values >= 0 and below {list(seat.actions.nvec)}, got {actions.tolist()}")


def repeat(player: Policy, recording: Recording, rows: Tensor) -> Tensor:
    """The actions of a policy that sees the recorded observations of these ``rows`` again: ``[T, B, ...]``."""
    seen = zip(recording.observations[:, rows], recording.masks[:, rows], strict=True)
    return torch.stack([player.act(observation.clone(), mask.clone()) for observation, mask in seen])
