"""Whatever the agents want: money is conserved, refusals change nothing, losses are what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.clearing import REFUSALS, WITHHELD
from paramarket_env.market.engine import Engine, Orders
from tests.helpers import frozen, module_loss, priced_market, shared_engine

FEW = settings(max_examples=12)
SET_RULES = st.sampled_from(["full", "layers"])


@st.composite
def games(draw: st.DrawFn) -> tuple[Engine, list[Orders]]:
    """Two or three markets of three agents just reset, and any orders for some steps."""
    markets = draw(st.integers(2, 3))
    opens_at = draw(st.integers(0, 1))
    engine = shared_engine(priced_market(parameter_sets=draw(SET_RULES), opens_at=opens_at), markets)
    engine.reset(torch.tensor(draw(st.lists(st.integers(0, 2**63 - 1), min_size=markets, max_size=markets))))
    engine.state.balance = integers(draw, (markets, 3), 0, 70)
    count = draw(st.integers(1, 4))
    return engine, [any_orders(draw, engine) for _ in range(count)]


def integers(draw: st.DrawFn, shape: tuple[int, ...], low: int, high: int) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.tensor(draw(st.lists(st.integers(low, high), min_size=count, max_size=count))).view(shape)


def any_orders(draw: st.DrawFn, engine: Engine) -> Orders:
    shape = (engine.markets, engine.config.agents)
    levels = len(engine.config.economy.ask_levels)
    return Orders(
        train=integers(draw, shape, 0, 1).bool(),
        offer=integers(draw, shape, -1, engine.offers - 1),
        ask=integers(draw, shape, -1, levels),
    )


def cause_of(engine: Engine, market: int, buyer: int, offer: int) -> str | None:
    """Why this purchase would be refused now, looked up in the order of the causes."""
    seller = [agent for agent in range(3) if agent != buyer][offer // len(engine.broker.set_names)]
    ask = int(engine.asks[market, seller])
    if not bool(engine.market_open[market]):
        return "closed"
    if not bool(engine.state.quotes.loss[market, buyer].flatten()[offer].isfinite()):
        return "unquoted"
    if ask == WITHHELD:
        return "withheld"
    return "unaffordable" if ask > int(engine.state.balance[market, buyer]) else None


@FEW
@given(games())
def test_money_is_conserved_to_the_tick_and_no_balance_is_ever_negative(game: tuple[Engine, list[Orders]]) -> None:
    engine, steps = game
    total = engine.state.balance.sum(1)
    for chosen in steps:
        before = engine.state.balance.clone()
        record = engine.step(chosen)
        balance = engine.state.balance
        assert balance.dtype == torch.int64
        assert torch.equal(balance.sum(1), total)
        assert torch.equal(balance, before - record.paid + record.received)
        assert int(balance.min()) >= 0


@FEW
@given(games())
def test_a_purchase_is_refused_for_the_cause_that_holds_before_the_step_and_counted(
    game: tuple[Engine, list[Orders]],
) -> None:
    engine, steps = game
    counts = torch.zeros_like(engine.state.refusals)
    for chosen in steps:
        expected = torch.full_like(chosen.offer, -1)
        for market, buyer in (chosen.offer >= 0).nonzero().tolist():
            cause = cause_of(engine, market, buyer, int(chosen.offer[market, buyer]))
            if cause is not None:
                expected[market, buyer] = REFUSALS.index(cause)
                counts[market, buyer, expected[market, buyer]] += 1
        record = engine.step(chosen)
        assert torch.equal(record.refusal, expected)
        assert torch.equal(record.seller >= 0, (chosen.offer >= 0) & (expected < 0))
        assert torch.equal(engine.state.refusals, counts)


@FEW
@given(games())
def test_a_refused_purchase_changes_neither_parameters_nor_balance(game: tuple[Engine, list[Orders]]) -> None:
    engine, steps = game
    for chosen in steps:
        balance, parameters = engine.state.balance.clone(), engine.state.parameters.clone()
        record = engine.step(chosen)
        refused = record.refusal >= 0
        assert torch.equal((balance + record.received)[refused], engine.state.balance[refused])
        idle = refused & ~chosen.train
        assert torch.equal(parameters[idle], engine.state.parameters[idle])
        assert torch.equal(record.weight[refused], torch.zeros(int(refused.sum())))


@FEW
@given(games())
def test_purchases_that_are_taken_out_of_the_orders_change_nothing_if_they_are_refused(
    game: tuple[Engine, list[Orders]],
) -> None:
    engine, steps = game
    twin = Engine(engine.config, engine.markets, "cpu")
    twin.reset(engine.state.seeds)
    twin.state.balance = engine.state.balance.clone()
    for chosen in steps:
        record = engine.step(chosen)
        twin.step(Orders(chosen.train, torch.where(record.refusal >= 0, -1, chosen.offer), chosen.ask))
        twin.state.refusals = engine.state.refusals.clone()
    assert frozen(twin.state) == frozen(engine.state)


@FEW
@given(games())
def test_the_loss_equals_the_evaluation_of_the_network(game: tuple[Engine, list[Orders]]) -> None:
    engine, steps = game
    for chosen in steps:
        before = engine.state.loss.clone()
        record = engine.step(chosen)
        assert torch.equal(record.gain, before - engine.state.loss)
    state = engine.state
    for market, networks in enumerate(state.parameters):
        plain = [module_loss(engine, network, state.deal.validation[market]) for network in networks]
        assert state.loss[market].tolist() == pytest.approx(plain, rel=1e-5)
