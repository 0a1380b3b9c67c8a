"""Copies of markets go on as the market itself would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.market.engine import Engine
from paramarket_env.market.saved import load, restore, save
from paramarket_env.market.snapshot import fork, snapshot
from paramarket_env.market.state import MarketState, tree_map, write_rows
from tests.helpers import digest, frozen, leaves, new_engine, priced_market, random_actions, random_orders

OPTIMIZERS: list[dict[str, Any]] = [{"optimizer": Adam(lr=0.01)}, {"optimizer": SGD(lr=0.2, momentum=0.9)}]


def midway(seeds: tuple[int, ...] = (4, 5), **changes: Any) -> Engine:
    """Markets after three steps with trades and training."""
    engine, rng = new_engine(priced_market(max_cycles=9, **changes), seeds), np.random.default_rng(1)
    for _ in range(3):
        engine.step(random_orders(engine, rng))
    assert int(engine.state.bought.sum()) > 0
    return engine


def go_on(engine: Engine, state: MarketState) -> dict[str, bytes]:
    """The state after four more steps from ``state``."""
    engine.state, rng = state, np.random.default_rng(2)
    for _ in range(4):
        engine.step(random_orders(engine, rng))
    return frozen(engine.state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_market_goes_on_from_a_copy_to_the_bit_as_it_would_itself(optimizer: dict[str, Any]) -> None:
    engine = midway(**optimizer)
    copy = snapshot(engine.state)
    first = go_on(engine, engine.state)
    assert go_on(engine, snapshot(copy)) == first
    assert go_on(Engine(engine.config, 2, "cpu"), copy) == first


def test_a_copy_shares_no_memory_and_stays_as_it_is() -> None:
    engine = midway()
    copy = snapshot(engine.state)
    before = frozen(copy)
    addresses = {tensor.untyped_storage().data_ptr() for _, tensor in leaves(engine.state) if tensor.numel()}
    assert not addresses & {tensor.untyped_storage().data_ptr() for _, tensor in leaves(copy) if tensor.numel()}
    assert frozen(engine.state) == before
    assert go_on(engine, engine.state) != before
    assert frozen(copy) == before


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_file_brings_a_market_back_to_the_bit(optimizer: dict[str, Any], tmp_path: Path) -> None:
    engine = midway(**optimizer)
    save(engine, tmp_path / "market.pt")
    before = frozen(engine.state)
    after = go_on(engine, engine.state)
    other = Engine(engine.config, 2, "cpu")
    for restored in (engine, other):
        load(restored, tmp_path / "market.pt")
        assert frozen(restored.state) == before
        assert go_on(restored, restored.state) == after != before
    assert [file.name for file in tmp_path.iterdir()] == ["market.pt"]


def test_a_fork_repeats_and_picks_markets() -> None:
    engine = midway((4, 5, 6))
    state = engine.state
    forked = fork(state, torch.tensor([2, 0, 2, 2]))
    assert forked.seeds.tolist() == [6, 4, 6, 6]
    originals = dict(leaves(state))
    for name, tensor in leaves(forked):
        assert torch.equal(tensor, originals[name][[2, 0, 2, 2]]), name


def test_branches_of_a_fork_go_on_alike_with_equal_orders_and_apart_with_others() -> None:
    single = midway((4,))
    engine = Engine(single.config, 3, "cpu")
    engine.state = fork(single.state, torch.tensor([0, 0, 0]))
    before, rng = frozen(single.state), np.random.default_rng(2)
    for _ in range(3):
        chosen = random_orders(engine, rng)
        for column in (chosen.train, chosen.offer, chosen.ask):
            column[1] = column[0]
        engine.step(chosen)
    losses = engine.state.loss
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)
    assert torch.equal(engine.state.balance[1], engine.state.balance[0])
    assert not torch.allclose(losses[2], losses[0])
    assert frozen(single.state) == before


def test_rows_are_written_where_they_belong_and_the_source_stays() -> None:
    target, source = midway((4, 5, 6)).state, midway((7, 8)).state
    before = frozen(target), frozen(source)
    written = snapshot(target)
    write_rows(written, torch.tensor([2, 0]), source)
    assert written.seeds.tolist() == [8, 5, 7]
    assert frozen(fork(written, torch.tensor([1]))) == frozen(fork(target, torch.tensor([1])))
    assert frozen(fork(written, torch.tensor([2, 0]))) == before[1]
    assert (frozen(target), frozen(source)) == before


def test_a_state_is_made_of_nothing_but_tensors() -> None:
    with pytest.raises(TypeError, match="not list"):
        tree_map(torch.clone, [torch.zeros(1)])


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_an_environment_goes_back_to_a_snapshot_as_often_as_wanted(mode: Any) -> None:
    env = ParaMarketEnv(priced_market(action_mode=mode), render_mode="ansi", device="cpu")
    env.reset(seed=3)
    rng = np.random.default_rng(1)
    for _ in range(2):
        env.step(random_actions(env, rng))
    saved, shown, state = env.snapshot(), env.render(), env.state()
    ends = []
    for _ in range(3):
        env.restore(saved)
        assert env.render() == shown
        assert np.array_equal(env.state(), state)
        rng = np.random.default_rng(2)
        steps = []
        while env.agents:
            steps.append(env.step(random_actions(env, rng)))
        assert len(steps) == 4
        ends.append(digest([steps, env.market_batch.engine.state.parameters, env.render()]))
    assert len(set(ends)) == 1
