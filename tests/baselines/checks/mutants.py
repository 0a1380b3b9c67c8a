"""Mutants: plug-ins that are wrong in one way, each with the check that must find it and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from paramarket_baselines.checks import Check
from paramarket_baselines.checks.check import outcomes

Mutant = TypeVar("Mutant")
Trial = TypeVar("Trial")


class Mutants(list[tuple[str, Any]]):
    """The checks of a kind of plug-in, each with a mutant that fails it alone."""

    def fails(self, check: str) -> Callable[[Mutant], Mutant]:
        """Mark a mutant that fails one check."""

        def keep(mutant: Mutant) -> Mutant:
            self.append((check, mutant))
            return mutant

        return keep

    @property
    def names(self) -> list[str]:
        """The names of the mutants."""
        return [mutant.__name__ for _, mutant in self]

    def assert_complete(self, checks: Sequence[Check[Any]]) -> None:
        """Every check has a mutant, and a sentence that says what it is about."""
        assert {check for check, _ in self} == {str(check) for check in checks}
        assert all(check.sentence.endswith(".") for check in checks)


def failed(checks: Iterable[Check[Trial]], *trials: Trial) -> set[str]:
    """The checks that a plug-in fails in any of the settings."""
    return {found.check for found in outcomes(checks, trials) if found.status == "failed"}
