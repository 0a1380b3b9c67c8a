"""The optimal posted price against closed forms, and the belief against Bayes by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.pricing import bayesian_price, forget, survival, uniform_belief, update_belief

CPU = torch.device("cpu")
GRID = (st.integers(0, 50), st.integers(1, 20), st.integers(1, 15))  # lowest level, distance, number of levels


def belief(*bins: float) -> Tensor:
    return torch.tensor([bins], dtype=torch.float64)


def price(bins: Tensor, levels: tuple[int, ...], cost: float = 0.0) -> int:
    return int(bayesian_price(bins, torch.tensor(levels), cost)[0])


def posterior(prior: Tensor, level: int, sold: int = 0, refused: int = 0, attention: float = 0.9) -> list[float]:
    level_, sold_, refused_ = (torch.tensor([number]) for number in (level, sold, refused))
    learned: list[float] = update_belief(prior, level_, sold_, refused_, attention)[0].tolist()
    return learned


def nearest(levels: tuple[int, ...], target: Fraction) -> int:
    """The index of the level nearest the target, the lowest of two."""
    return min(range(len(levels)), key=lambda index: (abs(levels[index] - target), index))


def test_a_uniform_belief_holds_one_bin_more_than_there_are_levels_all_alike() -> None:
    assert uniform_belief(2, 3, CPU).tolist() == [[0.25] * 4] * 2


def test_survival_is_the_chance_of_a_value_of_at_least_the_level() -> None:
    assert survival(belief(0.1, 0.2, 0.3, 0.4))[0].tolist() == pytest.approx([0.9, 0.7, 0.4])


@given(*GRID, st.data())
def test_a_uniform_belief_gives_the_level_nearest_to_half_of_the_top_and_the_cost(
    low: int, step: int, count: int, data: st.DataObject
) -> None:
    levels = tuple(low + step * index for index in range(count))
    top = low + step * count  # 1 - F falls on a line that reaches 0 here
    cost = data.draw(st.integers(0, levels[-1]))
    target = max(Fraction(low), Fraction(top + cost, 2))
    assert price(uniform_belief(1, count, CPU), levels, cost) == nearest(levels, target)


@given(*GRID)
def test_values_uniform_above_the_lowest_level_give_the_same_with_that_level_sure_to_sell(
    low: int, step: int, count: int
) -> None:
    levels = tuple(low + step * index for index in range(count))
    certain_above = torch.cat([torch.zeros(1, 1, dtype=torch.float64), uniform_belief(1, count - 1, CPU)], dim=1)
    target = max(Fraction(low), Fraction(low + step * count, 2))
    assert price(certain_above, levels) == nearest(levels, target)


@pytest.mark.parametrize("known", [1, 2, 3, 4])
def test_a_known_value_gives_the_highest_level_that_is_not_above_it(known: int) -> None:
    point = belief(*(float(number == known) for number in range(5)))
    assert price(point, (10, 20, 30, 40)) == known - 1


@pytest.mark.parametrize("cost", [40.5, 41, 1e9])
def test_a_cost_above_all_levels_withholds(cost: float) -> None:
    assert price(uniform_belief(1, 4, CPU), (10, 20, 30, 40), cost) == 4


def test_a_cost_of_the_highest_level_still_sells_there() -> None:
    assert price(uniform_belief(1, 4, CPU), (10, 20, 30, 40), 40) == 3


@pytest.mark.parametrize(
    ("bins", "levels"),
    [
        ((0.0, 0.5, 0.5), (10, 20)),  # 10 * 1 and 20 * 0.5
        ((0.2, 0.2, 0.2, 0.2, 0.2), (9, 12, 15, 18)),  # 7.2 twice, the second a rounding error above the first
    ],
)
def test_of_equal_profits_the_lowest_price_is_asked(bins: tuple[float, ...], levels: tuple[int, ...]) -> None:
    assert price(belief(*bins), levels) == 0


def test_rows_are_priced_each_for_itself() -> None:
    rows = torch.cat([belief(0, 1, 0), belief(0, 0, 1), uniform_belief(1, 2, CPU)])
    assert bayesian_price(rows, torch.tensor([10, 20])).tolist() == [0, 1, 0]


def test_a_sale_rules_out_the_values_below_the_price() -> None:
    total = 0.7 + 0.3e-6
    expected = [0.1e-6 / total, 0.2e-6 / total, 0.3 / total, 0.4 / total]
    assert posterior(belief(0.1, 0.2, 0.3, 0.4), level=1, sold=1) == pytest.approx(expected, rel=1e-12)


def test_a_refusal_weighs_the_values_from_the_price_up_by_the_chance_of_a_busy_buyer() -> None:
    total = 0.3 + 0.7 * 0.25
    expected = [0.1 / total, 0.2 / total, 0.3 * 0.25 / total, 0.4 * 0.25 / total]
    assert posterior(belief(0.1, 0.2, 0.3, 0.4), level=1, refused=1, attention=0.75) == pytest.approx(expected)


def test_sales_and_refusals_count_as_often_as_they_happened() -> None:
    weights = [0.1e-12, 0.2 * 0.25, 0.3 * 0.25, 0.4 * 0.25]
    expected = [weight / sum(weights) for weight in weights]
    learned = posterior(belief(0.1, 0.2, 0.3, 0.4), level=0, sold=2, refused=2, attention=0.5)
    assert learned == pytest.approx(expected, rel=1e-12)


def test_nothing_sold_and_nothing_refused_teaches_nothing() -> None:
    assert posterior(belief(0.1, 0.2, 0.3, 0.4), level=1) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_withheld_level_teaches_nothing() -> None:
    learned = posterior(belief(0.1, 0.2, 0.3, 0.4), level=3, sold=1, refused=2)
    assert learned == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_refusal_by_an_attentive_buyer_leaves_a_trace_of_every_value() -> None:
    learned = posterior(uniform_belief(1, 2, CPU), level=0, refused=1, attention=1.0)
    assert learned == pytest.approx([1, 1e-6, 1e-6], rel=1e-5)
    assert min(learned) > 0


@given(st.lists(st.tuples(*(st.integers(0, high) for high in (4, 3, 3))), max_size=6), st.floats(0, 1))
def test_a_posterior_is_a_distribution(observations: list[tuple[int, int, int]], attention: float) -> None:
    bins = uniform_belief(1, 4, CPU)
    for level, sold, refused in observations:
        bins = torch.tensor([posterior(bins, level, sold, refused, attention)], dtype=torch.float64)
    assert bool((bins >= 0).all())
    assert float(bins.sum()) == pytest.approx(1)


def test_forgetting_goes_from_the_belief_to_uniform_in_proportion() -> None:
    bins = belief(0.7, 0.2, 0.1)
    assert torch.equal(forget(bins, 0.0), bins)
    assert forget(bins, 0.25)[0].tolist() == pytest.approx([0.75 * p + 0.25 / 3 for p in (0.7, 0.2, 0.1)])
    assert torch.allclose(forget(bins, 1.0), uniform_belief(1, 2, CPU), atol=0, rtol=1e-15)


def test_a_belief_survives_any_number_of_observations() -> None:
    belief = uniform_belief(1, 2, CPU)
    many = torch.tensor([10_000])
    posterior = update_belief(belief, torch.tensor([0]), many, many, attention=1.0)
    assert bool(posterior.isfinite().all())
    assert float(posterior.sum()) == pytest.approx(1)


def test_a_price_below_cost_is_never_posted() -> None:
    belief = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)  # the value is below every level
    assert int(bayesian_price(belief, torch.tensor([5, 10]), cost=7.0)) == 1
