"""Whatever the agents want: money is conserved, refusals change nothing, losses are what they say."""

from __future__ import annotations

from dataclasses import replace
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.clearing import MECHANISMS, REFUSALS, WITHHELD
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import Orders
from tests import plain
from tests.helpers import frozen, module_loss, priced_market, shared_engine

FEW = settings(max_examples=8)
EVERY_MECHANISM = pytest.mark.parametrize("mechanism", sorted(MECHANISMS))
SET_RULES = st.sampled_from(["full", "layers"])


@st.composite
def games(draw: st.DrawFn, mechanism: str) -> tuple[Engine, list[Orders]]:
    """Two or three markets of three agents just reset, and any orders for some steps."""
    markets = draw(st.integers(2, 3))
    config = priced_market(
        mechanism=f"second-price:{draw(st.integers(1, 2))}" if mechanism == "second-price" else mechanism,
        parameter_sets=draw(SET_RULES),
        opens_at=draw(st.integers(0, 1)),
        broker_fee=draw(st.sampled_from([0.0, 0.3])),
    )
    engine = shared_engine(config, markets)
    engine.reset(torch.tensor(draw(st.lists(st.integers(0, 2**63 - 1), min_size=markets, max_size=markets))))
    engine.state.balance = integers(draw, (markets, 3), 0, 70)
    engine.state.ask = integers(draw, tuple(engine.state.ask.shape), 0, 4)
    count = draw(st.integers(1, 4))
    return engine, [any_orders(draw, engine) for _ in range(count)]


def integers(draw: st.DrawFn, shape: tuple[int, ...], low: int, high: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.tensor(draw(st.lists(st.integers(low, high), min_size=count, max_size=count))).view(shape)


def any_orders(draw: st.DrawFn, engine: Engine) -> Orders:
    shape = (engine.num_markets, engine.config.agents)
    levels = len(engine.config.economy.ask_levels)
    return Orders(
        train=integers(draw, shape, 0, 1).bool(),
        offer=integers(draw, shape, -1, engine.offers - 1),
        bid=integers(draw, shape, 0, levels - 1),
        ask=integers(draw, (*shape, engine.exchange.ask_slots), -1, levels),
    )


def plain_orders(engine: Engine, chosen: Orders, market: int) -> list[plain.Order]:
    """Look up one by one what each agent of a market wants and meets; no priority is known."""
    economy, goods = engine.config.economy, len(engine.broker.goods.names)
    state, levels = engine.state, (*economy.ask_levels, WITHHELD)
    orders = []
    for buyer in range(3):
        offer, others = int(chosen.offer[market, buyer]), [agent for agent in range(3) if agent != buyer]
        seller = others[max(offer, 0) // goods]
        for_buyer = [agent for agent in range(3) if agent != seller].index(buyer)
        slot = for_buyer if economy.mechanism.personal else 0
        orders.append(
            plain.Order(
                seller=seller if offer >= 0 else -1,
                good=offer % goods,
                bid=levels[int(chosen.bid[market, buyer])] if economy.mechanism.bids else 0,
                ask=levels[int(state.ask[market, seller, slot])],
                quoted=bool(state.quotes.loss[market, buyer].flatten()[offer].isfinite()),
                balance=int(state.balance[market, buyer]),
                priority=buyer,
            )
        )
    return orders


def is_open(engine: Engine, market: int) -> bool:
    return engine.config.broker.opens_at <= int(engine.state.cycle[market]) < engine.config.max_cycles


@EVERY_MECHANISM
@FEW
@given(st.data())
def test_money_is_conserved_to_the_tick_and_no_balance_is_ever_negative(mechanism: str, data: st.DataObject) -> None:
    engine, steps = data.draw(games(mechanism))
    total = engine.state.balance.sum(1)
    for chosen in steps:
        before, fees = engine.state.balance.clone(), engine.state.fees.clone()
        record = engine.step(chosen)
        balance = engine.state.balance
        assert balance.dtype == engine.state.fees.dtype == torch.int64
        assert torch.equal(balance.sum(1) + engine.state.fees, total)
        assert torch.equal(balance, before - record.paid + record.received)
        share = [sum(floor(engine.config.economy.broker_fee * price) for price in row) for row in record.paid.tolist()]
        assert (engine.state.fees - fees).tolist() == share
        assert int(balance.min()) >= 0


@EVERY_MECHANISM
@FEW
@given(st.data())
def test_every_order_becomes_what_it_becomes_in_plain_clearing_and_refusals_are_counted(
    mechanism: str, data: st.DataObject
) -> None:
    engine, steps = data.draw(games(mechanism))
    economy, counts = engine.config.economy, torch.zeros_like(engine.state.refusals)
    for chosen in steps:
        markets = [plain_orders(engine, chosen, market) for market in range(engine.num_markets)]
        were_open = [is_open(engine, market) for market in range(engine.num_markets)]
        record = engine.step(chosen)
        for market, orders in enumerate(markets):
            buyers = zip(orders, record.seller[market].tolist(), strict=True)
            assert record.bid[market].tolist() == [order.bid if seller >= 0 else 0 for order, seller in buyers]
            in_turn = with_priority(orders, record.seller[market].tolist())
            rows = (column[market].tolist() for column in (record.seller, record.paid, record.refusal))
            for agent, (expected, seller, price, code) in enumerate(
                zip(plain.cleared(economy.mechanism, in_turn, were_open[market]), *rows, strict=True)
            ):
                refusal = REFUSALS[code] if code >= 0 else None
                assert plain.Outcome(seller, price, refusal) == expected
                counts[market, agent] += torch.tensor([cause == refusal for cause in REFUSALS])
        assert torch.equal(engine.state.refusals, counts)


def with_priority(orders: list[plain.Order], sellers: list[int]) -> list[plain.Order]:
    """The orders with priorities by which those win ties that won them."""
    return [
        replace(order, priority=agent if seller >= 0 else agent + len(orders))
        for agent, (order, seller) in enumerate(zip(orders, sellers, strict=True))
    ]


@EVERY_MECHANISM
@FEW
@given(st.data())
def test_a_refused_purchase_changes_neither_parameters_nor_balance(mechanism: str, data: st.DataObject) -> None:
    engine, steps = data.draw(games(mechanism))
    for chosen in steps:
        balance, parameters = engine.state.balance.clone(), engine.state.parameters.clone()
        record = engine.step(chosen)
        refused = record.refusal >= 0
        assert torch.equal((balance + record.received)[refused], engine.state.balance[refused])
        idle = refused & ~chosen.train
        assert torch.equal(parameters[idle], engine.state.parameters[idle])
        assert torch.equal(record.weight[refused], torch.zeros(int(refused.sum())))


@EVERY_MECHANISM
@FEW
@given(st.data())
def test_purchases_that_are_taken_out_of_the_orders_change_nothing_if_they_are_refused(
    mechanism: str, data: st.DataObject
) -> None:
    engine, steps = data.draw(games(mechanism))
    twin = Engine(engine.config, engine.num_markets, "cpu")
    twin.reset(engine.state.seeds)
    twin.state.balance, twin.state.ask = engine.state.balance.clone(), engine.state.ask.clone()
    for chosen in steps:
        record = engine.step(chosen)
        # Who was outbid raised the price: its order stays.
        taken_out = (record.refusal >= 0) & (record.refusal != REFUSALS.index("outbid"))
        twin.step(replace(chosen, offer=torch.where(taken_out, -1, chosen.offer)))
        twin.state.refusals = engine.state.refusals.clone()
    assert frozen(twin.state) == frozen(engine.state)


@EVERY_MECHANISM
@FEW
@given(st.data())
def test_the_loss_equals_the_evaluation_of_the_network(mechanism: str, data: st.DataObject) -> None:
    engine, steps = data.draw(games(mechanism))
    for chosen in steps:
        before = engine.state.loss.clone()
        record = engine.step(chosen)
        assert torch.equal(record.gain, before - engine.state.loss)
    state = engine.state
    for market, networks in enumerate(state.parameters):
        plain = [module_loss(engine, network, state.partition.validation[market, 0]) for network in networks]
        assert state.loss[market].tolist() == pytest.approx(plain, rel=1e-5)
