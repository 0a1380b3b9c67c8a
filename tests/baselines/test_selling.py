"""The Bayesian seller: what it learns from, and when it posts."""

from __future__ import annotations

from typing import Any

import torch

from baselines.selling import BayesianSeller
from paramarket_env.economics.pricing import forget, uniform_belief, update_belief
from paramarket_env.interface.policy import Seat
from tests.baselines.test_rules import seat, see
from tests.helpers import priced_market

CONFIG = priced_market(action_mode="round")  # levels 0, 10, 25, 60 ticks of 0.001; two possible buyers


def fields_of(chair: Seat, **values: Any) -> dict[str, torch.Tensor]:
    return chair.layout.unpack(see(chair, **values)[0])


def posting(level: int, **values: object) -> dict[str, object]:
    price = CONFIG.economy.ask_levels[level] * CONFIG.economy.tick
    return {"selling": [1], "ask": [price], "market_open": [1], "time_left": [0.5]} | values


def test_it_begins_with_the_price_that_is_optimal_for_a_uniform_belief() -> None:
    chair = seat(CONFIG)
    # Survival 4/5, 3/5, 2/5, 1/5: revenue 0, 6, 10, 12, so level 3, 20 % above level 2.
    assert BayesianSeller(chair).ask(fields_of(chair, **posting(2, time_left=[1]))).item() == 3


def test_it_leaves_an_ask_that_is_nearly_optimal() -> None:
    chair = seat(CONFIG)
    assert BayesianSeller(chair).ask(fields_of(chair, **posting(3, time_left=[1]))).item() == -1


def test_it_learns_what_a_buyer_would_have_seen() -> None:
    chair = seat(CONFIG)
    seller = BayesianSeller(chair)
    seller.ask(fields_of(chair, **posting(3, time_left=[1])))
    seller.ask(fields_of(chair, **posting(1, sold_now=[1])))  # the sale was made at level 3, not at today's ask
    level, one = torch.tensor([3]), torch.tensor([1])
    expected = forget(update_belief(uniform_belief(1, 4, level.device), level, one, one, seller.attention), 0.02)
    torch.testing.assert_close(seller.belief, expected)


def test_sales_raise_the_price_and_refusals_lower_it() -> None:
    chair = seat(CONFIG)
    seller = BayesianSeller(chair)
    seller.ask(fields_of(chair, **posting(1, time_left=[1])))
    asks = [seller.ask(fields_of(chair, **posting(3, sold_now=[0]))).item() for _ in range(3)]
    assert asks[-1] in (1, 2)  # refused at the top: lower
    asks = [seller.ask(fields_of(chair, **posting(1, sold_now=[2]))).item() for _ in range(30)]
    assert asks[-1] > 1


def test_a_closed_market_teaches_nothing() -> None:
    chair = seat(CONFIG)
    seller = BayesianSeller(chair)
    seller.ask(fields_of(chair, **posting(3, market_open=[0], time_left=[1])))
    seller.ask(fields_of(chair, **posting(3)))
    torch.testing.assert_close(seller.belief, uniform_belief(1, 4, seller.belief.device))


def test_a_new_episode_clears_the_memory_of_its_row_alone() -> None:
    chair = seat(CONFIG, rows=2)
    seller = BayesianSeller(chair)
    first = fields_of(chair, rows=2, **posting(3, time_left=[1]))
    seller.ask(first)
    seller.ask(fields_of(chair, rows=2, **posting(3)))
    learned = seller.belief.clone()
    again = fields_of(chair, rows=2, **posting(3))
    again["time_left"][1] = 1
    seller.ask(again)
    assert not torch.equal(seller.belief[0], learned[0])
    torch.testing.assert_close(seller.belief[1], uniform_belief(1, 4, learned.device)[0])


def test_a_withheld_ask_earns_nothing_and_is_replaced() -> None:
    chair = seat(CONFIG)
    fields = fields_of(chair, market_open=[1], time_left=[1])
    assert BayesianSeller(chair).ask(fields).item() == 3
