"""How long a step of the engine takes, phase by phase; the engine itself has no clock in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch

from paramarket_env.learning.alignment import weight_matching
from paramarket_env.market import broker
from paramarket_env.market.broker import Broker
from paramarket_env.market.engine import Engine
from paramarket_env.market.exchange import Exchange

Phases = tuple[tuple[str, Any, str], ...]
"""A phase, and a function that belongs to it: where that is looked up, and its name. What runs inside a function of
another phase counts for the inner one alone."""

PHASES: Phases = (
    ("train", Engine, "_train"),
    ("align", weight_matching, "weight_matching"),
    ("try", Broker, "_quote"),
    ("evaluate", broker, "group"),
    ("evaluate", broker, "own_losses"),
    ("clear", Exchange, "clear"),
    ("clear", Engine, "_merge"),
    ("clear", Exchange, "settle"),
)
"""Of a step: to try is what quoting takes besides aligning."""

REST = "rest"
NAMES = (*dict.fromkeys(phase for phase, _, _ in PHASES), REST)


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """Charges every moment from its start to exactly one phase, the innermost that runs."""

    def __init__(self, device: torch.device, phases: Phases = PHASES) -> None:
        self.seconds = dict.fromkeys((*(phase for phase, _, _ in phases), REST), 0.0)
        self._device, self._running, self._since = device, [REST], 0.0

    def start(self) -> None:
        """What went before is nobody's."""
        self._since = now(self._device)

    def charge(self) -> None:
        """Book the time since the last booking to the phase that runs."""
        moment = now(self._device)
        self.seconds[self._running[-1]] += moment - self._since
        self._since = moment

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time booked to the phase."""

        @wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            self.charge()
            self._running.append(phase)
            try:
                return function(*arguments, **named)
            finally:
                self.charge()
                self._running.pop()

        return wrapper


def phase_seconds(step: Callable[[], object], device: torch.device, phases: Phases = PHASES) -> dict[str, float]:
    """Seconds of each phase of one step; together they are the step (on a GPU with a wait where phases meet)."""
    clock = Clock(device, phases)
    with ExitStack() as patches:
        for phase, owner, name in phases:
            patches.enter_context(patch.object(owner, name, clock.timed(phase, getattr(owner, name))))
        clock.start()
        step()
        clock.charge()
    return clock.seconds
