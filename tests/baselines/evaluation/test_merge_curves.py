"""Curves over the merge weight: they begin at the buyer's loss and pass through the quote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from paramarket_baselines.evaluation.merge_curves import (
    COLUMNS,
    WEIGHTS,
    PurchaseCurves,
    curve_table,
    draw_merge_curves,
)
from paramarket_baselines.evaluation.play import Arm, play, unaligned
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from tests.helpers import CROWD, priced_market, tiny_market
from tests.learning.networks.test_statistics import NORMED

SEEDS = (3, 11)
KEYS = ["seed", "buyer", "aligned", "merge_weight"]
TRADE = ["cycle", "seller", "parameter_set"]
MARKETS: dict[str, dict[str, Any]] = {
    "two firms": {},
    "layers": {"parameter_sets": "layers"},
    "tasks": {"dataset": ("digits", "digits-parity"), "parameter_sets": "trunk", "endowment": "iid"},
    "partners": CROWD,
    "batch normalisation": {"architecture": NORMED, "max_cycles": 3},
}


def watched(config: MarketConfig, *policies: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The steps and trades of an episode, and the curves."""
    curves = PurchaseCurves("arm", SEEDS)
    episode = play(config, Arm("arm", policies), SEEDS, "cpu", curves.watch)
    return episode.steps, episode.trades, curve_table([curves])


@pytest.mark.parametrize("changes", MARKETS.values(), ids=MARKETS)
def test_a_curve_begins_at_the_buyers_loss_and_passes_through_the_quote(changes: dict[str, Any]) -> None:
    config = tiny_market(**{"merger": "linear", "action_mode": "round", **changes})
    steps, trades, curves = watched(config, "paper")
    assert list(curves) == COLUMNS
    trades = trades.sort_values("cycle")
    for purchase in ("first", "last"):
        bought = getattr(trades.groupby(["seed", "buyer"]), purchase)()
        chosen = curves[curves.purchase == purchase].set_index(KEYS).sort_index()
        assert len(chosen) == len(bought) * 2 * len(WEIGHTS)
        for (seed, buyer), trade in bought.iterrows():
            of_buyer = chosen.loc[(seed, buyer)]
            assert (of_buyer[TRADE] == trade[TRADE]).to_numpy().all()
            before = steps[(steps.seed == seed) & (steps.agent == buyer) & (steps.cycle == trade.cycle - 1)]
            loss = of_buyer.validation_loss
            assert loss[False, 0.0] == loss[True, 0.0] == pytest.approx(before.validation_loss.item(), rel=1e-5)
            weight = min(WEIGHTS, key=lambda each: abs(each - trade.merge_weight))
            assert weight == pytest.approx(trade.merge_weight)
            assert loss[True, 0.0] - loss[True, weight] == pytest.approx(trade.quoted_gain, abs=1e-5)
            assert loss[True, weight] == pytest.approx(loss[True].drop([0.0, 1.0]).min(), abs=1e-5)
    assert curves.validation_accuracy.between(0, 1).all()
    assert not np.allclose(*(rows.validation_loss for _, rows in curves.groupby("aligned")))


def test_purchases_keep_the_networks_as_they_stood_before_whatever_becomes_of_them() -> None:
    batch, curves = MarketBatch(tiny_market(action_mode="round"), 2, "cpu"), PurchaseCurves("arm", SEEDS)
    batch.reset(torch.tensor(SEEDS))
    curves.watch(batch, None)
    state = batch.engine.state
    held, orders = state.parameters, state.quotes.permutations
    before, order = held.clone(), orders[:, :, 0].clone()
    record = batch.step(torch.tensor([[[1, 1, 0], [1, 1, 0]]] * 2)).record
    assert record.bought.all()
    held.zero_()
    orders.zero_()
    curves.watch(batch, record)
    for purchases in (curves.first, curves.last):
        assert torch.equal(purchases.buyers, before)
        assert torch.equal(purchases.sellers, before.flip(1))
        assert torch.equal(purchases.permutations, order)


def test_a_market_that_does_not_align_has_one_curve_of_a_purchase() -> None:
    _, trades, curves = watched(unaligned(priced_market(merger="linear")), "greedy")
    assert not curves.aligned.any()
    assert len(curves) == 2 * len(WEIGHTS) * len(trades[["seed", "buyer"]].drop_duplicates())


def test_the_curves_of_an_agent_that_never_buys_are_missing() -> None:
    _, trades, curves = watched(tiny_market(), "greedy", "train")
    assert set(trades.buyer) == set(curves.buyer) == {0}
    assert list(watched(tiny_market(), "train")[2]) == COLUMNS


def test_a_line_is_drawn_for_each_arm_and_alignment() -> None:
    _, _, curves = watched(tiny_market(), "greedy")
    other = curves[~curves.aligned].assign(arm="other $x_$")
    figure = draw_merge_curves(pd.concat([curves, other]), "title")
    figure.canvas.draw()
    assert [len(axes.lines) for axes in figure.axes] == [3, 3, 3, 3]
    last = curves[(curves.purchase == "last") & curves.aligned]
    expected = last.groupby("merge_weight").validation_loss.mean()
    np.testing.assert_allclose(figure.axes[3].lines[1].get_ydata(), expected)


def test_purchases_of_agents_that_buy_once_are_drawn_once() -> None:
    _, trades, curves = watched(tiny_market(action_mode="round", opens_at=6), "paper")
    assert len(trades) > 0
    accuracy, loss = draw_merge_curves(curves, "title").axes
    assert len(accuracy.lines) == len(loss.lines) == 2
