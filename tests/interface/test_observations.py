"""Observations are within bounds, named field by field, and leak nothing private to another agent."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.config import Disclosure
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import Field, ObservationLayout, Read, Scaled
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.training import SGD
from paramarket_env.market.broker import Broker
from paramarket_env.market.exchange import Exchange
from paramarket_env.market.orders import no_orders
from paramarket_env.market.snapshot import snapshot
from paramarket_env.market.view import MarketView
from tests.helpers import CPU, CROWD, orders, play, priced_market, random_orders, spoil, tiny_market

MODES = ("verb", "round")
OWN = ["time_left", "market_open", "alive", "loss", "last_gain", "balance", "ask", "selling", "kappa", "since_purchase"]
SALES = ["sold", "sold_now", "declined", "earned"]
OFFERS = ["offer_gain", "offer_price", "offer_legal"]
TRADES = ["trade_price", "trades_now"]
DISCLOSED: dict[str, list[str]] = {
    "none": [],
    "transactions": TRADES,
    "bounds": [*TRADES, "gain_low", "gain_high"],
    "full": [*TRADES, "buyer_value"],
}
FIELDS = [*OWN, *SALES, *OFFERS, *TRADES]
EVERY_MARKET = pytest.mark.parametrize(("mechanism", "disclosure"), list(product(MECHANISMS, get_args(Disclosure))))


def new_batch(**changes: Any) -> MarketBatch:
    """Two markets of three agents who sell two layers each, after some trades."""
    config = priced_market(**{"parameter_sets": "layers", "kappa": (0.5, 1.0, 3.0)} | changes)
    batch, rng = MarketBatch(config, num_markets=2, device="cpu"), np.random.default_rng(0)
    batch.reset(torch.tensor([1, 2]))
    for _ in range(3):
        batch.engine.step(random_orders(batch.engine, rng))
    return batch


def seen(batch: MarketBatch, name: str) -> Tensor:
    return batch.layout.unpack(batch.observe())[name]


# --- the layout -----------------------------------------------------------------------------------------------------


def test_the_layout_has_these_fields_in_this_order() -> None:
    layout = new_batch().layout
    assert [field.name for field in layout.fields] == FIELDS
    # Eleven numbers, three for each other agent, three for each offer and two for each seller.
    assert layout.size == 11 + 3 * 2 + 3 * 4 + 2 * 2
    assert layout.space().shape == (layout.size,)
    assert bool((layout.low < layout.high).all())


@EVERY_MARKET
def test_the_fields_are_those_that_mechanism_and_disclosure_allow(mechanism: str, disclosure: str) -> None:
    layout = new_batch(mechanism=mechanism, disclosure=disclosure).layout
    sealed = ["offer_price"] if mechanism == "double-auction" else []
    names = [*OWN, *SALES, *(name for name in OFFERS if name not in sealed), *DISCLOSED[disclosure]]
    assert [field.name for field in layout.fields] == names
    sizes = {field.name: field.size for field in layout.fields}
    asks = 2 if mechanism == "personal" else 1
    assert {sizes["ask"], sizes["selling"]} == {asks}
    assert {sizes[name] for name in ("alive", "sold_now", "declined")} == {2}
    offers = {"offer_gain", "offer_price", "offer_legal", "gain_low", "gain_high", "buyer_value"}
    assert {sizes[name] for name in offers & set(names)} == {4}
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


def test_the_table_lists_every_field_with_its_size_bounds_unit_and_meaning() -> None:
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


def test_a_layout_is_data_that_can_be_stored() -> None:
    layout = new_batch().layout
    assert pickle.loads(pickle.dumps(layout)).fields == layout.fields
    assert json.loads(json.dumps([asdict(field) for field in layout.fields]))[0]["name"] == "time_left"


# --- reading --------------------------------------------------------------------------------------------------------


@EVERY_MARKET
def test_every_field_is_read_once_from_the_one_view_of_a_step(mechanism: str, disclosure: str) -> None:
    batch = new_batch(mechanism=mechanism, disclosure=disclosure)
    reads: list[str] = []

    def counted(name: str, read: Read | Scaled) -> Read | Scaled:
        if isinstance(read, Scaled):
            return replace(read, read=counted(name, read.read))
        return lambda view: (reads.append(name), read(view))[1]

    readings = batch._observer.readings
    batch._observer.readings = {field: counted(field.name, read) for field, read in readings.items()}
    batch.step(torch.zeros(2, 3, dtype=torch.int64))
    assert reads == [field.name for field in batch.layout.fields]


@EVERY_MARKET
def test_a_step_computes_no_quantity_twice_for_its_observations_and_masks(
    mechanism: str, disclosure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, calls = new_batch(mechanism=mechanism, disclosure=disclosure), Counter[str]()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (calls.update([name]), function(*given, **named))[1]

    quantities = {name: part for name, part in vars(MarketView).items() if isinstance(part, cached_property)}
    for name, quantity in quantities.items():
        monkeypatch.setattr(quantity, "func", counted(name, quantity.func))
    for owner, name in ((Broker, "gains"), (Broker, "bounds"), (Exchange, "offer_prices"), (Exchange, "asks")):
        monkeypatch.setattr(owner, name, counted(f"{owner.__name__}.{name}", getattr(owner, name)))
    start = snapshot(batch.engine.state)
    batch.engine.step(no_orders(2, 3, batch.engine.exchange.ask_slots, CPU))
    of_the_engine = calls.copy()
    batch.engine.state = start
    calls.clear()
    batch.step(torch.zeros(2, 3, dtype=torch.int64))
    calls.subtract(of_the_engine)
    assert set(calls.values()) <= {0, 1}
    assert all(calls[name] == 1 for name in ("gains", "asks", "offer_prices", "legal_purchases"))


def test_observing_and_masking_at_once_gives_the_same() -> None:
    batch = new_batch()
    observation, mask = batch.observe_and_mask()
    assert torch.equal(observation, batch.observe())
    assert torch.equal(mask, batch.mask())


# --- the values -----------------------------------------------------------------------------------------------------


SPACES: list[dict[str, Any]] = [
    {},
    {"optimizer": SGD(lr=50.0)},
    {"budget": 0},
    {"opens_at": 3, "initial_ask": 4},
    {"budget": (0, 9, 300), "broker_fee": 0.3, "kappa_distribution": "uniform", "kappa_high": 100.0},
    {"optimizer": SGD(lr=50.0), "disclosure": "bounds"},
    {"optimizer": SGD(lr=50.0), "disclosure": "full"},
    {**CROWD, "disclosure": "bounds"},
    {**CROWD, "disclosure": "full", "mechanism": "second-price", "parameter_sets": "layers"},
    # Who buys the whole of another becomes its like: there is no way between them.
    {"agents": 2, "merger": Linear(weights=(1.0,)), "disclosure": "bounds", "ask_levels": (0,), "initial_ask": 0},
]


@EVERY_MARKET
def test_observations_are_within_their_spaces_in_every_market(mechanism: str, disclosure: str) -> None:
    config = priced_market(mechanism=mechanism, disclosure=disclosure, action_mode="round", parameter_sets="prefixes")
    env = ParaMarketEnv(config, device="cpu")
    for returned in play(env, seed=2):
        assert all(env.observation_space(agent).contains(seen) for agent, seen in returned[0].items())


@pytest.mark.parametrize("changes", SPACES, ids=str)
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


@pytest.mark.parametrize("mechanism", ["posted", "personal"])
def test_own_fields_say_what_the_market_says(mechanism: str) -> None:
    batch = new_batch(mechanism=mechanism)
    state, tick = batch.engine.state, batch.config.economy.tick
    levels = torch.tensor([*batch.config.economy.ask_levels, 0], dtype=torch.float64)
    expected = {
        "time_left": torch.full((2, 3), 0.5),
        "market_open": torch.ones(2, 3),
        "alive": torch.ones(2, 3, 2),
        "loss": state.loss,
        "last_gain": state.gain,
        "balance": state.balance.double() * tick,
        "ask": levels[state.ask] * tick,
        "selling": state.ask < 4,
        "kappa": torch.tensor([[0.5, 1.0, 3.0]] * 2),
        "since_purchase": state.since_purchase / 6,
        "sold": state.sold,
        "sold_now": state.sales,
        "declined": state.declined,
        "earned": state.earned.double() * tick,
    }
    assert list(expected) == [*OWN, *SALES]
    assert int(state.sold.sum()) > 2
    for name, values in expected.items():
        torch.testing.assert_close(seen(batch, name).flatten(1), values.float().flatten(1), msg=name)


@EVERY_MARKET
def test_each_other_agent_sees_that_a_network_has_failed_in_its_own_market_alone(
    mechanism: str, disclosure: str
) -> None:
    batch = new_batch(mechanism=mechanism, disclosure=disclosure)
    spoil(batch.engine, 1, 1)
    assert bool(seen(batch, "alive").all())  # nobody knows before the network is evaluated
    batch.engine.step(orders(batch.engine, train=[1]))
    assert seen(batch, "alive").int().tolist() == [[[1, 1], [1, 1], [1, 1]], [[0, 1], [1, 1], [1, 0]]]


def test_offers_stand_seller_by_seller_and_set_by_set() -> None:
    batch = new_batch()
    batch.engine.state.ask = torch.tensor([[1, 4, 3], [0, 2, 3]]).unsqueeze(2)
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


def test_personal_offers_show_the_price_for_the_one_who_sees_it() -> None:
    batch = new_batch(mechanism="personal")
    batch.engine.state.ask = torch.tensor([[[1, 4], [2, 3], [0, 2]]] * 2)
    batch.engine.state.balance[:] = 30
    prices = [[25, 25, 0, 0], [10, 10, 25, 25], [0, 0, 60, 60]]
    torch.testing.assert_close(seen(batch, "offer_price"), torch.tensor([prices] * 2) * 0.001)
    assert seen(batch, "offer_legal").int().tolist() == [[[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]] * 2


def test_a_sealed_offer_shows_whether_it_is_for_sale_and_nothing_of_its_price() -> None:
    batch = new_batch(mechanism="double-auction")
    batch.engine.state.ask = torch.tensor([[1, 4, 3]] * 2).unsqueeze(2)
    batch.engine.state.balance[:] = 0  # and there is a bid of 0
    assert seen(batch, "offer_legal").int().tolist() == [[[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]] * 2
    before, mask = batch.observe(), batch.mask()
    batch.engine.state.ask = torch.tensor([[0, 4, 1]] * 2).unsqueeze(2)
    assert torch.equal(batch.mask(), mask)
    changed = batch.layout.unpack(batch.observe() != before)
    assert {name for name, flags in changed.items() if bool(flags.any())} == {"ask"}


def test_a_seller_sees_who_bought_and_who_declined_and_the_average_price() -> None:
    batch = MarketBatch(priced_market(mechanism="personal"), device="cpu")
    batch.reset(torch.tensor([1]))
    batch.engine.step(orders(batch.engine, ask={2: [1, 2], 0: [1, 4]}))
    batch.engine.step(orders(batch.engine, buy={0: 1, 1: 1}))
    assert seen(batch, "sold_now")[0].tolist() == [[0, 0], [0, 0], [1, 1]]
    assert seen(batch, "declined")[0].tolist() == [[1, 0], [1, 1], [0, 0]]  # agent 0 sold nothing to agent 2 anyway
    assert seen(batch, "trade_price")[0].tolist() == pytest.approx(np.array([[0, 0.017], [0, 0.017], [0, 0]]))
    assert seen(batch, "trades_now")[0].tolist() == [[0, 2], [0, 2], [0, 0]]


def test_who_was_outbid_did_not_decline() -> None:
    batch = MarketBatch(priced_market(mechanism="second-price"), device="cpu")
    batch.reset(torch.tensor([1]))
    batch.engine.step(orders(batch.engine, buy={0: 1, 1: 1}, bid={0: 2, 1: 3}))
    assert seen(batch, "sold_now")[0].tolist() == [[0, 0], [0, 0], [0, 1]]
    assert seen(batch, "declined")[0].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert seen(batch, "trade_price")[0].tolist() == pytest.approx(np.array([[0, 0.025], [0, 0.025], [0, 0]]))


def test_disclosed_fields_are_ordered_by_buyer_and_parameter_set() -> None:
    bounds, full = (new_batch(disclosure=disclosure) for disclosure in ("bounds", "full"))
    disclosed = bounds.engine.broker.bounds(bounds.engine.state)
    gains, places = full.engine.gains, list(product(range(2), range(3), range(2), range(2)))
    for market, seller, slot, good in places:
        buyer = [agent for agent in range(3) if agent != seller][slot]
        offer = 2 * [agent for agent in range(3) if agent != buyer].index(seller) + good
        place, of_buyer = (market, seller, 2 * slot + good), (market, buyer, offer)
        worth = max(0.0, (0.5, 1.0, 3.0)[buyer] * float(gains[of_buyer]))
        assert float(seen(full, "buyer_value")[place]) == pytest.approx(worth, rel=1e-6)
        ends = [float(seen(bounds, name)[place]) for name in ("gain_low", "gain_high")]
        assert ends == pytest.approx(disclosed[of_buyer].clamp(-10, 10).tolist(), rel=1e-6)
    assert len(seen(full, "buyer_value").unique()) > 12
    assert len(disclosed.unique()) == 2 * len(places)


@pytest.mark.parametrize("disclosure", ["bounds", "full"])
def test_nothing_is_disclosed_about_buyers_without_a_quote(disclosure: str) -> None:
    names = {"gain_low", "gain_high", "buyer_value"} & set(DISCLOSED[disclosure])
    closed = MarketBatch(tiny_market(opens_at=2, disclosure=disclosure), device="cpu")
    closed.reset(torch.tensor([1]))
    assert not any(bool(seen(closed, name).any()) for name in names)
    batch = new_batch(disclosure=disclosure)
    assert all(bool(seen(batch, name)[0, 2].any()) for name in names)
    batch.engine.state.quotes.loss[0, 1, 1] = torch.inf  # agent 1 can buy nothing of agent 2
    for name in names:
        assert seen(batch, name)[0, 2, 2:].tolist() == [0, 0]
        assert bool(seen(batch, name)[0, 2, :2].any())


def test_what_is_not_quoted_shows_no_gain_and_is_not_legal() -> None:
    batch = MarketBatch(tiny_market(opens_at=2), device="cpu")
    batch.reset(torch.tensor([1]))
    assert not any(bool(seen(batch, name).any()) for name in ("offer_gain", "offer_legal", "market_open"))
    for _ in range(2):
        batch.engine.step(orders(batch.engine))
    assert all(bool(seen(batch, name).all()) for name in ("offer_gain", "offer_legal", "market_open"))


# --- what nobody else may see ---------------------------------------------------------------------------------------


def kappa(batch: MarketBatch) -> None:
    batch.engine.state.kappa[:, 1] = 0.123


def balance(batch: MarketBatch) -> None:
    batch.engine.state.balance[:, 1] = 1


def quotes(batch: MarketBatch) -> None:
    batch.engine.state.quotes.loss[:, 1] -= 0.5
    batch.engine.state.quotes.candidate[:, 1] = 0


def loss(batch: MarketBatch) -> None:
    batch.engine.state.loss[:, 1] += 0.5
    batch.engine.state.gain[:, 1] += 0.5


def books(batch: MarketBatch) -> None:
    state = batch.engine.state
    for column in (state.earned, state.bought, state.since_purchase, state.passes, state.sold):
        column[:, 1] += 1
    state.refusals[:, 1] += 1
    state.fees += 1


def buyers(batch: MarketBatch) -> None:
    """The buyers of agent 1 and those that declined, but not the number of buyers."""
    state = batch.engine.state
    state.sales[:, 1] = state.sales[:, 1].flip(1)
    state.declined[:, 1] = ~state.declined[:, 1]


def lines(batch: MarketBatch) -> None:
    """Slopes of agent 1's loss, and so the bounds of its gains."""
    batch.engine.state.quotes.lines[:, 1, :, :, :1] -= 0.5


WORTH = (kappa, quotes, loss)
SECRETS = (kappa, balance, quotes, loss, books, buyers)


@EVERY_MARKET
def test_another_agents_private_figures_change_only_what_is_disclosed(mechanism: str, disclosure: str) -> None:
    batch = new_batch(mechanism=mechanism, disclosure=disclosure)
    observation, mask, state = batch.observe(), batch.mask(), batch.engine.state
    for secret in SECRETS:
        batch.engine.state = snapshot(state)
        secret(batch)
        changed = batch.layout.unpack(batch.observe() != observation)
        disclosed = {"buyer_value"} if disclosure == "full" and secret in WORTH else set()
        assert {name for name, flags in changed.items() if bool(flags[:, [0, 2]].any())} == disclosed, secret
        assert torch.equal(batch.mask()[:, [0, 2]], mask[:, [0, 2]]), secret
        assert any(bool(flags[:, 1].any()) for flags in changed.values()), secret


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_bounds_of_a_buyer_are_disclosed_to_sellers_and_nobody_else(mechanism: str) -> None:
    batch = new_batch(mechanism=mechanism, disclosure="bounds")
    before = batch.observe()
    lines(batch)
    changed = batch.layout.unpack(batch.observe() != before)
    assert {name for name, flags in changed.items() if bool(flags.any())} == {"gain_low", "gain_high"}
    assert changed["gain_low"].int().tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]] * 2


@EVERY_MARKET
def test_a_trade_of_two_others_shows_in_what_is_disclosed_of_it_and_in_the_new_quotes(
    mechanism: str, disclosure: str
) -> None:
    batch = new_batch(mechanism=mechanism, disclosure=disclosure, budget=1000, max_cycles=9)
    for asks in ({1: 1, 2: 1}, {}):  # for sale at the second level, and nobody has bought in the last step
        slots = {agent: [level] * batch.engine.exchange.ask_slots for agent, level in asks.items()}
        batch.engine.step(orders(batch.engine, ask=slots))
    start, seen_by_0 = snapshot(batch.engine.state), []
    for buy in ({}, {2: 2}):  # agent 2 buys of agent 1
        batch.engine.state = snapshot(start)
        record = batch.engine.step(orders(batch.engine, buy=buy, bid={2: 3}))
        assert int((record.seller >= 0).sum()) == 2 * len(buy)
        seen_by_0.append(batch.layout.unpack(batch.observe()[:, 0]))
    changed = {name for name, value in seen_by_0[0].items() if not torch.equal(value, seen_by_0[1][name])}
    assert changed - {"trade_price"} == {"offer_gain", *DISCLOSED[disclosure]} - {"trade_price"}
    assert int(seen_by_0[1].get("trades_now", torch.zeros(1)).sum()) == (0 if disclosure == "none" else 2)


def test_another_agents_ask_is_public() -> None:
    batch = new_batch(mechanism="second-price")
    before = batch.observe()
    batch.engine.state.ask[:, 1] = (batch.engine.state.ask[:, 1] + 1) % 4
    assert bool((batch.observe()[:, [0, 2]] != before[:, [0, 2]]).any(dim=2).all())


def test_a_personal_ask_is_seen_by_the_two_whom_it_concerns() -> None:
    batch = new_batch(mechanism="personal")
    observation, mask = batch.observe(), batch.mask()
    ask = batch.engine.state.ask
    ask[:, 1, 1] = (ask[:, 1, 1] + 1) % 4  # of agent 1 for agent 2
    assert torch.equal(batch.observe()[:, 0], observation[:, 0])
    assert torch.equal(batch.mask()[:, 0], mask[:, 0])
    assert bool((batch.observe()[:, 1:] != observation[:, 1:]).any(dim=2).all())


def test_the_other_agents_values_are_not_in_the_spaces_either() -> None:
    rivals: list[dict[str, Any]] = [
        {"kappa": (1.0, 1.0, 1.0)},
        {"kappa": (1.0, 5.0, 1.0)},
        {"kappa_distribution": "uniform", "kappa": 1.0, "kappa_high": (1.0, 7.0, 1.0)},
    ]
    for disclosure in get_args(Disclosure):
        first, *others = (new_batch(**rival, disclosure=disclosure).layout for rival in rivals)
        for other in others:
            assert np.array_equal(first.low, other.low)
            assert np.array_equal(first.high, other.high)


@pytest.mark.parametrize("mode", MODES)
def test_the_test_data_reaches_no_observation_mask_or_reward(mode: Any) -> None:
    episodes, tests = [], []
    for spoiled in (False, True):
        batch = MarketBatch(priced_market(action_mode=mode), num_markets=2, device="cpu")
        batch.reset(torch.tensor([1, 2]))
        if spoiled:
            batch.engine.state.partition = replace(
                batch.engine.state.partition, test=torch.zeros(2, 1, 60, dtype=torch.int64)
            )
        rng, episode = np.random.default_rng(0), [batch.observe()]
        for _ in range(4):
            drawn = random_orders(batch.engine, rng)
            transition = batch.step(batch.actions.encode(drawn))
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
            labels[batch.engine.state.partition.test[0]] = 0
            spoiled_tasks = replace(batch.engine.tasks, dataset=replace(batch.engine.dataset, labels=labels))
            batch.engine.tasks = batch.engine.broker.tasks = spoiled_tasks
        rng = np.random.default_rng(0)
        for _ in range(4):
            batch.engine.step(random_orders(batch.engine, rng))
        episodes.append(batch.observe())
    assert torch.equal(*episodes)
