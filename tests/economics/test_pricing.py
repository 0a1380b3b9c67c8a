"""The optimal posted price against closed forms, and the belief against Bayes by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.pricing import (
    bayesian_price,
    drift,
    exponential_survival,
    survival,
    uniform_belief,
    uniform_survival,
    update_belief,
)
from tests.helpers import CPU

GRID = (st.integers(0, 50), st.integers(1, 20), st.integers(1, 15))  # lowest level, distance, number of levels


def belief(*bins: float) -> Tensor:
    return torch.tensor([bins], dtype=torch.float64)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def price(bins: Tensor, levels: tuple[int, ...], cost: float = 0.0) -> int:
    return int(bayesian_price(survival(bins), torch.tensor(levels), cost)[0])


def price_for(chances: Tensor, levels: tuple[int, ...], cost: float = 0.0) -> int:
    """The level that is chosen for survival at the levels ``[L]``."""
    return int(bayesian_price(chances, torch.tensor(levels), cost))


def posterior(prior: Tensor, level: int, sold: int = 0, refused: int = 0, attention: float = 0.9) -> list[float]:
    level_, sold_, refused_ = (torch.tensor([[number]]) for number in (level, sold, refused))
    learned: list[float] = update_belief(prior, level_, sold_, refused_, attention)[0].tolist()
    return learned


def nearest(levels: tuple[int, ...], target: Fraction) -> int:
    """The index of the level nearest the target, the lowest of two."""
    return min(range(len(levels)), key=lambda index: (abs(levels[index] - target), index))


def most_profitable(levels: tuple[int, ...], chance: Callable[[int], Fraction], cost: int) -> int:
    """The lowest level of the largest profit that is at no loss, in fractions; their number if there is none."""
    profits = {index: (level - cost) * chance(level) for index, level in enumerate(levels) if level >= cost}
    return min(profits, key=lambda index: (-profits[index], index)) if profits else len(levels)


def test_a_uniform_belief_holds_one_bin_more_than_there_are_levels_all_alike() -> None:
    bins = uniform_belief((2, 1), 3, CPU)
    assert bins.tolist() == [[[0.25] * 4]] * 2
    assert bins.dtype == torch.float64


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
    assert price(uniform_belief((1,), count, CPU), levels, cost) == nearest(levels, target)


@given(*GRID)
def test_values_uniform_above_the_lowest_level_give_the_same_with_that_level_sure_to_sell(
    low: int, step: int, count: int
) -> None:
    levels = tuple(low + step * index for index in range(count))
    certain_above = torch.cat([torch.zeros(1, 1, dtype=torch.float64), uniform_belief((1,), count - 1, CPU)], dim=1)
    target = max(Fraction(low), Fraction(low + step * count, 2))
    assert price(certain_above, levels) == nearest(levels, target)


@given(*GRID, st.data())
def test_values_uniform_within_two_ends_give_the_level_nearest_to_half_of_the_top_and_the_cost(
    low: int, step: int, count: int, data: st.DataObject
) -> None:
    levels = tuple(low + step * index for index in range(count))
    high = data.draw(st.integers(levels[-1], levels[-1] + step))
    cost = data.draw(st.integers(0, levels[-1]))
    chances = uniform_survival(number(low), number(high), torch.tensor(levels))
    target = max(Fraction(low), Fraction(high + cost, 2)) if high > low else Fraction(low)
    assert price_for(chances, levels, cost) == nearest(levels, target)


@given(
    st.lists(st.integers(0, 60), min_size=2, max_size=2).map(sorted),
    st.integers(0, 70),
    st.sets(st.integers(0, 70), min_size=1, max_size=12).map(sorted),
)
def test_values_uniform_within_two_ends_give_the_most_profitable_level_of_any_grid(
    ends: list[int], cost: int, grid: list[int]
) -> None:
    (low, high), levels = ends, tuple(grid)

    def chance(level: int) -> Fraction:
        if level <= low:
            return Fraction(1)
        return Fraction(max(high - level, 0), high - low) if high > low else Fraction(0)

    chances = uniform_survival(number(low), number(high), torch.tensor(levels))
    assert chances.tolist() == pytest.approx([float(chance(level)) for level in levels])
    assert price_for(chances, levels, cost) == most_profitable(levels, chance, cost)


@given(st.floats(0.02, 1), st.integers(0, 50), st.integers(1, 20), st.integers(0, 5))
def test_exponential_values_give_the_level_next_to_the_cost_and_the_mean(
    rate: float, cost: int, step: int, first: int
) -> None:
    target = cost + 1 / rate
    levels = tuple(range(first, math.ceil(target) + 2 * step, step))
    chances = exponential_survival(number(rate), torch.tensor(levels))
    assert chances.tolist() == pytest.approx([math.exp(-rate * level) for level in levels])
    chosen = price_for(chances, levels, cost)
    # The profit rises up to the target and falls from there on.
    below = sum(level <= target for level in levels) - 1
    neighbours = [index for index in (below, below + 1) if index >= 0]
    profits = {index: (levels[index] - cost) * math.exp(-rate * levels[index]) for index in neighbours}
    assert chosen in neighbours
    assert profits[chosen] == pytest.approx(max(profits.values()), rel=1e-9)


def test_survivals_of_several_buyers_are_computed_each_for_itself() -> None:
    levels = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in ([[0.0, 1.0]], [[2.0, 1.0]]))
    assert uniform_survival(low, high, levels).tolist() == [[[1.0, 0.5, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]]
    rates = exponential_survival(torch.tensor([0.0, math.log(2)], dtype=torch.float64), levels)
    assert rates[0].tolist() == [1.0] * 4
    assert rates[1].tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0625])


@given(st.integers(0, 70), st.sets(st.integers(0, 70), min_size=1, max_size=12).map(sorted))
def test_a_value_that_is_known_gives_the_highest_level_that_is_not_above_it(value: int, grid: list[int]) -> None:
    chances = uniform_survival(number(value), number(value), torch.tensor(grid))
    not_above = [index for index, level in enumerate(grid) if level <= value]
    # Where all levels are above it, none sells, and the lowest is as good as any.
    assert price_for(chances, tuple(grid)) == (not_above[-1] if not_above else 0)


@pytest.mark.parametrize("known", [1, 2, 3, 4])
def test_a_known_value_gives_the_highest_level_that_is_not_above_it(known: int) -> None:
    point = belief(*(float(number == known) for number in range(5)))
    assert price(point, (10, 20, 30, 40)) == known - 1


@pytest.mark.parametrize("cost", [40.5, 41, 1e9])
def test_a_cost_above_all_levels_withholds(cost: float) -> None:
    assert price(uniform_belief((1,), 4, CPU), (10, 20, 30, 40), cost) == 4


def test_a_cost_of_the_highest_level_still_sells_there() -> None:
    assert price(uniform_belief((1,), 4, CPU), (10, 20, 30, 40), 40) == 3


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
    rows = torch.cat([belief(0, 1, 0), belief(0, 0, 1), uniform_belief((1,), 2, CPU)])
    assert bayesian_price(survival(rows), torch.tensor([10, 20])).tolist() == [0, 1, 0]


def test_each_row_can_have_its_own_cost_and_any_shape_is_priced() -> None:
    chances = survival(uniform_belief((2, 3), 4, CPU))
    costs = torch.tensor([[0.0, 25.0, 41.0]]).expand(2, -1)
    # Four fifths at 10, three at 20, two at 30, one at 40: 12 at 20; 2 at 30 and 3 at 40; nothing is worth 41.
    assert bayesian_price(chances, torch.tensor([10, 20, 30, 40]), costs).tolist() == [[1, 3, 4]] * 2


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
    learned = posterior(uniform_belief((1,), 2, CPU), level=0, refused=1, attention=1.0)
    assert learned == pytest.approx([1, 1e-6, 1e-6], rel=1e-5)
    assert min(learned) > 0


@given(st.lists(st.tuples(*(st.integers(0, high) for high in (4, 3, 3))), max_size=6), st.floats(0, 1))
def test_a_posterior_is_a_distribution(observations: list[tuple[int, int, int]], attention: float) -> None:
    bins = uniform_belief((1,), 4, CPU)
    for level, sold, refused in observations:
        bins = torch.tensor([posterior(bins, level, sold, refused, attention)], dtype=torch.float64)
    assert bool((bins >= 0).all())
    assert float(bins.sum()) == pytest.approx(1)


def test_several_outcomes_at_once_weigh_the_prior_by_all_their_likelihoods() -> None:
    levels, sold, refused = torch.tensor([[0, 2, 1]]), torch.tensor([[1, 0, 0]]), torch.tensor([[0, 1, 2]])
    # A sale at the first level, a refusal at the third and two at the second, by a buyer who looks half of the time.
    weights = [0.1e-6, 0.2, 0.3 * 0.5**2, 0.4 * 0.5 * 0.5**2]
    expected = [weight / sum(weights) for weight in weights]
    learned = update_belief(belief(0.1, 0.2, 0.3, 0.4), levels, sold, refused, attention=0.5)
    assert learned[0].tolist() == pytest.approx(expected)


OUTCOMES = st.lists(st.tuples(*(st.integers(0, high) for high in (4, 3, 3))), min_size=1, max_size=6)


@given(OUTCOMES, st.floats(0, 1))
def test_outcomes_at_once_teach_what_they_teach_one_after_the_other(
    outcomes: list[tuple[int, int, int]], attention: float
) -> None:
    one_by_one = prior = belief(0.1, 0.3, 0.2, 0.25, 0.15)
    for outcome in outcomes:
        one_by_one = torch.tensor([posterior(one_by_one, *outcome, attention)], dtype=torch.float64)
    columns = (torch.tensor([column]) for column in zip(*outcomes, strict=True))
    at_once = update_belief(prior, *columns, attention)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-6, atol=1e-30)


def test_part_of_a_sale_teaches_part_of_it() -> None:
    prior, level = belief(0.1, 0.2, 0.3, 0.4), torch.tensor([[1]])
    half, none = torch.tensor([[0.5]]), torch.tensor([[0.0]])
    twice = update_belief(update_belief(prior, level, half, none, 0.9), level, half, none, 0.9)
    assert twice[0].tolist() == pytest.approx(posterior(prior, 1, sold=1))


def test_beliefs_about_several_buyers_are_updated_each_for_itself() -> None:
    prior = uniform_belief((2, 3), 3, CPU)
    level, sold, refused = (
        torch.tensor(rows).unsqueeze(2) for rows in ([[0, 1, 2]] * 2, [[1, 0, 1], [0] * 3], [[0, 1, 0], [1] * 3])
    )
    learned = update_belief(prior, level, sold, refused, 0.8)
    for market in range(2):
        for buyer in range(3):
            place = (market, buyer)
            alone = posterior(prior[0, :1], *(int(column[place]) for column in (level, sold, refused)), 0.8)
            assert learned[place].tolist() == pytest.approx(alone)


def test_a_value_that_drifts_goes_to_its_neighbours_and_seldom_anywhere() -> None:
    bins = belief(0.6, 0.0, 0.3, 0.1)
    torch.testing.assert_close(drift(bins, spread=0.0, jump=0.0), bins)
    # Half of each bin goes to each side, and what would leave at an end stays.
    assert drift(bins, spread=1.0, jump=0.0)[0].tolist() == pytest.approx([0.3, 0.45, 0.05, 0.2])
    assert drift(bins, spread=0.5, jump=0.0)[0].tolist() == pytest.approx([0.45, 0.225, 0.175, 0.15])
    assert drift(bins, spread=0.0, jump=0.2)[0].tolist() == pytest.approx([0.53, 0.05, 0.29, 0.13])
    assert drift(bins, spread=0.5, jump=1.0)[0].tolist() == pytest.approx([0.25] * 4)


@given(OUTCOMES, st.floats(0, 1), st.floats(0, 1))
def test_a_belief_that_drifted_is_a_distribution(
    outcomes: list[tuple[int, int, int]], spread: float, jump: float
) -> None:
    bins = uniform_belief((1,), 4, CPU)
    for outcome in outcomes:
        bins = drift(torch.tensor([posterior(bins, *outcome)], dtype=torch.float64), spread, jump)
    assert bool((bins >= 0).all())
    assert float(bins.sum()) == pytest.approx(1)


def test_a_belief_survives_any_number_of_observations() -> None:
    belief = uniform_belief((1,), 2, CPU)
    many = torch.tensor([[10_000]])
    posterior = update_belief(belief, torch.tensor([[0]]), many, many, attention=1.0)
    assert bool(posterior.isfinite().all())
    assert float(posterior.sum()) == pytest.approx(1)


def test_a_price_below_cost_is_never_posted() -> None:
    belief = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)  # the value is below every level
    assert int(bayesian_price(survival(belief), torch.tensor([5, 10]), cost=7.0)) == 1
