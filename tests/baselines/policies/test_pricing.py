"""Pricing rules: what each posts, what it learns from, and which markets it cannot play."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.scripts import played
from paramarket_baselines.policies.decisions import RULES
from paramarket_baselines.policies.pricing import (
    PRICING,
    VERB_POSTING_PERIOD,
    Bayesian,
    Bounds,
    CostPlus,
    Fixed,
    History,
    Omniscient,
    PricingRule,
    RandomPrice,
    RivalAware,
    Seller,
    Thompson,
    posted_levels,
)
from paramarket_baselines.policies.pricing.bayesian import sales_to_third_parties
from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.economics.pricing import drift, uniform_belief, update_belief
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.interface.policy import Seat
from paramarket_env.seeding import stream
from tests.baselines.policies.test_decisions import seat, see
from tests.baselines.policies.test_failed_agents import plays
from tests.helpers import CPU, CROWD, priced_market

LEVELS = (0, 10, 25, 60)  # ticks of 0.001; three agents, so two possible buyers
CONFIG = priced_market(action_mode="round")


def market(**changes: Any) -> MarketConfig:
    return priced_market(action_mode="round", **changes)


def fields_of(chair: Seat, **values: Any) -> dict[str, Tensor]:
    return chair.layout.unpack(see(chair, rows=chair.num_markets, **values)[0])


def standing(chair: Seat, level: int, **values: object) -> dict[str, Tensor]:
    """An observation in the middle of an episode, of a seller whose asks all stand at a level."""
    slots = chair.actions.choices.ask_slots
    asks = {"selling": [1] * slots, "ask": [LEVELS[level] * 0.001] * slots}
    posted = asks | {"market_open": [1], "time_left": [0.5]}
    return fields_of(chair, **(posted | values))


def seller(rule: PricingRule, chair: Seat) -> Seller:
    """The rule in the seat, at the beginning of an episode in each row."""
    found, rows = Seller(chair, rule), torch.arange(chair.num_markets)
    found.reset(rows, stream(rows, "policy", 0))
    return found


def posts(rule: Seller, fields: dict[str, Tensor]) -> list[int]:
    """The levels that stand in the first row after the rule has spoken."""
    before, wanted = posted_levels(rule.seat, fields)[0].tolist(), rule.ask(fields)[0].tolist()
    return [old if new < 0 else new for old, new in zip(before, wanted, strict=True)]


def levels_of(rule: Seller, fields: dict[str, Tensor]) -> Tensor:
    """The levels that the rule names, without regard to those that stand."""
    return rule.rule.price(rule.seat, rule.memory, fields)


# --- all rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRICING)
def test_what_is_posted_already_is_not_posted_again(name: str) -> None:
    disclosure = {"bounds": "bounds", "omniscient": "full"}.get(name, "transactions")
    chair = seat(market(disclosure=disclosure))
    rule = seller(PRICING.parse(name), chair)
    [level] = posts(rule, standing(chair, 1, time_left=[1]))
    if level < len(LEVELS):
        fields = standing(chair, level, time_left=[1])
        assert seller(PRICING.parse(name), chair).ask(fields).tolist() == [[-1]]


def test_with_one_verb_a_step_an_ask_is_thought_over_once_in_a_period() -> None:
    config = priced_market(action_mode="verb", max_cycles=40)
    chair = seat(config)
    rule = seller(Bayesian(), chair)
    turns = [
        cycle
        for cycle in range(40)
        if rule.ask(standing(chair, 0, time_left=[1 - cycle / 40], market_open=[0])).item() >= 0
    ]
    assert turns == list(range(0, 40, VERB_POSTING_PERIOD))


@pytest.mark.parametrize(
    ("rule", "economy", "needs"),
    [
        ("history", {"disclosure": "none"}, "disclosure='transactions'"),
        ("history", {"mechanism": "personal"}, "mechanism='posted'"),
        ("history", {"mechanism": "double-auction"}, "mechanism='posted'"),
        ("history", {"mechanism": "second-price"}, "mechanism='posted'"),
        ("bounds", {"disclosure": "transactions"}, "disclosure='bounds'"),
        ("bounds", {"disclosure": "full"}, "disclosure='bounds'"),
        ("omniscient", {"disclosure": "bounds"}, "disclosure='full'"),
    ],
)
def test_a_market_that_a_rule_cannot_play_is_refused_with_the_reason(
    rule: str, economy: dict[str, Any], needs: str
) -> None:
    with pytest.raises(ValueError, match=f"pricing='{rule}' cannot play here: it needs {needs}, this market has"):
        seller(PRICING.parse(rule), seat(market(**economy)))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("disclosure", ["none", "transactions", "bounds", "full"])
def test_every_rule_that_a_market_suits_plays_it(mechanism: str, disclosure: str) -> None:
    config = market(
        mechanism=mechanism,
        disclosure=disclosure,
        reward_terms=(TrainCost(0.01), Rivalry(0.2)),
        max_cycles=4,
    )
    chair = seat(config)
    policies = [f"paper+{name}" for name in PRICING]
    able = [policy for policy in policies if plays(policy, chair)]
    for policy in able:
        assert np.isfinite(played(config, [policy] * config.agents, 2)).all()
    assert len(able) >= 6


@pytest.mark.parametrize("mechanism", [name for name in MECHANISMS if not MECHANISMS.parse(name).personal])
@pytest.mark.parametrize("disclosure", ["none", "transactions", "bounds", "full"])
def test_every_rule_that_a_crowd_suits_plays_it(mechanism: str, disclosure: str) -> None:
    config = market(**CROWD, mechanism=mechanism, disclosure=disclosure, max_cycles=3, reward_terms=(Rivalry(0.2),))
    chair = seat(config)
    policies = [*RULES, *(f"patient:1+{name}" for name in PRICING)]
    able = [policy for policy in policies if plays(policy, chair)]
    for policy in able:
        assert np.isfinite(played(config, [policy] * config.agents, 1)).all()
    assert len(able) >= len(RULES) + 6


@pytest.mark.parametrize("name", ["dear", "fixed:", "fixed:x", "fixed:-1", "bayesian:2", "bayesian(k=1)", ""])
def test_names_that_are_no_pricing_rules_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"choose from bayesian, bounds|must be"):
        PRICING.parse(name)


def test_a_level_that_does_not_exist_is_refused_when_the_rule_takes_its_seat() -> None:
    with pytest.raises(ValueError, match=r"fixed\.level=4 is not allowed: it must be from 0 to 3 in this market"):
        seller(PRICING.parse("fixed:4"), seat(CONFIG))


# --- rules that learn nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "level"), [(None, 1), (0, 0), (3, 3)])
def test_a_fixed_price_is_the_level_given_or_the_middle_one(given: int | None, level: int) -> None:
    chair = seat(CONFIG)
    assert posts(seller(Fixed(given), chair), standing(chair, 2)) == [level]


def test_random_prices_are_uniform_and_differ_between_cycles_and_asks() -> None:
    chair = seat(market(mechanism="personal", max_cycles=40), rows=400)
    rule = seller(RandomPrice(), chair)
    first, second = (levels_of(rule, fields_of(chair, time_left=[left])) for left in (1.0, 0.5))
    assert first.flatten().bincount().tolist() == pytest.approx([200] * 4, abs=60)
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_cost_plus_asks_the_lowest_price_that_covers_cost_and_markup() -> None:
    chair = seat(market(reward_terms=(TrainCost(0.007), Rivalry(0.04))))
    quoted = {"offer_gain": [0.2, -0.3]}  # its larger gain of 0.2 nats, taken for the buyer's: costs 0.04 / 2 * 0.2
    # 1.5 * (0.007 + 0.004) = 0.0165 is above level 1 (0.010).
    assert posts(seller(CostPlus(), chair), standing(chair, 0, **quoted)) == [2]
    assert posts(seller(CostPlus(), seat(market())), standing(chair, 2)) == [0]
    assert posts(seller(CostPlus(), seat(market(reward_terms=(TrainCost(1.0),)))), standing(chair, 2)) == [len(LEVELS)]


# --- the Bayesian seller --------------------------------------------------------------------------------------------


def test_it_begins_with_the_price_that_is_optimal_for_a_uniform_belief() -> None:
    chair = seat(CONFIG)
    # Survival 4/5, 3/5, 2/5, 1/5: revenue 0, 6, 10, 12.
    assert posts(seller(Bayesian(), chair), standing(chair, 2, time_left=[1])) == [3]


def test_it_learns_of_each_buyer_at_the_level_that_stood_before_the_step() -> None:
    chair = seat(CONFIG)
    rule = seller(Bayesian(), chair)
    rule.ask(standing(chair, 3, time_left=[1]))
    rule.ask(standing(chair, 1, sold_now=[1, 0], declined=[0, 1]))
    prior, level = uniform_belief((1, 2), 4, CPU), torch.full((1, 2, 1), 3)
    sold, declined = torch.tensor([[[1], [0]]]), torch.tensor([[[0], [1]]])
    learned = update_belief(prior, level, sold, declined, rule.rule.attention)
    torch.testing.assert_close(rule.memory["belief"], drift(learned, rule.rule.spread, rule.rule.jump))


def test_sales_raise_the_price_and_refusals_lower_it() -> None:
    chair = seat(CONFIG)
    rule = seller(Bayesian(), chair)
    level = posts(rule, standing(chair, 3, time_left=[1]))[0]
    for _ in range(3):
        level = posts(rule, standing(chair, level, declined=[1, 1]))[0]
    assert level < 3
    for _ in range(30):
        level = posts(rule, standing(chair, level, sold_now=[1, 1]))[0]
    assert level == 3


def test_where_partners_change_all_buyers_have_the_mean_of_the_learned_beliefs() -> None:
    chair = seat(market(**CROWD))
    rule = seller(Bayesian(), chair)
    rule.ask(standing(chair, 3, time_left=[1]))
    rule.ask(standing(chair, 1, sold_now=[1, 0], declined=[0, 1]))
    prior, level = uniform_belief((1, 2), 4, CPU), torch.full((1, 2, 1), 3)
    sold, declined = torch.tensor([[[1], [0]]]), torch.tensor([[[0], [1]]])
    learned = update_belief(prior, level, sold, declined, rule.rule.attention).mean(1, keepdim=True)
    expected = drift(learned, rule.rule.spread, rule.rule.jump).expand(-1, 2, -1)
    torch.testing.assert_close(rule.memory["belief"], expected)


def test_with_personal_prices_each_buyer_is_priced_by_its_own_record() -> None:
    chair = seat(market(mechanism="personal"))
    rule = seller(Bayesian(), chair)
    levels = posts(rule, standing(chair, 2, time_left=[1]))
    for _ in range(4):
        fields = standing(chair, 2, ask=[LEVELS[level] * 0.001 for level in levels], sold_now=[1, 0], declined=[0, 1])
        levels = posts(rule, fields)
    assert levels[0] == 3
    assert levels[1] < 3


def test_where_nothing_could_be_sold_nothing_is_learned() -> None:
    chair = seat(CONFIG)
    rule = seller(Bayesian(), chair)
    rule.ask(standing(chair, 3, market_open=[0], time_left=[1]))
    rule.ask(standing(chair, 3))
    torch.testing.assert_close(rule.memory["belief"], uniform_belief((1, 2), 4, CPU))


@pytest.mark.parametrize(("kind", "disclosure"), [(Bayesian, "none"), (Bounds, "bounds"), (Thompson, "none")])
def test_a_new_episode_clears_the_memory_of_its_row_alone(kind: type[PricingRule], disclosure: str) -> None:
    config = market(disclosure=disclosure, kappa_distribution="uniform", kappa=0.5, kappa_high=2.0)
    chair = seat(config, rows=2)
    rule, name = seller(kind(), chair), "taken" if kind is Thompson else "belief"
    bounds = {"gain_low": [0.04, 0.04], "gain_high": [0.06, 0.06]} if disclosure == "bounds" else {}
    rule.ask(standing(chair, 3, time_left=[1], **bounds))
    fresh = rule.memory[name]
    rule.ask(standing(chair, 3, sold_now=[1, 1], **bounds))
    learned = rule.memory[name]
    rule.reset(torch.tensor([1]), torch.tensor([9]))
    assert torch.equal(rule.memory[name], torch.stack([learned[0], fresh[1]]))
    # The sale in the new episode's first observation was in the old episode.
    rule.ask(standing(chair, 3, sold_now=[1, 1], **bounds))
    assert not torch.equal(learned[1], fresh[1])
    assert not torch.equal(rule.memory[name][0], learned[0])
    assert torch.equal(rule.memory[name][1], fresh[1])


def test_the_rival_aware_seller_withholds_what_costs_it_more_than_any_price() -> None:
    quoted = {"offer_gain": [0.1, 0.3], "time_left": [1]}
    for rivalry, expected in ((0.0, 3), (0.2, 3), (1.0, len(LEVELS))):  # a cost of rivalry / 2 * 0.3
        chair = seat(market(reward_terms=(Rivalry(rivalry),)))
        assert posts(seller(RivalAware(), chair), standing(chair, 1, **quoted)) == [expected]
        assert posts(seller(Bayesian(), chair), standing(chair, 1, **quoted)) == [3]


def test_history_learns_from_what_others_sold_at_their_asks() -> None:
    chair = seat(CONFIG)
    rule, lonely = seller(History(), chair), seller(Bayesian(), chair)
    public = {"offer_price": [0.01, 0.06], "offer_legal": [1, 0]}
    first = standing(chair, 3, time_left=[1], **public)
    then = standing(chair, 3, trades_now=[0, 1], since_purchase=[0.5], **public)
    for player in (rule, lonely):
        player.ask(first)
        player.ask(then)
    # Each of the others has one more buyer: at level 1 it declined, at level 3 it bought.
    level = torch.tensor([3, 1, 3]).expand(1, 2, 3)
    sold, refused = torch.tensor([0, 0, 1]).expand(1, 2, 3), torch.tensor([0, 1, 0]).expand(1, 2, 3)
    learned = update_belief(uniform_belief((1, 2), 4, CPU), level, sold, refused, rule.rule.attention)
    torch.testing.assert_close(rule.memory["belief"], drift(learned, rule.rule.spread, rule.rule.jump))
    assert not torch.allclose(rule.memory["belief"], lonely.memory["belief"])


def test_where_partners_change_history_takes_the_asks_and_sales_of_those_met_now() -> None:
    chair = seat(market(**CROWD))
    rule = seller(History(), chair)
    before = standing(chair, 3, time_left=[1], offer_price=[0.025, 0.06], offer_legal=[1, 1])
    now = standing(chair, 3, trades_now=[1, 0], since_purchase=[0], offer_price=[0.01, 0.06], offer_legal=[1, 0])
    rule.ask(before)
    rule.ask(now)
    # One of the first one's two partners bought at level 1. The second one does not sell.
    level = torch.tensor([3, 1, 3]).expand(1, 2, 3)
    sold, refused = torch.tensor([0, 0.5, 0]).expand(1, 2, 3), torch.tensor([0, 0.5, 0]).expand(1, 2, 3)
    learned = update_belief(uniform_belief((1, 2), 4, CPU), level, sold, refused, rule.rule.attention)
    torch.testing.assert_close(rule.memory["belief"], drift(learned, rule.rule.spread, rule.rule.jump))


def test_where_partners_change_a_bandit_counts_for_all_buyers_together() -> None:
    chair = seat(market(**CROWD))
    rule = seller(Thompson(), chair)
    rule.ask(standing(chair, 1, time_left=[1]))
    rule.ask(standing(chair, 1, sold_now=[1, 0], declined=[0, 1]))
    assert rule.memory["taken"].tolist() == [[[0.5, 0.5, 0, 0]] * 2]
    assert rule.memory["left"].tolist() == [[[0, 0.5, 0.5, 0.5]] * 2]


def test_ones_own_purchases_are_no_history() -> None:
    chair = seat(CONFIG)
    trades = standing(chair, 1, trades_now=[2, 1], since_purchase=[0])  # one of the three was made by this seat
    torch.testing.assert_close(sales_to_third_parties(trades), torch.tensor([[1.5, 0.5]]))
    two = seat(replace(CONFIG, agents=2))
    alone, lonely = seller(History(), two), seller(Bayesian(), two)
    for player in (alone, lonely):
        player.ask(standing(two, 3, time_left=[1], offer_price=[0.01], offer_legal=[1]))
        player.ask(standing(two, 3, trades_now=[1], since_purchase=[0]))
    torch.testing.assert_close(alone.memory["belief"], lonely.memory["belief"])


# --- sellers who observe more --------------------------------------------------------------------------------------


def test_with_bounds_and_a_known_kappa_the_price_is_optimal_for_a_uniform_value() -> None:
    chair = seat(market(disclosure="bounds", kappa=0.5, ask_levels=tuple(range(0, 61, 2)), initial_ask=0))
    fields = fields_of(chair, time_left=[1], gain_low=[0.02, 0.02], gain_high=[0.1, 0.1])
    # Values within [0.01, 0.05]: max(0.01, 0.05 / 2) = 0.025, between the levels 0.024 and 0.026.
    assert seller(Bounds(), chair).ask(fields).item() in (12, 13)


def test_with_bounds_a_seller_learns_kappa_from_sales_and_refusals() -> None:
    chair = seat(market(disclosure="bounds", kappa_distribution="uniform", kappa=0.5, kappa_high=2.0), rows=1)
    means = {}
    for outcome in ("sold_now", "declined"):
        rule = seller(Bounds(), chair)
        bounds = {"gain_low": [0.02, 0.02], "gain_high": [0.025, 0.025]}
        rule.ask(standing(chair, 2, time_left=[1], **bounds))
        rule.ask(standing(chair, 2, **bounds, **{outcome: [1, 0]}))
        expected = (rule.memory["belief"] * rule.rule.kappas(chair)).sum(2)[0]
        means[outcome] = float(expected[0])
        assert float(expected[1]) == pytest.approx(1.25)  # of the other buyer nothing is learned
    assert means["declined"] < 1.25 < means["sold_now"]


def test_the_omniscient_price_is_the_highest_that_is_worth_it_to_the_buyers() -> None:
    chair = seat(market(disclosure="full"))
    rule = seller(Omniscient(), chair)
    assert posts(rule, standing(chair, 0, buyer_value=[0.030, 0.030])) == [2]
    assert posts(rule, standing(chair, 0, buyer_value=[0.061, 0.011])) == [3]  # 60 once is more than 10 twice
    assert posts(rule, standing(chair, 0, buyer_value=[0.026, 0.0])) == [2]
    personal = seat(market(disclosure="full", mechanism="personal"))
    assert posts(seller(Omniscient(), personal), standing(personal, 0, buyer_value=[0.061, 0.011])) == [3, 1]


def test_a_seller_of_parts_is_paid_for_the_best_of_them() -> None:
    chair = seat(market(disclosure="full", parameter_sets="layers"))
    fields = standing(chair, 0, buyer_value=[0.001, 0.027, 0.002, 0.028])
    assert posts(seller(Omniscient(), chair), fields) == [2]


# --- the bandit -----------------------------------------------------------------------------------------------------


def test_thompson_comes_to_post_the_level_that_earns_most() -> None:
    config = replace(market(), max_cycles=400)
    chair = seat(config, rows=200)
    rule = seller(Thompson(), chair)
    level = cleared = torch.full((200, 1), 1)
    prices = torch.tensor(LEVELS) * 0.001
    for cycle in range(60):
        taken = (cleared <= 2).float()  # both buyers pay up to 25 ticks
        fields = fields_of(chair, selling=[1], market_open=[1], time_left=[1 - cycle / 400])
        fields["ask"][:], fields["sold_now"][:], fields["declined"][:] = prices[level], taken, 1 - taken
        wanted = rule.ask(fields)
        cleared, level = level, torch.where(wanted >= 0, wanted, level)
    assert (level == 2).float().mean() > 0.8


def test_thompson_draws_by_the_seats_own_stream() -> None:
    chair = seat(CONFIG, rows=50)
    fields = fields_of(chair, time_left=[1])
    assert torch.equal(levels_of(seller(Thompson(), chair), fields), levels_of(seller(Thompson(), chair), fields))
    assert len(levels_of(seller(Thompson(), chair), fields).unique()) > 1
