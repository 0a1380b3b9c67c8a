"""Episodes as tables: what they must add up to, and the arms of the paper's comparison."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from paramarket_baselines.evaluation.federated import average
from paramarket_baselines.evaluation.play import PAPER_ARMS, RULE_ARMS, Arm, closed, play
from paramarket_baselines.policies.decisions import RULES, Paper
from paramarket_env.scenarios import digits
from tests.helpers import new_engine, orders, priced_market, tiny_market

SEEDS = (3, 11)


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_trades_and_steps_agree(mode: str) -> None:
    episode = play(priced_market(action_mode=mode), Arm("paper", ("paper",)), SEEDS, "cpu")
    steps, trades = episode.steps, episode.trades
    assert len(trades) > 0
    last = steps[steps.cycle == steps.cycle.max()].set_index(["seed", "agent"])
    moved = trades.groupby(["seed", "seller"]).price.sum().reindex(last.index, fill_value=0)
    paid = trades.groupby(["seed", "buyer"]).price.sum().reindex(last.index, fill_value=0)
    assert (last.balance == 60 + moved - paid).all()
    assert (trades.groupby(["seed", "seller"]).size().reindex(last.index, fill_value=0) == last.sold).all()


@pytest.mark.parametrize("arm", [PAPER_ARMS[2], PAPER_ARMS[3]])  # trade; averaging, which no step rewards by itself
def test_rewards_add_up_to_the_fall_of_the_loss(arm: Arm) -> None:
    steps = play(tiny_market(action_mode="round"), arm, SEEDS, "cpu").steps
    by_cycle = steps.set_index(["cycle", "seed", "agent"])
    fall = by_cycle.validation_loss.loc[0] - by_cycle.validation_loss.loc[7]
    np.testing.assert_allclose(steps.groupby(["seed", "agent"]).reward.sum(), fall)


def test_a_seed_plays_the_same_alone_and_in_a_batch() -> None:
    config = tiny_market(action_mode="round")
    together = play(config, Arm("paper", ("paper",)), SEEDS, "cpu").steps
    alone = play(config, Arm("paper", ("paper",)), SEEDS[1:], "cpu").steps
    both = together[together.seed == SEEDS[1]].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, alone.reset_index(drop=True), rtol=1e-4)


def test_each_seat_plays_the_policy_it_was_given() -> None:
    steps = play(tiny_market(), Arm("mixed", ("train", "hold")), SEEDS, "cpu").steps
    trained = steps[steps.cycle > 0].groupby("agent").trained.mean()
    assert trained.tolist() == [1.0, 0.0]


def test_rounds_end_with_a_trade_and_no_training() -> None:
    episode = play(tiny_market(action_mode="round"), Arm("greedy", ("greedy",)), SEEDS, "cpu")
    trained = episode.steps.groupby("cycle").trained.mean()
    assert trained.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]  # the start, six rounds, the closing trade
    assert (episode.trades.cycle == 7).any()


def test_a_closed_market_has_no_trades() -> None:
    assert len(play(tiny_market(), Arm("greedy", ("greedy",), closed), SEEDS, "cpu").trades) == 0


def test_averaging_leaves_out_an_agent_that_is_gone() -> None:
    engine = new_engine(tiny_market(agents=3), SEEDS)
    engine.state.parameters[:, 0] = torch.nan
    engine.step(orders(engine, train=(0,)))
    mean = engine.state.parameters[:, 1:].mean(1)
    average(engine)
    assert engine.state.alive.tolist() == [[False, True, True]] * 2
    torch.testing.assert_close(engine.state.parameters[:, 1], mean)


def test_policies_must_fill_the_seats() -> None:
    with pytest.raises(ValueError, match=r"policies=.*one for each of 2 agents"):
        play(tiny_market(), Arm("three", ("train", "hold", "hold")), SEEDS, "cpu")


def test_averaging_gives_all_agents_the_mean_network() -> None:
    engine = new_engine(tiny_market(agents=3, optimizer="adam"), SEEDS)
    engine.step(orders(engine, train=(0, 1, 2)))
    before, losses = engine.state.parameters.clone(), engine.state.loss.clone()
    fall = average(engine)
    torch.testing.assert_close(engine.state.parameters[:, 2], before.mean(1))
    torch.testing.assert_close(fall, losses - engine.state.loss)
    assert all(not tensor.any() for tensor in engine.state.optimizer.values())


def test_the_federated_arm_averages_before_each_step_but_the_first() -> None:
    config = tiny_market(action_mode="round", max_cycles=1)
    alone, federated = (play(config, arm, SEEDS, "cpu").steps for arm in (PAPER_ARMS[0], PAPER_ARMS[3]))
    both = [steps.set_index(["cycle", "seed", "agent"]).validation_loss for steps in (alone, federated)]
    assert both[0].loc[:1].equals(both[1].loc[:1])  # trained apart
    averaged = both[1].loc[2].unstack()
    assert (averaged[0] == averaged[1]).all()  # then one network
    assert not both[0].loc[2].equals(both[1].loc[2])


def test_the_rule_arms_are_the_rules() -> None:
    assert {arm.name for arm in RULE_ARMS} == set(RULES)
    assert RULE_ARMS[0].name == "train"


@pytest.mark.slow
def test_trading_improves_performance_as_the_paper_claims() -> None:
    config = replace(digits(), action_mode="round")
    accuracy = {}
    for arm in PAPER_ARMS[:3]:
        steps = play(config, arm, range(5), "cpu").steps
        accuracy[arm.name] = steps[steps.cycle == steps.cycle.max()].test_accuracy.mean()
    assert accuracy["market aligned"] > accuracy["out of market"] + 0.1
    assert accuracy["market unaligned"] > accuracy["out of market"] + 0.1


def test_an_arm_takes_policies_as_texts_or_as_plug_ins() -> None:
    config = tiny_market(max_cycles=3)
    named, made = (play(config, Arm("arm", (policy,)), SEEDS, "cpu") for policy in ("paper", Paper()))
    pd.testing.assert_frame_equal(named.steps, made.steps)
