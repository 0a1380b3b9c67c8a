"""Settings that change during a training."""

from __future__ import annotations

import pytest

from paramarket_baselines.training.schedules import linear_schedule


def test_the_learning_rate_falls_with_what_is_left_down_to_a_twentieth() -> None:
    rate = linear_schedule(2e-3)
    assert [rate(left) for left in (1.0, 0.5, 0.05, 0.01, 0.0)] == pytest.approx([2e-3, 1e-3, 1e-4, 1e-4, 1e-4])
