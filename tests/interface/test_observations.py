"""What an agent sees: within bounds, named field by field, and nothing that is another agent's business."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import Field, ObservationLayout, build_layout
from paramarket_env.interface.parallel import ParaMarketEnv
from paramarket_env.market.engine import Orders
from tests.helpers import orders, play, priced_market, random_orders, tiny_market

MODES = ("verb", "round")
OWN = ["time_left", "market_open", "loss", "last_gain", "balance", "ask", "selling", "value_per_nat", "since_purchase"]
SALES = ["sold", "sold_now", "earned"]
OFFERS = ["offer_gain", "offer_price", "offer_legal", "trade_price", "trades_now"]
FIELDS = [*OWN, *SALES, *OFFERS]


def new_batch(**changes: Any) -> MarketBatch:
    """Two markets of three agents who sell two layers each, after some trades."""
    config = priced_market(parameter_sets="layers", value_per_nat=(0.5, 1.0, 3.0), **changes)
    batch, rng = MarketBatch(config, markets=2, device="cpu"), np.random.default_rng(0)
    batch.reset(torch.tensor([1, 2]))
    for _ in range(3):
        batch.engine.step(random_orders(batch.engine, rng))
    return batch


def seen(batch: MarketBatch, name: str) -> Tensor:
    return batch.layout.unpack(batch.observe())[name]


# --- the layout -----------------------------------------------------------------------------------------------------


def test_the_layout_has_these_fields_in_this_order() -> None:
    layout = build_layout(priced_market(), offers=4)
    assert [field.name for field in layout.fields] == FIELDS
    assert layout.size == 12 + 3 * 4 + 2 * 2
    assert layout.space().shape == (layout.size,)
    assert bool((layout.low < layout.high).all())


def test_unpacking_a_packed_vector_gives_the_fields_back() -> None:
    layout = new_batch().layout
    generator = torch.Generator().manual_seed(0)
    low, high = (layout.unpack(torch.from_numpy(bound)) for bound in (layout.low, layout.high))
    shares = {name: torch.rand(5, 2, len(low[name]), generator=generator) for name in low}
    values = {name: low[name] + share * (high[name] - low[name]) for name, share in shares.items()}
    for packed in (layout.pack(values), layout.pack(values).numpy()):
        unpacked = layout.unpack(packed)
        assert list(unpacked) == FIELDS
        assert all(np.array_equal(unpacked[name], values[name]) for name in values)


def test_packing_clips_to_the_bounds_and_gives_float32() -> None:
    layout = ObservationLayout((Field("a", 2, -1, 1, "", ""), Field("b", 1, 0, 3, "", "")))
    packed = layout.pack({"b": torch.tensor([7]), "a": torch.tensor([-2.0, 0.5], dtype=torch.float64)})
    assert packed.dtype == torch.float32
    assert packed.tolist() == [-1.0, 0.5, 3.0]


def test_the_table_tells_every_field_with_its_size_bounds_unit_and_meaning() -> None:
    layout = new_batch().layout
    head, rule, *rows = layout.table().splitlines()
    assert (head.count("|"), rule) == (7, "|---|---|---|---|---|---|")
    assert len(rows) == len(layout.fields)
    for row, field in zip(rows, layout.fields, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        bounds = f"{field.low:g}", f"{field.high:g}"
        assert cells == [f"`{field.name}`", str(field.size), *bounds, field.unit, field.meaning]
        assert field.unit
        assert field.meaning


# --- the values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"lr": 50.0}, {"budget": 0}, {"opens_at": 3, "initial_ask": 4}])
@pytest.mark.parametrize("mode", MODES)
def test_observations_and_states_are_within_their_spaces_at_every_step(mode: Any, changes: dict[str, Any]) -> None:
    env = ParaMarketEnv(priced_market(action_mode=mode, **changes), device="cpu")
    for returned in play(env, seed=1):
        for agent, observation in returned[0].items():
            assert observation.dtype == np.float32
            assert env.observation_space(agent).contains(observation)
        assert env.state_space.contains(env.state())


def test_the_state_is_all_observations_stacked() -> None:
    env = ParaMarketEnv(priced_market(), device="cpu")
    for returned in play(env, seed=1):
        state = env.state()
        assert (state.dtype, state.shape) == (np.float32, (3, env.layout.size))
        assert np.array_equal(state, np.stack([returned[0][agent] for agent in env.possible_agents]))


def test_own_fields_say_what_the_market_says() -> None:
    batch = new_batch()
    state, tick = batch.engine.state, batch.config.economy.tick
    levels = (*batch.config.economy.ask_levels, 0)
    expected = {
        "time_left": torch.full((2, 3), 0.5),
        "market_open": torch.ones(2, 3),
        "loss": state.loss,
        "last_gain": state.gain,
        "balance": state.balance.double() * tick,
        "ask": torch.tensor([[levels[level] * tick for level in row] for row in state.ask.tolist()]),
        "selling": state.ask < 4,
        "value_per_nat": torch.tensor([[0.5, 1.0, 3.0]] * 2),
        "since_purchase": state.since_purchase / 6,
        "sold": state.sold,
        "sold_now": state.sold_now,
        "earned": state.earned.double() * tick,
    }
    assert int(state.sold.sum()) > 2
    for name, values in expected.items():
        torch.testing.assert_close(seen(batch, name).squeeze(-1), values.float(), msg=name)


def test_offers_stand_seller_by_seller_and_set_by_set() -> None:
    batch = new_batch()
    batch.engine.state.ask = torch.tensor([[1, 4, 3], [0, 2, 3]])
    batch.engine.state.balance = torch.tensor([[60, 60, 60], [20, 20, 20]])
    prices = [[[0, 0, 60, 60], [10, 10, 60, 60], [10, 10, 0, 0]], [[25, 25, 60, 60], [0, 0, 60, 60], [0, 0, 25, 25]]]
    legal = [[[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]]
    torch.testing.assert_close(seen(batch, "offer_price"), torch.tensor(prices) * 0.001)
    assert seen(batch, "offer_legal").int().tolist() == legal
    state = batch.engine.state
    gains = state.loss[..., None] - state.quotes.loss.flatten(2)
    torch.testing.assert_close(seen(batch, "offer_gain"), gains.float())


def test_the_sales_of_the_others_are_public() -> None:
    batch = MarketBatch(priced_market(), device="cpu")
    batch.reset(torch.tensor([1]))
    batch.engine.step(orders(batch.engine, buy={0: 1, 1: 1}, ask={2: 3}))
    assert seen(batch, "trade_price")[0].tolist() == pytest.approx(np.array([[0, 0.01], [0, 0.01], [0, 0]]))
    assert seen(batch, "trades_now")[0].tolist() == [[0, 2], [0, 2], [0, 0]]
    batch.engine.step(orders(batch.engine))
    assert seen(batch, "trade_price")[0].tolist() == pytest.approx(np.array([[0, 0.01], [0, 0.01], [0, 0]]))
    assert not bool(seen(batch, "trades_now").any())


def test_what_is_not_quoted_shows_no_gain_and_is_not_legal() -> None:
    batch = MarketBatch(tiny_market(opens_at=2), device="cpu")
    batch.reset(torch.tensor([1]))
    assert not any(bool(seen(batch, name).any()) for name in ("offer_gain", "offer_legal", "market_open"))
    for _ in range(2):
        batch.engine.step(orders(batch.engine))
    assert all(bool(seen(batch, name).all()) for name in ("offer_gain", "offer_legal", "market_open"))


# --- what nobody else may see ---------------------------------------------------------------------------------------


def kappa(batch: MarketBatch) -> None:
    batch.engine.values = batch.engine.values.clone()
    batch.engine.values[1] = 0.123


def balance(batch: MarketBatch) -> None:
    batch.engine.state.balance[:, 1] = 1


def quotes(batch: MarketBatch) -> None:
    batch.engine.state.quotes.loss[:, 1] += 0.5


def loss(batch: MarketBatch) -> None:
    batch.engine.state.loss[:, 1] += 0.5
    batch.engine.state.gain[:, 1] += 0.5


def books(batch: MarketBatch) -> None:
    state = batch.engine.state
    for column in (state.earned, state.bought, state.since_purchase, state.passes, state.sold):
        column[:, 1] += 1
    state.refusals[:, 1] += 1


@pytest.mark.parametrize("secret", [kappa, balance, quotes, loss, books])
def test_another_agents_private_figures_change_nothing_that_an_agent_sees(secret: Any) -> None:
    batch = new_batch()
    before = batch.observe(), batch.mask()
    secret(batch)
    for old, new in zip(before, (batch.observe(), batch.mask()), strict=True):
        assert torch.equal(old[:, [0, 2]], new[:, [0, 2]])
    assert not torch.equal(before[0][:, 1], batch.observe()[:, 1])


def test_another_agents_ask_is_public() -> None:
    batch = new_batch()
    before = batch.observe()
    batch.engine.state.ask[:, 1] = (batch.engine.state.ask[:, 1] + 1) % 4
    assert bool((batch.observe()[:, [0, 2]] != before[:, [0, 2]]).any(dim=2).all())


def test_the_other_agents_values_are_not_in_the_spaces_either() -> None:
    layouts = [build_layout(priced_market(value_per_nat=(1.0, rival, 1.0)), offers=2) for rival in (1.0, 5.0)]
    differs = layouts[0].high != layouts[1].high
    assert set(layouts[0].unpack(differs)) >= {"value_per_nat"}
    assert int(differs.sum()) == int(layouts[0].unpack(differs)["value_per_nat"].sum())


@pytest.mark.parametrize("mode", MODES)
def test_the_test_data_reaches_no_observation_mask_or_reward(mode: Any) -> None:
    episodes, tests = [], []
    for spoiled in (False, True):
        batch = MarketBatch(priced_market(action_mode=mode), markets=2, device="cpu")
        batch.reset(torch.tensor([1, 2]))
        if spoiled:
            batch.engine.state.deal = replace(batch.engine.state.deal, test=torch.zeros(2, 60, dtype=torch.int64))
        rng, episode = np.random.default_rng(0), [batch.observe()]
        for _ in range(4):
            drawn = random_orders(batch.engine, rng)
            transition = batch.step(batch.actions.encode(Orders(drawn.train, drawn.offer, drawn.ask)))
            episode += [transition.observation, transition.mask, transition.record.reward]
        episodes.append(episode)
        tests.append(batch.engine.test_metrics()[0])
    assert all(torch.equal(first, second) for first, second in zip(*episodes, strict=True))
    assert not torch.equal(*tests)


def test_labels_of_test_samples_reach_no_observation() -> None:
    episodes = []
    for spoiled in (False, True):
        batch = MarketBatch(priced_market(), device="cpu")
        batch.reset(torch.tensor([1]))
        if spoiled:
            labels = batch.engine.dataset.labels.clone()
            labels[batch.engine.state.deal.test[0]] = 0
            batch.engine.dataset = batch.engine.broker.dataset = replace(batch.engine.dataset, labels=labels)
        rng = np.random.default_rng(0)
        for _ in range(4):
            batch.engine.step(random_orders(batch.engine, rng))
        episodes.append(batch.observe())
    assert torch.equal(*episodes)
