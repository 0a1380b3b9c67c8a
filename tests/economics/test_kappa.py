"""Private values are drawn within each agent's range, as their distribution says."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paramarket_env.economics.kappa import KAPPA_MAX, QUANTILES, draw_kappas

ALMOST_ONE = 1 - 2**-53
ENDS = st.lists(st.floats(1e-3, KAPPA_MAX), min_size=2, max_size=2).map(sorted)


def drawn(distribution: Any, low: float, high: float, *shares: float) -> list[float]:
    """The values of one agent, one market for each share."""
    values = draw_kappas(distribution, ((low, high),), torch.tensor(shares, dtype=torch.float64).unsqueeze(1))
    assert values.dtype == torch.float64
    drawn: list[float] = values.squeeze(1).tolist()
    return drawn


@pytest.mark.parametrize("low", [0.0, 0.1, 1.0, KAPPA_MAX])
def test_a_fixed_value_is_the_one_given_to_the_bit(low: float) -> None:
    assert drawn("fixed", low, low, 0.0, 0.3, ALMOST_ONE) == [low] * 3


@pytest.mark.parametrize(
    ("distribution", "quarters"), [("uniform", [2.0, 3.5, 5.0, 6.5, 8.0]), ("log-uniform", [2, 2**1.5, 4, 2**2.5, 8])]
)
def test_a_share_of_the_values_lies_below_the_quantile(distribution: Any, quarters: list[float]) -> None:
    shares = (0.0, 0.25, 0.5, 0.75, ALMOST_ONE)
    assert drawn(distribution, 2.0, 8.0, *shares) == pytest.approx(quarters, rel=1e-15)


@pytest.mark.parametrize("distribution", ["uniform", "log-uniform"])
def test_a_range_of_one_number_gives_that_number(distribution: Any) -> None:
    assert drawn(distribution, 0.7, 0.7, 0.0, 0.4, ALMOST_ONE) == [0.7] * 3


@given(st.sampled_from(["uniform", "log-uniform"]), ENDS, st.lists(st.floats(0, ALMOST_ONE), min_size=2))
def test_values_lie_within_their_range_and_grow_with_the_share(
    distribution: Any, ends: list[float], shares: list[float]
) -> None:
    low, high = ends
    values = drawn(distribution, low, high, *sorted(shares))
    rounding = 1e-14 * high
    assert all(low - rounding <= value <= high + rounding for value in values)
    assert all(first <= second + rounding for first, second in pairwise(values))


@pytest.mark.parametrize("distribution", QUANTILES)
def test_each_agent_has_its_own_range_and_each_market_its_own_draw(distribution: Any) -> None:
    ranges = ((1.0, 1.0), (2.0, 4.0), (5.0, 9.0))
    shares = torch.tensor([[0.0, 0.25, 0.5], [0.5, 0.75, 0.0]], dtype=torch.float64)
    values = draw_kappas(distribution, ranges, shares)
    assert values.shape == (2, 3)
    for agent, (low, high) in enumerate(ranges):
        alone = draw_kappas(distribution, ((low, high),), shares[:, agent : agent + 1])
        assert torch.equal(values[:, agent], alone.squeeze(1))
        assert bool(((values[:, agent] >= low) & (values[:, agent] <= high)).all())


def test_fixed_values_can_be_changed_without_a_change_of_the_others() -> None:
    values = draw_kappas("fixed", ((1.0, 1.0), (1.0, 1.0)), torch.zeros(2, 2, dtype=torch.float64))
    values[0, 0] = 5.0
    assert values.tolist() == [[5.0, 1.0], [1.0, 1.0]]
