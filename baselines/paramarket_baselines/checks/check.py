"""A check of a plug-in, and its outcome."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar
from unittest import SkipTest

import numpy as np
import torch

from paramarket_env.validation import shown

Trial = TypeVar("Trial")
"""A plug-in together with the setting in which it is checked. Its text names that setting."""


class NotClaimed(SkipTest):
    """The plug-in refuses the setting, as it may. pytest counts the test as skipped."""


class NotRun(SkipTest):
    """The check cannot be run, because another one fails. pytest counts the test as skipped."""


@dataclass(frozen=True)
class Check(Generic[Trial]):
    """One property that every plug-in of a kind must have. Its text is its name."""

    function: Callable[[Trial], None]
    """Tests the property with :func:`expect`. The first line of its docstring states the property."""

    @property
    def name(self) -> str:
        """The name of the function with hyphens."""
        return self.function.__name__.replace("_", "-")

    @property
    def sentence(self) -> str:
        """The property."""
        return (self.function.__doc__ or "").split("\n", maxsplit=1)[0]

    def __str__(self) -> str:
        return self.name

    def __call__(self, trial: Trial) -> None:
        """Run the check.

        Raises ``AssertionError`` that names the check, the setting, what was expected and what came;
        :class:`NotClaimed` if the plug-in refuses the setting; :class:`NotRun` if another check must pass first.
        """
        try:
            self.function(trial)
        except SkipTest:
            raise
        except AssertionError as error:
            raise AssertionError(f"{self} ({trial}): {error}") from error
        except Exception as error:  # whatever a plug-in raises is a failure of its check
            came = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{self} ({trial}): expected no exception, got {came}") from error


def expect(ok: bool, expected: str, came: object) -> None:
    """Raise ``AssertionError``, which says what was expected and what came, unless ``ok``."""
    if not ok:
        raise AssertionError(f"expected {expected}, got {came if isinstance(came, str) else shown(came)}")


def expect_proper_refusal(refusal: Exception | None) -> None:
    """Raise ``AssertionError`` unless a refusal is a ``ValueError`` that says why, and :class:`NotClaimed` if it is."""
    if refusal is not None:
        proper = isinstance(refusal, ValueError) and bool(str(refusal))
        expect(proper, "no exception, or a ValueError with a message", repr(refusal))
        raise NotClaimed(str(refusal))


Status = Literal["passed", "failed", "not claimed", "not run"]


@dataclass(frozen=True)
class Outcome:
    """The result of one check in one setting."""

    check: str
    setting: str
    status: Status
    reason: str = ""
    """The message of the failure or of the refusal."""


def outcome(check: Check[Trial], trial: Trial) -> Outcome:
    """Run a check and record what comes of it."""
    try:
        check(trial)
    except NotClaimed as refusal:
        return Outcome(check.name, str(trial), "not claimed", str(refusal))
    except SkipTest as reason:
        return Outcome(check.name, str(trial), "not run", str(reason))
    except AssertionError as failure:
        return Outcome(check.name, str(trial), "failed", str(failure))
    return Outcome(check.name, str(trial), "passed")


def outcomes(checks: Iterable[Check[Trial]], trials: Iterable[Trial]) -> Iterator[Outcome]:
    """The outcomes of all checks in one setting after the other."""
    checks = tuple(checks)
    return (outcome(check, trial) for trial in trials for check in checks)


def run_all(checks: Iterable[Check[Trial]], trials: Iterable[Trial]) -> None:
    """Run all checks in all settings.

    Raises the ``AssertionError`` of the first check that fails, and one for a plug-in that refuses all settings.
    """
    refusal, claims = "", False
    for found in outcomes(checks, trials):
        if found.status == "failed":
            raise AssertionError(found.reason)
        claims |= found.status == "passed"
        refusal = found.reason or refusal
    expect(claims, "a plug-in that takes part in at least one of the settings", refusal)


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Raise ``AssertionError`` if the global random generators of torch, NumPy and Python change within the block."""
    before = _random_states()
    yield
    changed = [name for name, state in _random_states().items() if state != before[name]]
    expect(not changed, "unchanged global random generators", f"changed ones of {', '.join(changed)}")


def _random_states() -> dict[str, bytes]:
    numpy = np.random.get_state()  # noqa: NPY002  # the global state is what is watched
    states = {"torch": torch.get_rng_state().tolist(), "NumPy": numpy, "Python": random.getstate()}
    return {name: pickle.dumps(state) for name, state in states.items()}
