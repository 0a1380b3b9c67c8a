"""Meetings: a random graph of partners, and markets in which agents trade only with these."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.market.engine import Engine
from paramarket_env.market.meetings import Meetings, draw, everybody
from paramarket_env.market.orders import Orders
from paramarket_env.market.snapshot import fork, snapshot
from paramarket_env.seeding import as_seeds
from tests.helpers import CPU, frozen, new_engine, orders, priced_market, random_orders, spoil, tiny_market

SEVEN = {"agents": 7, "batch_size": 8, "endowment": "iid", "max_cycles": 6}


def drawn(agents: int, count: int, markets: int, cycle: int = 0) -> Meetings:
    """The meetings of markets with different seeds."""
    return draw(as_seeds(3, markets, CPU), torch.full((markets,), cycle), agents, count)


# --- the graph -------------------------------------------------------------------------------------------------------


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Numbers of agents and of partners that are possible together."""
    agents = draw(st.integers(2, 24))
    return agents, draw(st.integers(1, agents - 1).filter(lambda count: count * agents % 2 == 0))


@given(sizes(), st.integers(0, 10**6))
def test_each_agent_meets_so_many_others_in_order_and_they_meet_it(size: tuple[int, int], cycle: int) -> None:
    agents, count = size
    meetings = drawn(agents, count, 3, cycle)
    assert meetings.partners.shape == (3, agents, count)
    for market in meetings.partners.tolist():
        for agent, partners in enumerate(market):
            assert partners == sorted(set(partners) - {agent})
            assert all(agent in market[partner] for partner in partners)


@given(sizes())
def test_the_mirror_of_a_slot_is_the_slot_in_which_the_partner_has_the_agent(size: tuple[int, int]) -> None:
    meetings = drawn(*size, 2)
    agents = torch.arange(size[0]).view(1, -1, 1).expand_as(meetings.partners)
    assert torch.equal(meetings.mirrored(meetings.partners), agents)
    assert torch.equal(meetings.mirrored(agents), meetings.partners)
    assert torch.equal(meetings.of_partners(agents[..., 0]), meetings.partners)
    values = torch.rand(2, size[0], size[1], 3)
    assert torch.equal(meetings.mirrored(meetings.mirrored(values)), values)


@pytest.mark.parametrize(("agents", "count"), [(7, 2), (8, 3), (8, 4), (9, 6), (6, 1)])
def test_any_two_agents_meet_with_the_same_probability(agents: int, count: int) -> None:
    markets = 4000
    met = torch.zeros(markets, agents, agents).scatter(2, drawn(agents, count, markets).partners, 1.0).mean(0)
    share = count / (agents - 1)
    error = (share * (1 - share) / markets) ** 0.5
    for one, other in combinations(range(agents), 2):
        assert abs(float(met[one, other]) - share) < 4 * error


def test_all_partners_are_everybody() -> None:
    all_others, everyone = drawn(6, 5, 2), everybody(2, 6, CPU)
    assert torch.equal(all_others.partners, everyone.partners)
    assert torch.equal(all_others.mirror, everyone.mirror)


def test_meetings_follow_from_the_seed_and_the_cycle_of_the_market_alone() -> None:
    seeds, cycles = torch.tensor([1, 2, 1, 1]), torch.tensor([0, 0, 3, 0])
    meetings = draw(seeds, cycles, 9, 4)
    for market in range(4):
        alone = draw(seeds[market : market + 1], cycles[market : market + 1], 9, 4)
        assert torch.equal(alone.partners[0], meetings.partners[market])
    assert torch.equal(meetings.partners[0], meetings.partners[3])
    assert not torch.equal(meetings.partners[0], meetings.partners[1])
    assert not torch.equal(meetings.partners[0], meetings.partners[2])


# --- the market ------------------------------------------------------------------------------------------------------


def slots_of(meetings: Meetings, sellers: Tensor) -> Tensor:
    """The slot of each agent's seller, int64 ``[M, N]``; -1 without one."""
    found = meetings.partners == sellers.unsqueeze(2)
    return torch.where(found.any(2), found.int().argmax(2), -1)


def for_everybody(crowd: Engine, everyone: Engine, chosen: Orders) -> Orders:
    """The orders of a crowd in the market in which everybody meets everybody."""
    goods = len(crowd.broker.goods.names)
    sellers = crowd.broker.seller_of(crowd.state, chosen.offer)
    slots = slots_of(everyone.state.meetings, sellers)
    return replace(chosen, offer=torch.where(slots >= 0, slots * goods + chosen.offer % goods, -1))


def chosen_slots(values: Tensor, crowd: Engine) -> Tensor:
    """The slots of the crowd's partners, ``[M, N, k, ...]``, from those of all others, ``[M, N, N - 1, ...]``."""
    partners = crowd.state.meetings.partners
    slots = partners - (partners > torch.arange(partners.shape[1]).unsqueeze(1)).long()
    rows = torch.arange(len(values))[:, None, None], torch.arange(values.shape[1])[:, None]
    return values[(*rows, slots)]


@pytest.mark.parametrize("mechanism", ["posted", "double-auction", "second-price"])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_a_crowd_is_the_market_of_everybody_in_which_each_buys_from_its_partners(mechanism: str, count: int) -> None:
    market = priced_market(**SEVEN, mechanism=mechanism, parameter_sets="layers", disclosure="bounds", trade_every=2)
    crowd, everyone = new_engine(market.changed(partners=count), (4, 5)), new_engine(market, (4, 5))
    rng, trades = np.random.default_rng(count), 0
    for step in range(6):
        for name in ("loss", "candidate", "lines"):
            ours, theirs = (getattr(engine.state.quotes, name) for engine in (crowd, everyone))
            if step % 2 == 0:
                torch.testing.assert_close(ours, chosen_slots(theirs, crowd), rtol=1e-5, atol=1e-6)
        met, chosen = crowd.state.meetings, random_orders(crowd, rng)
        translated = for_everybody(crowd, everyone, chosen)
        ours, theirs = crowd.step(chosen), everyone.step(translated)
        for name in ("seller", "paid", "received", "refusal", "trained"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        torch.testing.assert_close(ours.reward, theirs.reward, rtol=1e-4, atol=1e-6)
        sold_to = torch.zeros_like(everyone.state.alive.unsqueeze(2).expand(-1, -1, 7)).scatter(
            2, met.partners, crowd.state.sales
        )
        assert torch.equal(sold_to, sales_by_agent(ours.seller))
        trades += int(ours.bought.sum())
    assert trades > 5


def sales_by_agent(sellers: Tensor) -> Tensor:
    """The agents that each agent sold to, bool ``[M, N, N]``, from the seller of each buyer, ``[M, N]``."""
    return sellers.unsqueeze(1) == torch.arange(sellers.shape[1]).unsqueeze(1)


def test_with_all_others_as_partners_quotes_and_trades_are_those_of_everybody() -> None:
    market = priced_market(agents=4, max_cycles=7, batch_size=8)
    engines = [new_engine(each, (4, 5)) for each in (market, market.changed(partners=3))]
    for step in range(6):
        chosen = random_orders(engines[0], np.random.default_rng(step))
        records = [engine.step(chosen) for engine in engines]
        assert torch.equal(records[0].seller, records[1].seller)
        for name in ("loss", "candidate", "permutations"):
            torch.testing.assert_close(*(getattr(engine.state.quotes, name) for engine in engines))
        assert torch.equal(engines[0].state.declined, engines[1].state.declined)


def test_partners_change_in_every_step_and_quotes_with_them() -> None:
    engine, seen = new_engine(tiny_market(**SEVEN, partners=2)), set()
    for _ in range(5):
        seen.add(str(engine.state.meetings.partners.tolist()))
        assert bool(engine.view.quoted.all())
        engine.step(orders(engine))
    assert len(seen) == 5


def test_a_closed_market_is_quoted_when_it_opens() -> None:
    engine = new_engine(tiny_market(**SEVEN, partners=2, opens_at=2))
    for opened in (False, False, True, True):
        assert bool(engine.state.quotes.loss.isfinite().all()) is opened
        engine.step(orders(engine))


def test_a_failed_partner_has_no_quote_and_buys_nothing() -> None:
    engine = new_engine(tiny_market(**SEVEN, partners=4))
    spoil(engine, 0, 3)
    engine.step(orders(engine, train=(3,)))
    for _ in range(3):
        failed = engine.state.meetings.partners[0] == 3
        assert torch.equal(engine.state.quotes.loss[0].isinf().squeeze(2), failed | (torch.arange(7) == 3)[:, None])
        meetings = engine.state.meetings
        engine.step(orders(engine))
        assert not bool(engine.state.declined[0][meetings.partners[0] == 3].any())


def test_a_reset_of_one_market_leaves_the_meetings_and_quotes_of_the_other() -> None:
    engine = new_engine(tiny_market(**SEVEN, partners=2), (4, 5))
    for _ in range(2):
        engine.step(orders(engine, train=range(7)))
    before = frozen(fork(engine.state, torch.tensor([1])))
    engine.reset(torch.tensor([8]), torch.tensor([0]))
    assert frozen(fork(engine.state, torch.tensor([1]))) == before
    fresh = new_engine(engine.config, (8,))
    assert torch.equal(fresh.state.meetings.partners[0], engine.state.meetings.partners[0])


def test_a_copy_meets_the_same_partners() -> None:
    engine = new_engine(priced_market(**SEVEN, partners=4), (4, 5))
    copy = snapshot(engine.state)
    ends = []
    for state in (copy, engine.state):
        engine.state = snapshot(state)
        rng = np.random.default_rng(1)
        for _ in range(3):
            engine.step(random_orders(engine, rng))
        ends.append(frozen(engine.state))
    assert ends[0] == ends[1]
