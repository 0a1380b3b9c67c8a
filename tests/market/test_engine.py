"""One step of the engine: what clears, what moves, what it is worth, and what is refused at construction."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_env.economics.clearing import MECHANISMS, REFUSALS, WITHHELD, Book
from paramarket_env.economics.mechanisms import Posted
from paramarket_env.economics.rewards import Rivalry, TrainCost
from paramarket_env.learning.networks.network import split
from paramarket_env.learning.training import SGD, Adam
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import StepRecord
from paramarket_env.market.snapshot import snapshot
from tests.helpers import frozen, leaves, module_loss, new_engine, orders, priced_market, random_orders, tiny_market

CAUSE = {name: code for code, name in enumerate(REFUSALS)}


RICH = 2**60 + 1  # a float64 cannot hold it


def losses(engine: Engine) -> list[float]:
    """The validation losses of market 0, the plain way."""
    state = engine.state
    return [module_loss(engine, network, state.partition.validation[0, 0]) for network in state.parameters[0]]


# --- purchases ----------------------------------------------------------------------------------------------------


def test_two_agents_buy_from_each_other_with_the_networks_before_the_step() -> None:
    engine, alone = (new_engine(tiny_market(aligner="none")) for _ in range(2))
    before = engine.state.parameters[0].clone()
    weight = engine.broker.weights(engine.state)[0, :, 0]
    engine.step(orders(engine, buy={0: 0, 1: 0}))
    expected = torch.lerp(before, before.flip(0), weight)
    assert torch.equal(engine.state.parameters[0], expected)
    alone.step(orders(alone, buy={1: 0}))
    assert torch.equal(engine.state.parameters[0, 1], alone.state.parameters[0, 1])


def test_a_seller_sells_to_several_in_one_step() -> None:
    engine = new_engine(priced_market())
    record = engine.step(orders(engine, buy={0: 1, 1: 1}))
    assert record.seller.tolist() == [[2, 2, -1]]
    assert record.paid.tolist() == [[10, 10, 0]]
    assert record.received.tolist() == [[0, 0, 20]]
    assert engine.state.balance.tolist() == [[50, 50, 80]]
    assert engine.state.sales.int().tolist() == [[[0, 0], [0, 0], [1, 1]]]


def test_the_price_is_the_ask_seen_before_the_step() -> None:
    engine = new_engine(priced_market())
    record = engine.step(orders(engine, buy={0: 0}, ask={1: 3}))
    assert record.paid.tolist() == [[10, 0, 0]]
    assert engine.state.last_price.tolist() == [[0, 10, 0]]
    assert engine.asks.tolist() == [[[10], [60], [10]]]
    assert engine.step(orders(engine, buy={2: 1})).paid.tolist() == [[0, 0, 60]]


def test_an_offer_withdrawn_in_the_same_step_still_sells() -> None:
    engine = new_engine(priced_market())
    withheld = len(engine.config.economy.ask_levels)
    assert engine.step(orders(engine, buy={0: 0}, ask={1: withheld})).seller.tolist() == [[1, -1, -1]]
    assert engine.asks.tolist() == [[[10], [WITHHELD], [10]]]


def test_money_received_in_a_step_cannot_be_spent_in_it() -> None:
    engine = new_engine(priced_market(budget=10))
    engine.state.balance[0, 1] = 5
    record = engine.step(orders(engine, buy={0: 0, 1: 0}))
    assert record.refusal.tolist() == [[-1, CAUSE["unaffordable"], -1]]
    assert engine.state.balance.tolist() == [[0, 15, 10]]


class Extortion(Posted):
    """A faulty plug-in, which demands a tick more than the buyer has."""

    def price(self, book: Book, standing: Tensor) -> Tensor:
        return book.balance + 1


def test_a_payment_that_is_not_covered_is_an_error_before_anything_changes() -> None:
    engine = new_engine(priced_market())
    engine.exchange.mechanism, before = Extortion(), frozen(engine.state)
    with pytest.raises(ValueError, match=r"Extortion.* demands more than the balance"):
        engine.step(orders(engine, train=[1], buy={0: 0}, ask={2: 1}))
    assert frozen(engine.state) == before


MECHANISM_OF = {"underbid": "double-auction", "outbid": "second-price"}


@pytest.mark.parametrize("cause", REFUSALS)
def test_a_refused_purchase_changes_nothing_but_its_count(cause: str) -> None:
    mechanism = MECHANISM_OF.get(cause, "posted")
    engine = new_engine(priced_market(mechanism=mechanism, opens_at=1 if cause == "closed" else 0))
    if cause == "unquoted":
        engine.state.quotes.loss[0, 0, 0] = torch.inf
    if cause == "withheld":
        engine.state.ask[0, 1] = len(engine.config.economy.ask_levels)
    if cause == "unaffordable":
        engine.state.balance[0, 0] = 9
    rival = {2: 1} if cause == "outbid" else {}  # wants the same of agent 1, and bids more
    bought, bid = {0: 0} | rival, {0: 0 if cause == "underbid" else 1, 2: 2}
    twin = Engine(engine.config, 1, "cpu")
    twin.state = snapshot(engine.state)
    record, twins = engine.step(orders(engine, buy=bought, bid=bid)), twin.step(orders(twin, buy=rival, bid=bid))
    counts = [[int(name == cause) for name in REFUSALS], [0] * 6, [0] * 6]
    assert record.refusal.tolist() == [[CAUSE[cause], -1, -1]]
    assert engine.state.refusals[0].tolist() == counts
    twin.state.refusals = torch.tensor([counts])
    if cause == "outbid":  # by a rival that pays no more for it; and to be outbid is not to decline
        twin.state.declined[0, 1, 0] = False
    assert frozen(engine.state) == frozen(twin.state)
    for name in ("offer", "seller", "bid", "weight", "quoted", "paid", "gain", "reward"):
        assert torch.equal(getattr(record, name), getattr(twins, name)), name
        assert float(getattr(record, name)[0, 0]) <= 0, name


def test_accounts_open_with_each_agents_budget_in_whole_ticks_and_the_brokers_with_nothing() -> None:
    state = new_engine(priced_market(budget=(RICH, 0, 7)), [0, 1]).state
    assert state.balance.dtype == state.fees.dtype == torch.int64
    assert state.balance.tolist() == [[RICH, 0, 7]] * 2
    assert new_engine(priced_market(budget=RICH, max_cycles=2)).state.balance.tolist() == [[RICH] * 3]
    assert state.fees.tolist() == [0, 0]


def test_the_broker_keeps_its_fee_of_each_price_and_the_seller_is_paid_the_rest() -> None:
    engine = new_engine(priced_market(broker_fee=0.25))
    record = engine.step(orders(engine, buy={0: 1, 1: 1}))
    assert record.paid.tolist() == [[10, 10, 0]]
    assert record.received.tolist() == [[0, 0, 16]]  # a quarter of 10 is 2.5, of which the broker keeps 2, twice
    assert engine.state.fees.tolist() == [4]
    assert engine.state.balance.tolist() == [[50, 50, 76]]
    assert engine.state.earned.tolist() == [[0, 0, 16]]
    assert engine.state.last_price.tolist() == [[0, 0, 10]]
    assert record.reward[0, 2].item() == pytest.approx(0.016)
    engine.step(orders(engine, buy={2: 0}))
    assert engine.state.fees.tolist() == [6]


def test_each_buyer_pays_the_ask_for_it_alone() -> None:
    engine = new_engine(priced_market(mechanism="personal"))
    engine.step(orders(engine, ask={2: [0, 3], 0: [-1, 2]}))
    assert engine.asks.tolist() == [[[10, 25], [10, 10], [0, 60]]]
    assert engine.offer_prices.tolist() == [[[10, 0], [10, 60], [25, 10]]]
    record = engine.step(orders(engine, buy={0: 1, 1: 1, 2: 0}, ask={2: [4, -1]}))
    assert record.paid.tolist() == [[0, 60, 25]]
    assert record.received.tolist() == [[25, 0, 60]]
    assert engine.asks[0, 2].tolist() == [WITHHELD, 60]
    assert record.asked.tolist() == [[False, False, True]]


def test_a_price_by_which_an_agent_sold_is_the_average_over_its_buyers_in_whole_ticks() -> None:
    engine = new_engine(priced_market(mechanism="personal", ask_levels=(0, 10, 25)))
    engine.step(orders(engine, ask={2: [1, 2]}))
    engine.step(orders(engine, buy={0: 1, 1: 1}))
    assert engine.state.last_price.tolist() == [[0, 0, 17]]
    assert engine.state.sold.tolist() == [[0, 0, 2]]


def test_in_a_double_auction_the_price_is_between_ask_and_bid() -> None:
    engine = new_engine(priced_market(mechanism="double-auction"))
    record = engine.step(orders(engine, buy={0: 0, 1: 0, 2: 0}, bid={0: 2, 1: 1, 2: 0}))
    assert record.paid.tolist() == [[17, 10, 0]]
    assert record.bid.tolist() == [[25, 10, 0]]
    assert record.refusal.tolist() == [[-1, -1, CAUSE["underbid"]]]


def test_in_a_second_price_auction_the_winner_pays_what_the_loser_bid() -> None:
    engine = new_engine(priced_market(mechanism="second-price"))
    record = engine.step(orders(engine, buy={0: 1, 1: 1}, bid={0: 2, 1: 3}))
    assert record.paid.tolist() == [[0, 25, 0]]
    assert record.bid.tolist() == [[0, 60, 0]]
    assert record.refusal.tolist() == [[CAUSE["outbid"], -1, -1]]


def test_of_equal_bids_each_agent_wins_in_some_step_of_some_market() -> None:
    engine = new_engine(priced_market(mechanism="second-price", ask_levels=(0,), initial_ask=0), range(8))
    winners = [engine.step(orders(engine, buy={0: 1, 1: 1})).seller[:, :2] >= 0 for _ in range(4)]
    assert all(bool((won.sum(1) == 1).all()) for won in winners)
    share = torch.stack(winners).double()
    assert bool(((share.mean(0) > 0) & (share.mean(0) < 1)).any())  # from step to step
    assert bool(((share.mean(1) > 0) & (share.mean(1) < 1)).any())  # from market to market


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_seller_learns_which_buyer_bought_and_which_declined(mechanism: str) -> None:
    engine = new_engine(priced_market(mechanism=mechanism, max_cycles=9))
    engine.step(orders(engine, buy={0: 1}, bid={0: 1}))
    assert engine.state.sales.int().tolist() == [[[0, 0], [0, 0], [1, 0]]]
    assert engine.state.declined.int().tolist() == [[[1, 1], [1, 1], [0, 1]]]


def test_nobody_declines_what_is_not_for_sale_to_it_in_an_open_market() -> None:
    closed = new_engine(priced_market(opens_at=1))
    closed.step(orders(closed))
    assert not bool(closed.state.declined.any())
    engine = new_engine(priced_market(mechanism="personal"))
    engine.step(orders(engine, ask={1: [4, -1]}))
    engine.state.parameters[0, 2] = torch.nan
    engine.step(orders(engine, train=(2,)))
    assert engine.state.declined.int().tolist() == [[[1, 1], [0, 1], [1, 1]]]  # agent 2 could have, before it left
    engine.step(orders(engine))
    assert engine.state.declined.int().tolist() == [[[1, 0], [0, 0], [0, 0]]]


def test_to_bid_too_little_is_to_decline_and_to_be_outbid_is_not() -> None:
    under = new_engine(priced_market(mechanism="double-auction"))
    under.step(orders(under, buy={0: 0}, bid={0: 0}))
    assert under.state.declined[0, 1].tolist() == [True, True]
    over = new_engine(priced_market(mechanism="second-price"))
    over.step(orders(over, buy={0: 0, 2: 1}, bid={0: 1, 2: 2}))
    assert over.state.sales[0, 1].tolist() == [False, True]
    assert over.state.declined[0, 1].tolist() == [False, False]


@pytest.mark.parametrize("optimizer", [{"optimizer": SGD(lr=0.2, momentum=0.9)}, {"optimizer": Adam(lr=0.01)}])
def test_a_buyer_begins_with_a_fresh_optimizer_and_no_other_agent_does(optimizer: dict[str, Any]) -> None:
    engine = new_engine(tiny_market(agents=3, **optimizer))
    engine.step(orders(engine, train=(0, 1, 2)))
    before = {name: tensor.clone() for name, tensor in engine.state.optimizer.items()}
    assert before
    assert all(bool(tensor[0, agent].any()) for tensor in before.values() for agent in range(3))
    engine.step(orders(engine, buy={1: 0}))
    for name, tensor in engine.state.optimizer.items():
        assert not bool(tensor[0, 1].any()), name
        assert torch.equal(tensor[0, [0, 2]], before[name][0, [0, 2]]), name


def test_a_step_merges_first_and_trains_then() -> None:
    config = tiny_market(optimizer=SGD(lr=0.2, momentum=0.9))
    at_once, one_by_one = new_engine(config), new_engine(config)
    at_once.step(orders(at_once, train=(0,), buy={0: 0}))
    one_by_one.step(orders(one_by_one, buy={0: 0}))
    one_by_one.step(orders(one_by_one, train=(0,)))
    assert torch.equal(at_once.state.parameters, one_by_one.state.parameters)


# --- training, evaluation, bookkeeping ------------------------------------------------------------------------------


def test_training_changes_the_network_of_the_trainer_alone() -> None:
    engine = new_engine(tiny_market(agents=3))
    before = engine.state.parameters.clone()
    record = engine.step(orders(engine, train=(1,)))
    differs = (engine.state.parameters != before).any(dim=2)
    assert differs.tolist() == [[False, True, False]]
    assert record.trained.tolist() == [[False, True, False]]
    assert engine.state.passes.tolist() == [[0, 1, 0]]


def test_to_hold_changes_nothing_but_the_time() -> None:
    engine = new_engine(tiny_market())
    before = frozen(engine.state)
    record = engine.step(orders(engine))
    after = frozen(engine.state)
    assert {name for name in before if before[name] != after[name]} == {"cycle", "since_purchase", "declined"}
    assert bool(engine.state.declined.all())
    assert record.reward.tolist() == [[0.0, 0.0]]


def test_losses_are_those_of_ordinary_modules_on_the_validation_data() -> None:
    engine, rng = new_engine(priced_market()), np.random.default_rng(1)
    assert engine.state.loss[0].tolist() == pytest.approx(losses(engine), rel=1e-5)
    for _ in range(4):
        engine.step(random_orders(engine, rng))
        assert engine.state.loss[0].tolist() == pytest.approx(losses(engine), rel=1e-5)


def test_test_metrics_are_those_of_ordinary_modules_on_the_test_data() -> None:
    engine = new_engine(tiny_market())
    engine.step(orders(engine, train=(0, 1)))
    test, state = engine.state.partition.test[0, 0], engine.state
    loss, accuracy = engine.test_metrics()
    for agent, network in enumerate(state.parameters[0]):
        guesses = engine.network.module(network)(engine.dataset.inputs[test]).argmax(dim=1)
        right = (guesses == engine.dataset.labels[test]).double().mean()
        assert float(accuracy[0, agent]) == pytest.approx(float(right))
        assert float(loss[0, agent]) == pytest.approx(module_loss(engine, network, test), rel=1e-5)


def test_the_books_count_purchases_sales_and_the_time_since_the_last_one() -> None:
    engine = new_engine(priced_market())
    engine.step(orders(engine, buy={0: 0}))
    engine.step(orders(engine, buy={0: 1, 1: 1}))
    engine.step(orders(engine))
    state = engine.state
    assert state.bought.tolist() == [[2, 1, 0]]
    assert state.sold.tolist() == [[0, 1, 2]]
    assert state.earned.tolist() == [[0, 10, 20]]
    assert not bool(state.sales.any())
    assert state.since_purchase.tolist() == [[1, 1, 3]]
    assert state.balance.tolist() == [[40, 60, 80]]


def test_a_record_names_offer_seller_weight_and_money_of_each_purchase() -> None:
    engine = new_engine(priced_market(parameter_sets="layers"))
    weight = float(engine.broker.weights(engine.state)[0, 2, 0, 1])
    record = engine.step(orders(engine, buy={2: 1}, ask={0: 2}, train=(1,)))
    assert record.offer.tolist() == [[-1, -1, 1]]
    assert record.seller.tolist() == [[-1, -1, 0]]
    assert record.weight.tolist() == [[0.0, 0.0, weight]]
    assert record.paid.tolist() == [[0, 0, 10]]
    assert record.received.tolist() == [[10, 0, 0]]
    assert record.asked.tolist() == [[True, False, False]]
    assert record.bid.tolist() == [[0, 0, 0]]


def test_a_record_has_the_quoted_gain_and_the_gain_of_the_agent() -> None:
    engine = new_engine(priced_market(parameter_sets="layers"))
    quoted = engine.gains[0, 2, 1].item()
    record = engine.step(orders(engine, buy={2: 1}))
    assert record.quoted.tolist() == [[0.0, 0.0, quoted]]
    assert record.gain[0, 2].item() == pytest.approx(quoted, abs=1e-6)


def test_overwriting_gives_fresh_optimizers_new_losses_and_new_quotes() -> None:
    engine = new_engine(tiny_market(optimizer=SGD(lr=0.2, momentum=0.9)))
    engine.step(orders(engine, train=(0, 1)))
    mean = engine.state.parameters.mean(dim=1, keepdim=True).expand(-1, 2, -1)
    before = engine.state.loss.clone()
    gain = engine.overwrite(mean)
    assert torch.equal(engine.state.parameters, mean)
    assert engine.state.loss[0].tolist() == pytest.approx(losses(engine), rel=1e-5)
    assert torch.equal(gain, before - engine.state.loss)
    assert not bool(engine.state.optimizer["velocity"].any())
    # Equal networks have nothing to sell to each other.
    assert bool((engine.gains.abs() < 1e-6).all())


# --- rewards --------------------------------------------------------------------------------------------------------


def expected_rewards(engine: Engine, record: StepRecord, before: list[float]) -> list[float]:
    """The formula of the design, agent by agent."""
    economy, after = engine.config.economy, engine.state.loss[0].tolist()
    gains = [first - last for first, last in zip(before, after, strict=True)]
    rewards = []
    for agent, kappa in enumerate(engine.state.kappa[0].tolist()):
        money = int(record.received[0, agent]) - int(record.paid[0, agent])
        others = [gain for other, gain in enumerate(gains) if other != agent]
        lost = 0.0
        for term in economy.reward_terms:
            if isinstance(term, TrainCost):
                lost += term.cost * bool(record.trained[0, agent])
            else:
                assert isinstance(term, Rivalry)
                lost += term.weight * sum(others) / len(others)
        rewards.append(kappa * gains[agent] + economy.tick * money - lost)
    return rewards


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"reward_terms": (TrainCost(0.3),)},
        {"reward_terms": (Rivalry(0.7),)},
        {"reward_terms": (TrainCost(0.1), Rivalry(0.2))},
    ],
)
def test_the_reward_is_gain_and_money_less_the_cost_of_training_and_rivals_gains(terms: dict[str, float]) -> None:
    engine = new_engine(priced_market(kappa=(0.5, 1.0, 3.0), tick=0.01, **terms))
    rng = np.random.default_rng(3)
    traded = 0
    for _ in range(6):
        before = engine.state.loss[0].tolist()
        record = engine.step(random_orders(engine, rng))
        traded += int((record.seller >= 0).sum())
        assert record.reward[0].tolist() == pytest.approx(expected_rewards(engine, record, before), abs=1e-12)
    assert traded > 2


def test_large_amounts_of_money_keep_their_precision_in_the_reward() -> None:
    engine = new_engine(priced_market(ask_levels=(2**40 + 1,), initial_ask=0, budget=2**41, tick=1.0))
    record = engine.step(orders(engine, buy={0: 0}))
    assert float(record.reward[0, 1]) == 2**40 + 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rewards_add_up_to_the_fall_of_the_loss_and_the_change_of_the_balance(seed: int) -> None:
    engine, rng = new_engine(priced_market(kappa=(0.5, 1.0, 3.0)), [seed]), np.random.default_rng(seed)
    first_loss, first_balance = engine.state.loss.clone(), engine.state.balance.clone()
    rewards = torch.stack([engine.step(random_orders(engine, rng)).reward for _ in range(6)])
    fall, income = first_loss - engine.state.loss, engine.state.balance - first_balance
    expected = engine.state.kappa * fall + engine.config.economy.tick * income.double()
    assert bool(income.any())
    assert int(engine.state.refusals.sum()) > 0
    torch.testing.assert_close(rewards.sum(0), expected, rtol=0, atol=1e-12)


# --- ends -----------------------------------------------------------------------------------------------------------


def test_an_episode_is_truncated_after_max_cycles_and_not_before() -> None:
    engine = new_engine(tiny_market(max_cycles=3), [0, 1])
    truncated = [engine.step(orders(engine)).truncated.tolist() for _ in range(3)]
    assert truncated == [[False, False], [False, False], [True, True]]
    assert engine.market_open.tolist() == [False, False]
    assert not bool(engine.legal_purchases.any())


def diverged() -> tuple[Engine, StepRecord, list[float]]:
    """A market of three in which agent 1 has just trained itself to infinity; its record and the losses before."""
    engine = new_engine(priced_market(kappa=(1.0, 2.0, 3.0)))
    before = engine.state.loss[0].tolist()
    engine.state.parameters[0, 1] *= 1e20
    return engine, engine.step(orders(engine, train=(0, 1), buy={2: 0})), before


def test_an_agent_whose_loss_is_not_finite_is_terminated_and_the_others_go_on() -> None:
    engine, record, _ = diverged()
    assert record.terminated.tolist() == [[False, True, False]]
    assert engine.state.alive.tolist() == [[True, False, True]]
    assert record.truncated.tolist() == [False]
    assert engine.step(orders(engine, train=(0, 2))).terminated.tolist() == [[False, False, False]]
    assert engine.state.passes.tolist() == [[2, 1, 1]]


def test_a_diverged_network_counts_as_a_uniform_guess_or_its_last_loss_where_that_was_worse() -> None:
    engine, record, before = diverged()
    counted = max(before[1], math.log(10))
    assert float(engine.state.loss[0, 1]) == pytest.approx(counted)
    assert float(record.reward[0, 1]) == pytest.approx(2.0 * (before[1] - counted))
    worse = new_engine(tiny_market())
    worse.state.loss[0, 0] = 7.0
    worse.state.parameters[0, 0] = torch.nan
    assert float(worse.step(orders(worse, train=(0,))).reward[0, 0]) == 0.0
    assert float(worse.state.loss[0, 0]) == 7.0


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_no_poison_in_a_network_reaches_rewards_losses_or_other_networks(poison: float) -> None:
    engine = new_engine(priced_market())
    engine.state.parameters[0, 1] = poison
    record = engine.step(orders(engine, train=(0, 1, 2)))
    assert record.terminated.tolist() == [[False, True, False]]
    assert bool(record.reward.isfinite().all())
    assert bool(engine.state.loss.isfinite().all())
    assert bool(engine.state.parameters[0, [0, 2]].isfinite().all())


def test_an_infinite_parameter_does_not_stop_the_market_even_where_the_loss_is_finite() -> None:
    engine = new_engine(tiny_market(agents=3))
    split(engine.network, engine.state.parameters[0, 1])["layer1.bias"][0] = -torch.inf  # a unit that is never active
    for _ in range(2):
        record = engine.step(orders(engine, train=(0, 1, 2)))
    assert bool(record.reward.isfinite().all())
    assert engine.state.passes[0, [0, 2]].tolist() == [2, 2]


def test_a_learning_rate_without_measure_terminates_its_agent() -> None:
    engine = new_engine(tiny_market(optimizer=SGD(lr=1e30), agents=3))
    record = engine.step(orders(engine, train=(0,)))
    assert record.terminated.tolist() == [[True, False, False]]
    assert bool(record.reward.isfinite().all())


def test_the_offers_of_a_terminated_agent_are_withdrawn() -> None:
    engine, _, _ = diverged()
    assert engine.legal_purchases[0, :, :, 0].tolist() == [[False, True], [False, False], [True, False]]
    assert engine.gains[0].isfinite().tolist() == [[False, True], [False, False], [True, False]]
    record = engine.step(orders(engine, buy={0: 0, 2: 1}))
    assert record.refusal.tolist() == [[CAUSE["unquoted"], -1, CAUSE["unquoted"]]]


def test_the_orders_of_a_terminated_agent_are_ignored_and_its_rewards_are_zero() -> None:
    engine, _, _ = diverged()
    before = {name: getattr(engine.state, name)[:, 1].clone() for name in ("ask", "passes", "bought")}
    record = engine.step(orders(engine, train=(0, 1), buy={1: 0}, ask={1: 3}))
    for name, tensor in before.items():
        assert torch.equal(getattr(engine.state, name)[:, 1], tensor), name
    assert not bool(engine.state.refusals[0, 1].any())
    assert not bool(record.trained[0, 1] | record.asked[0, 1] | record.terminated[0, 1])
    assert float(record.reward[0, 1]) == 0.0


# --- random numbers, gradients ----------------------------------------------------------------------------------------


def test_no_global_random_number_is_drawn_and_no_global_seed_matters() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        engine = new_engine(tiny_market(endowment="dirichlet", batch_size=4))
        engine.step(orders(engine, train=(0, 1), buy={0: 0}))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
        assert random.getstate() == states[2]
        results.append(frozen(engine.state))
    assert results[0] == results[1]


def test_no_tensor_of_the_state_carries_a_gradient() -> None:
    engine = new_engine(tiny_market())
    engine.step(orders(engine, train=(0, 1)))
    assert not any(tensor.requires_grad for _, tensor in leaves(engine.state))


@pytest.mark.parametrize(("before", "after"), [(0.5, math.log(10)), (7.0, 7.0)])
def test_a_network_that_diverged_counts_as_a_guess_or_as_it_was_and_is_not_for_sale(
    before: float, after: float
) -> None:
    engine = new_engine(tiny_market())
    engine.state.parameters[0, 0] = torch.nan
    engine.state.loss[0, 0] = before
    record = engine.step(orders(engine, train=(0,)))
    assert record.terminated.tolist() == [[True, False]]
    assert float(record.reward[0, 0]) == pytest.approx(before - after)
    assert float(engine.state.loss[0, 0]) == pytest.approx(after)
    assert engine.asks.tolist() == [[[WITHHELD], [0]]]


@pytest.mark.parametrize("scale", [1e9, 1e30])
def test_a_network_with_an_enormous_loss_has_failed(scale: float) -> None:
    engine = new_engine(tiny_market(kappa=100.0, reward_terms=(Rivalry(1e6),)))
    engine.state.parameters[0, 0] *= scale
    record = engine.step(orders(engine, train=[0]))
    assert record.terminated.tolist() == [[True, False]]
    assert record.reward.float().isfinite().all()
    assert engine.gains[0, 1].isneginf().all()
