"""Some settings change during a training."""

from __future__ import annotations

from collections.abc import Callable


def linear_schedule(first: float) -> Callable[[float], float]:
    """A learning rate that falls from ``first`` in proportion to the share of the training that is left.

    It never falls below a twentieth of ``first``, so that the last steps still change the policy.
    """

    def rate(left: float) -> float:
        return first * max(left, 0.05)

    return rate
