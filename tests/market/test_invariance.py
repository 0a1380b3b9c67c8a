"""A market is the same alone and as one of many, and markets leave each other alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.endowments import Complementary, Dirichlet
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.market import engine as engine_module
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import Orders
from paramarket_env.market.snapshot import fork
from paramarket_env.market.state import tree_map
from tests.helpers import CROWD, frozen, new_engine, orders, priced_market, random_orders

SEEDS = [11, 3, 7, 5, 2, 13, 1]
PLACE = 3
ENDOWMENTS: list[dict[str, Any]] = [
    {"endowment": Complementary(scarcity=0.25)},
    {"endowment": Dirichlet(concentration=0.5), "batch_size": 4},
    {"endowment": "iid"},
    CROWD,
]


def row_of(chosen: Orders, market: int) -> Orders:
    """The orders of one market alone."""
    return tree_map(lambda part: part[market : market + 1], chosen)


def side_by_side(config: MarketConfig, steps: int) -> Iterator[tuple[Engine, Engine]]:
    """The same market alone and as one of seven, after the reset and after each step of the same random orders."""
    alone, many = new_engine(config, [SEEDS[PLACE]]), new_engine(config, SEEDS)
    rng = np.random.default_rng(8)
    yield alone, many
    for _ in range(steps):
        chosen = random_orders(many, rng)
        many.step(chosen)
        alone.step(row_of(chosen, PLACE))
        yield alone, many


@pytest.mark.parametrize("endowment", ENDOWMENTS)
def test_a_market_begins_alike_to_the_bit_alone_and_as_one_of_seven(endowment: dict[str, Any]) -> None:
    alone, many = next(side_by_side(priced_market(**endowment), steps=0))
    one_of_many = frozen(fork(many.state, torch.tensor([PLACE])))
    for name, tensor in frozen(alone.state).items():
        if name not in ("loss", "quotes.loss"):
            assert one_of_many[name] == tensor, name


@pytest.mark.parametrize("endowment", ENDOWMENTS)
def test_a_market_with_trades_goes_on_alike_alone_and_as_one_of_seven(endowment: dict[str, Any]) -> None:
    for alone, many in side_by_side(priced_market(**endowment), steps=5):
        for name in ("loss", "parameters", "gain"):
            single, one = getattr(alone.state, name)[0], getattr(many.state, name)[PLACE]
            torch.testing.assert_close(one, single, rtol=0, atol=2e-5)
        for name in ("balance", "ask", "bought", "sold", "refusals", "passes"):
            assert torch.equal(getattr(many.state, name)[PLACE], getattr(alone.state, name)[0]), name
    assert int(alone.state.bought.sum()) > 3


def test_markets_of_different_seeds_differ() -> None:
    state = new_engine(priced_market(), SEEDS).state
    for tensor in (
        state.parameters,
        state.partition.validation,
        state.partition.test,
        state.partition.endowments,
        state.loss,
    ):
        assert len({row.numpy().tobytes() for row in tensor}) == len(SEEDS)


@pytest.mark.parametrize("endowment", ENDOWMENTS)
def test_the_minibatches_are_the_same_alone_and_as_one_of_seven(
    endowment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[tuple[int, ...]]] = []
    original = engine_module.train

    def spying(*arguments: Any, **steps: Any) -> None:
        samples: Tensor = arguments[5]
        passes.append([tuple(number for number in row if number >= 0) for row in samples.tolist()])
        original(*arguments, **steps)

    monkeypatch.setattr(engine_module, "train", spying)
    alone, many = new_engine(priced_market(**endowment), [SEEDS[PLACE]]), new_engine(priced_market(**endowment), SEEDS)
    for _ in range(2):
        alone.step(orders(alone, train=(0, 1, 2)))
        many.step(orders(many, train=(0, 1, 2)))
    first_alone, first_many, second_alone, second_many = passes
    assert set(first_alone) <= set(first_many)
    assert set(second_alone) <= set(second_many)
    assert not set(first_alone) & set(second_alone)


@pytest.mark.parametrize("changes", [{}, {"optimizer": Adam(lr=0.01)}, CROWD])
def test_a_partial_reset_leaves_the_other_markets_to_the_bit(changes: dict[str, Any]) -> None:
    engine, rng = new_engine(priced_market(**changes), [0, 1, 2, 3]), np.random.default_rng(4)
    for _ in range(3):
        engine.step(random_orders(engine, rng))
    others = torch.tensor([0, 2])
    before = frozen(fork(engine.state, others))
    engine.reset(torch.tensor([8, 9]), torch.tensor([3, 1]))
    assert frozen(fork(engine.state, others)) == before
    assert engine.state.seeds.tolist() == [0, 9, 2, 8]
    assert engine.state.cycle.tolist() == [3, 0, 3, 0]


@pytest.mark.parametrize("changes", [{}, CROWD])
def test_a_partial_reset_begins_the_same_episode_as_a_whole_one(changes: dict[str, Any]) -> None:
    engine, rng = new_engine(priced_market(**changes), [0, 1]), np.random.default_rng(4)
    engine.step(random_orders(engine, rng))
    engine.reset(torch.tensor([8]), torch.tensor([1]))
    fresh = new_engine(engine.config, [5, 8])
    reset, whole = (frozen(fork(state, torch.tensor([1]))) for state in (engine.state, fresh.state))
    assert {name for name in whole if reset[name] != whole[name]} <= {"loss", "quotes.loss"}
    torch.testing.assert_close(engine.state.loss[1], fresh.state.loss[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(engine.state.quotes.loss[1], fresh.state.quotes.loss[1], rtol=1e-6, atol=0)


def test_markets_that_were_reset_apart_end_apart() -> None:
    engine = new_engine(priced_market(max_cycles=3), [0, 1])
    engine.step(orders(engine))
    engine.reset(torch.tensor([2]), torch.tensor([0]))
    ends = [engine.step(orders(engine)).truncated.tolist() for _ in range(3)]
    assert ends == [[False, False], [False, True], [True, True]]


def test_the_same_orders_and_seed_give_the_same_state_to_the_bit() -> None:
    states = []
    for _ in range(2):
        engine, rng = new_engine(priced_market(optimizer=SGD(lr=0.2, momentum=0.9)), SEEDS), np.random.default_rng(4)
        for _ in range(4):
            engine.step(random_orders(engine, rng))
        states.append(frozen(engine.state))
    assert states[0] == states[1]


def test_the_seeds_given_to_a_reset_are_copied() -> None:
    engine, seeds = new_engine(priced_market(), SEEDS), torch.tensor(SEEDS)
    engine.reset(seeds)
    seeds += 100
    assert engine.state.seeds.tolist() == SEEDS
