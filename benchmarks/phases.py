"""The time of a step of the engine, phase by phase. The engine itself contains no timers."""

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

Phases = tuple[tuple[str, Any, str], ...]
"""A phase, and a function that belongs to it: the object that holds the function, and its name. Time in a function of
another phase inside it counts only for the inner phase."""

PHASES: Phases = (
    ("train", Engine, "_train"),
    ("align", weight_matching, "weight_matching"),
    ("try", Broker, "_quote"),
    ("evaluate", broker, "group"),
    ("evaluate", broker, "own_losses"),
    ("clear", Engine, "_trade"),
    ("clear", Engine, "_no_trade"),
)
"""The phases of a step. ``try`` is the time of quoting without aligning and evaluating."""

REST = "rest"
NAMES = (*dict.fromkeys(phase for phase, _, _ in PHASES), REST)


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Clock:
    """Charges all time from its start to exactly one phase, the innermost that runs."""

    def __init__(self, device: torch.device, phases: Phases = PHASES) -> None:
        self.seconds = dict.fromkeys((*(phase for phase, _, _ in phases), REST), 0.0)
        self._device, self._running, self._since = device, [REST], 0.0

    def start(self) -> None:
        """Start the clock. Earlier time is not charged."""
        self._since = now(self._device)

    def charge(self) -> None:
        """Charge the time since the last charge to the running phase."""
        moment = now(self._device)
        self.seconds[self._running[-1]] += moment - self._since
        self._since = moment

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time charged to the phase."""

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
    """Seconds of each phase of one step. They sum to the step (on a GPU, with a wait between phases)."""
    clock = Clock(device, phases)
    with ExitStack() as patches:
        for phase, owner, name in phases:
            patches.enter_context(patch.object(owner, name, clock.timed(phase, getattr(owner, name))))
        clock.start()
        step()
        clock.charge()
    return clock.seconds
