"""Copies of markets go on as the market itself would have."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch

from paramarket_env.adapters.pettingzoo import ParaMarketEnv, Snapshot
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.market.engine import Engine
from paramarket_env.market.saved import load, restore, save
from paramarket_env.market.snapshot import fork, snapshot
from paramarket_env.market.state import MarketState, tree_map, write_rows
from tests.helpers import CROWD, digest, frozen, leaves, new_engine, priced_market, random_actions, random_orders

MOMENTUM = SGD(lr=0.2, momentum=0.9)
MARKETS: list[dict[str, Any]] = [{"optimizer": Adam(lr=0.01)}, {"optimizer": MOMENTUM}, CROWD]


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


@pytest.mark.parametrize("changes", MARKETS)
def test_a_market_goes_on_from_a_copy_to_the_bit_as_it_would_itself(changes: dict[str, Any]) -> None:
    engine = midway(**changes)
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


@pytest.mark.parametrize("changes", MARKETS)
def test_a_file_brings_a_market_back_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    engine = midway(**changes)
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


# --- markets that do not fit ---------------------------------------------------------------------------------------


def spoiled(state: MarketState, **parts: Any) -> MarketState:
    """A state with other parts."""
    return replace(snapshot(state), **parts)


NOT_FITTING: list[tuple[Callable[[], object], str]] = [
    (lambda: midway((4,)).state, "number of markets=1 is not allowed: it must be 2"),
    (lambda: midway((4, 5, 6)).state, "number of markets=3"),
    (lambda: midway(agents=4).state, r"shape of .*=\(2, 4, torch"),
    (lambda: midway(architecture="mlp(hidden=(9,))").state, "shape of optimizer.velocity=None"),
    (lambda: midway(optimizer=MOMENTUM, architecture="mlp(hidden=(9,))").state, "shape of optimizer.velocity="),
    (lambda: midway(optimizer="adam").state, "shape of optimizer"),
    (lambda: midway(optimizer=MOMENTUM, parameter_sets="layers").state, "shape of quotes"),
    (lambda: midway(optimizer=MOMENTUM, mechanism="personal").state, "shape of ask="),
    (lambda: spoiled(midway().state, loss=midway().state.loss.float()), "shape of loss=.*float32"),
    (lambda: spoiled(midway().state, loss=3), "loss=3 is not allowed: it must be a tensor"),
    (lambda: spoiled(midway().state, optimizer={}), "shape of optimizer"),
    (lambda: None, "state='NoneType' is not allowed: it must be a MarketState"),
    (lambda: {"loss": torch.zeros(2, 3)}, "state='dict'"),
]


@pytest.mark.parametrize(("other", "message"), NOT_FITTING)
def test_a_state_of_other_markets_is_refused_in_one_line_before_anything_changes(
    other: Callable[[], Any], message: str
) -> None:
    engine = midway(optimizer=MOMENTUM)
    before = frozen(engine.state)
    with pytest.raises(ValueError, match=message) as raised:
        restore(engine, other())
    assert "\n" not in str(raised.value)
    assert frozen(engine.state) == before


def damaged(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a file."""
    content = torch.load(path, weights_only=True)
    torch.save(change(content), path)


def without_loss(content: dict[str, Any]) -> dict[str, Any]:
    """The state in a file without one of its parts."""
    return {name: part for name, part in content["state"].items() if name != "loss"}


class Code:
    """An object that makes a folder beside a file when it is read from there."""

    def __init__(self, path: Path) -> None:
        self.folder = str(path.with_name("executed"))

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another configuration": lambda path: save(midway(tick=0.01), path),
    "more markets": lambda path: save(midway((4, 5, 6)), path),
    "another version": lambda path: damaged(path, lambda content: content | {"version": 99}),
    "no version": lambda path: damaged(path, lambda content: content["state"]),
    "no state": lambda path: damaged(path, lambda content: {"version": content["version"]}),
    "a state that is no state": lambda path: damaged(path, lambda content: content | {"state": 3}),
    "a missing part": lambda path: damaged(path, lambda content: content | {"state": without_loss(content)}),
    "another part": lambda path: damaged(path, lambda content: content["state"].update(more=1) or content),
    "no partition": lambda path: damaged(path, lambda content: content["state"].update(partition=1) or content),
    "a list": lambda path: damaged(path, lambda content: [content]),
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a market"),
    "code": lambda path: path.write_bytes(pickle.dumps(Code(path))),
    "code among tensors": lambda path: damaged(path, lambda content: content | {"state": Code(path)}),
} | {
    f"the first {share:.0%}": lambda path, share=share: path.write_bytes(
        path.read_bytes()[: int(share * path.stat().st_size)]
    )
    for share in (0.01, 0.3, 0.9, 0.999)
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_of_something_else_is_refused_in_one_line_that_names_it(damage: str, tmp_path: Path) -> None:
    engine, path = midway(), tmp_path / "market.pt"
    save(engine, path)
    DAMAGES[damage](path)
    before = frozen(engine.state)
    with pytest.raises(ValueError, match=r"market\.pt") as raised:
        load(engine, path)
    assert "\n" not in str(raised.value)
    assert frozen(engine.state) == before
    assert not (tmp_path / "executed").exists()


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="market"):
        load(midway(), tmp_path / "market.pt")


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, path = midway(), tmp_path / "market.pt"
    save(engine, path)
    before = path.read_bytes()

    def full(_: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save(engine, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def taken() -> Snapshot:
    """The snapshot of an environment with the default prices."""
    env = ParaMarketEnv(priced_market(), device="cpu")
    env.reset(seed=4)
    return env.snapshot()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: ParaMarketEnv(priced_market(tick=0.01), device="cpu"), "another configuration"),
        (lambda: ParaMarketEnv(priced_market(agents=4), device="cpu"), "another configuration"),
        (lambda: None, "snapshot='NoneType'"),
        (lambda: replace(taken(), version=0), "version of the snapshot=0 is not allowed: it must be 4"),
        (lambda: replace(taken(), state=midway((4, 5)).state), "number of markets=2"),
        (lambda: (taken().state, [], None), "snapshot='tuple'"),
    ],
)
def test_an_environment_refuses_a_copy_of_another_market(other: Any, message: str) -> None:
    env, copied = ParaMarketEnv(priced_market(), render_mode="ansi", device="cpu"), other()
    env.reset(seed=3)
    if isinstance(copied, ParaMarketEnv):
        copied.reset(seed=4)
        copied = copied.snapshot()
    before, shown = frozen(env.market_batch.engine.state), env.render()
    with pytest.raises(ValueError, match=message):
        env.restore(copied)
    assert (frozen(env.market_batch.engine.state), env.render()) == (before, shown)


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
