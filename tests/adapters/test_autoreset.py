"""Markets that begin anew by themselves play the episodes that each would play alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paramarket_env.adapters.autoreset import AutoresetBatch, to_numpy
from paramarket_env.seeding import as_seeds
from tests.helpers import play_alone, priced_market, scripted, spoil

MODES = ("verb", "round")
SEEDS = (5, 11, 2)
SPOILED = (2, 1)  # at step 2 all networks of market 1 break, so that its episodes end at other steps than the others'


@pytest.mark.parametrize("mode", MODES)
def test_episodes_are_those_of_each_market_alone(mode: str) -> None:
    config = priced_market(action_mode=mode)
    actions = scripted(config, 15, len(SEEDS), SPOILED)
    alone = [
        play_alone(config, seed, actions[:, market], SPOILED[0] if market == SPOILED[1] else None)
        for market, seed in enumerate(SEEDS)
    ]
    autoreset = AutoresetBatch(config, len(SEEDS), device="cpu")
    autoreset.reset(SEEDS)
    torch.testing.assert_close(autoreset.observation.numpy(), np.stack([played.first for played in alone]))
    for step, chosen in enumerate(actions):
        if step == SPOILED[0]:
            spoil(autoreset.market_batch.engine, SPOILED[1])
        advance, ending = autoreset.step(torch.from_numpy(chosen))
        expected = {name: np.stack([getattr(played, name)[step] for played in alone]) for name in ("seen", "reward")}
        torch.testing.assert_close(autoreset.observation.numpy(), expected["seen"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(advance.record.reward.numpy(), expected["reward"], rtol=1e-4, atol=1e-5)
        assert advance.ended.tolist() == [bool(played.ended[step]) for played in alone]
        ends = np.flatnonzero(advance.ended)
        assert (ending is not None) == (len(ends) > 0)
        if ending is not None:
            last = np.stack([alone[market].last[step] for market in ends])
            assert ending.markets.tolist() == ends.tolist()
            torch.testing.assert_close(ending.observation.numpy(), last, rtol=1e-4, atol=1e-5)
    assert {step for played in alone for step in np.flatnonzero(played.ended).tolist()} == {2, 5, 8, 11, 14}


def test_the_first_seeds_are_nobodys_and_the_next_follow() -> None:
    runs = [AutoresetBatch(priced_market(), 2, device="cpu") for _ in range(2)]
    for autoreset in runs:
        autoreset.reset()
    seeds = [autoreset.market_batch.seeds for autoreset in runs]
    assert not torch.equal(*seeds)
    for autoreset in runs:
        autoreset.reset(7)
        autoreset.reset()
    again = [autoreset.market_batch.seeds for autoreset in runs]
    assert torch.equal(*again)
    assert not set(again[0].tolist()) & set(as_seeds(7, 2, torch.device("cpu")).tolist())


def test_the_endings_are_of_the_old_episode() -> None:
    autoreset = AutoresetBatch(priced_market(max_cycles=2), 2, device="cpu")
    autoreset.reset(3)
    train = torch.ones(2, 3, dtype=torch.int64)
    assert autoreset.step(train)[1] is None
    advance, ending = autoreset.step(train)
    assert ending is not None
    layout = autoreset.market_batch.layout
    assert bool((layout.unpack(ending.observation)["time_left"] == 0).all())
    assert bool((layout.unpack(autoreset.observation)["time_left"] == 1).all())
    loss = torch.from_numpy(ending.infos["loss"])
    torch.testing.assert_close(layout.unpack(ending.observation)["loss"].squeeze(-1).double(), loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.from_numpy(ending.infos["gain"]), advance.record.gain)
    assert ending.mask.shape == autoreset.mask.shape
    assert not bool(autoreset.market_batch.actions.legal_purchases(ending.mask).any())  # the market is closed


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_that_failed_idles_until_its_market_ends(mode: str) -> None:
    config = priced_market(action_mode=mode)
    autoreset = AutoresetBatch(config, 2, device="cpu")
    autoreset.reset(3)
    train = torch.ones(2, 3, dtype=torch.int64)
    train = train if mode == "verb" else torch.stack([train, 0 * train, 0 * train], dim=2)
    spoil(autoreset.market_batch.engine, 0, 1)
    for cycle in range(config.max_cycles):
        advance, ending = autoreset.step(train)
        assert bool(advance.record.terminated[0, 1]) == (cycle == 0)
        assert advance.alive.tolist() == [[True, False, True], [True, True, True]]
        assert (ending is not None) == (cycle == config.max_cycles - 1)
        if ending is None:
            assert int(autoreset.mask[0, 1].sum()) == len(autoreset.market_batch.actions.nvec)
            assert bool(autoreset.mask[0, 1][torch.tensor([0, 2, 5][: len(autoreset.market_batch.actions.nvec)])].all())
            assert int(autoreset.mask[0, 0].sum()) > len(autoreset.market_batch.actions.nvec)
        if cycle > 0:
            assert float(advance.record.reward[0, 1]) == 0
    assert bool(autoreset.market_batch.engine.state.alive.all())
    assert bool((autoreset.mask == autoreset.market_batch.mask()).all())


def test_a_market_without_a_living_learner_ends() -> None:
    autoreset = AutoresetBatch(priced_market(), 3, torch.tensor([[False, True, False]] * 3), "cpu")
    autoreset.reset(3)
    spoil(autoreset.market_batch.engine, 0, 1)
    spoil(autoreset.market_batch.engine, 2, 0)
    advance, ending = autoreset.step(torch.ones(3, 3, dtype=torch.int64))
    assert advance.ended.tolist() == [True, False, False]
    assert ending is not None
    assert ending.markets.tolist() == [0]
    assert autoreset.market_batch.engine.state.cycle.tolist() == [0, 1, 1]
    assert autoreset.market_batch.engine.state.alive.tolist() == [[True] * 3, [True] * 3, [False, True, True]]


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="before the first reset"):
        AutoresetBatch(priced_market(), 2, device="cpu").step(torch.zeros(2, 3, dtype=torch.int64))


def test_infos_have_the_same_names_and_types_at_the_reset_and_after_a_step() -> None:
    autoreset = AutoresetBatch(priced_market(), 2, device="cpu")
    autoreset.reset(3)
    infos = autoreset.market_batch.infos
    blank = {name: (column.dtype, column.shape) for name, column in infos().items()}
    record = autoreset.advance(torch.ones(2, 3, dtype=torch.int64)).record
    assert {name: (column.dtype, column.shape) for name, column in infos(record).items()} == blank


def test_an_array_is_a_copy_or_shares_the_memory() -> None:
    values = torch.arange(6).view(2, 3)
    for part in (values, values[:, 1]):
        copied, shared = to_numpy(part, copy=True), to_numpy(part, copy=False)
        assert np.array_equal(copied, part.numpy())
        assert not np.shares_memory(copied, values.numpy())
        assert np.shares_memory(shared, values.numpy())
