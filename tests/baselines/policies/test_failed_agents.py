"""In a market with an agent whose network has failed, every rule plays as in a market without that agent."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from paramarket_baselines.policies.decisions import RULES
from paramarket_baselines.policies.pricing import PRICING, Seller
from paramarket_env.config import Disclosure, MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import Seat, seat_of
from paramarket_env.market.orders import Orders
from tests.baselines.policies.test_decisions import seat, seated, see
from tests.helpers import priced_market

LEVELS = tuple(range(0, 62, 2))
FAILED = 2
"""The agent whose network fails. It is the last of the others in every other agent's observation."""


def market(agents: int, **changes: Any) -> MarketConfig:
    """A market with costs. The gain of one other agent costs the same with any number of agents."""
    costs = (TrainCost(0.01), Rivalry(0.1 * (agents - 1)))
    rules = {"agents": agents, "reward_terms": costs, "action_mode": "round", "ask_levels": LEVELS, "initial_ask": 5}
    return priced_market(**rules | changes)


def with_failed(config: MarketConfig) -> MarketBatch:
    """A market in which an agent has failed before the first step."""
    batch = MarketBatch(config, 1, "cpu")
    batch.reset(torch.tensor([1]))
    parameters = batch.engine.state.parameters.clone()
    parameters[:, FAILED] = torch.nan
    batch.engine.overwrite(parameters)
    assert batch.alive.tolist() == [[True, True, False]]
    return batch


def without(chair: Seat, observation: Tensor, smaller: Seat) -> Tensor:
    """An observation of three agents as the seat in a market of two has it: the failed agent's parts are left out."""
    fields = chair.layout.unpack(observation)
    return torch.cat([fields[field.name][:, : field.size] for field in smaller.layout.fields], dim=1)


def same_orders(ours: Orders, theirs: Orders) -> bool:
    """Whether the orders are those in the smaller market, and nothing is asked of the failed agent."""
    slots = theirs.ask.shape[1]
    asks = torch.equal(ours.ask[:, :slots], theirs.ask) and bool((ours.ask[:, slots:] == -1).all())
    return asks and all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("train", "offer", "bid"))


def plays(name: str, seat: Seat) -> bool:
    """Whether the policy can play in the market."""
    try:
        seated(name, seat)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("mode", ["round", "verb"])
@pytest.mark.parametrize(("mechanism", "disclosure"), list(product(MECHANISMS, get_args(Disclosure))))
def test_every_rule_plays_as_if_the_failed_agent_had_never_been_there(
    mechanism: str, disclosure: str, mode: str
) -> None:
    rules = {"mechanism": mechanism, "disclosure": disclosure, "action_mode": mode, "max_cycles": 9}
    names = [*(rule for rule in RULES if rule != "random"), *(f"patient:2+{pricing}" for pricing in PRICING)]
    chair, smaller = seat(market(3, **rules)), seat(market(2, **rules))
    players = {name: (seated(name, chair), seated(name, smaller)) for name in names if plays(name, chair)}
    assert len(players) >= len(RULES) + 5
    batch = with_failed(market(3, **rules))
    traders = [seated("paper+fixed", seat_of(batch, 1), agent=agent) for agent in range(3)]
    for _ in range(batch.config.max_cycles):
        observation, mask = batch.observe_and_mask()
        seen = without(chair, observation[:, 0], smaller)
        legal = chair.actions.legal_purchases(mask[:, 0])[:, : smaller.actions.choices.offers]
        for name, (player, other) in players.items():
            ours = chair.actions.decode(player.act(observation[:, 0], mask[:, 0]))
            theirs = smaller.actions.decode(other.act(seen, smaller.actions.mask(legal)))
            assert same_orders(ours, theirs), name
        batch.step(torch.stack([player.act(observation[:, i], mask[:, i]) for i, player in enumerate(traders)], dim=1))


@pytest.mark.parametrize("name", PRICING)
@pytest.mark.parametrize("outcome", ["sold_now", "declined"])
def test_the_outcomes_of_a_buyer_no_longer_count_once_it_has_failed(name: str, outcome: str) -> None:
    disclosure = {"bounds": "bounds", "omniscient": "full"}.get(name, "transactions")
    levels = []
    for agents in (3, 2):
        chair = seat(market(agents, disclosure=disclosure, reward_terms=(), max_cycles=40))
        seller = Seller(chair, PRICING.parse(name))
        seller.reset(torch.zeros(1, dtype=torch.int64), torch.tensor([5]))
        standing = {"selling": [1], "ask": [0.024], "market_open": [1]}
        for cycle in range(12):
            kept = {outcome: [0, 1][: agents - 1]} if cycle < 8 else {"alive": [1, 0][: agents - 1]}
            observation, _ = see(chair, **standing, **kept, time_left=[1 - cycle / 40])
            wanted = seller.ask(chair.layout.unpack(observation))
        levels.append(wanted.tolist())
    assert levels[0] == levels[1]


@pytest.mark.parametrize("name", PRICING)
@pytest.mark.parametrize("mechanism", ["posted", "personal"])
def test_nothing_is_asked_when_all_others_have_failed(name: str, mechanism: str) -> None:
    disclosure = {"bounds": "bounds", "omniscient": "full"}.get(name, "transactions")
    chair = seat(market(3, mechanism=mechanism, disclosure=disclosure))
    if not plays(f"paper+{name}", chair):
        pytest.skip(f"{name} cannot play this market")
    seller = Seller(chair, PRICING.parse(name))
    for left in (1.0, 0.5):
        observation, _ = see(chair, alive=[0, 0], time_left=[left], market_open=[1])
        assert bool((seller.ask(chair.layout.unpack(observation)) == -1).all())
