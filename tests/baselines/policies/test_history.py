"""The features of an episode so far, held against a plain loop over what was observed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from paramarket_baselines.policies.history import NONE, History
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.scenarios import scenario
from paramarket_env.seeding import as_seeds, stream


def played(name: str, markets: int = 6) -> tuple[MarketBatch, torch.Tensor]:
    """The observations of the first seat in episodes of varied rules, ``[T, M, D]``."""
    batch = MarketBatch(scenario(name), markets, "cpu")
    seeds = as_seeds(range(markets), markets, batch.device)
    observation, mask = batch.reset(seeds)
    players = [POLICIES.check("varied")(seat_of(batch, markets)) for _ in range(batch.config.agents)]
    for agent, player in enumerate(players):
        player.reset(torch.arange(markets), stream(seeds, "policy", agent))
    seen = [observation[:, 0]]
    for _ in range(batch.config.max_cycles):
        actions = [player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players)]
        transition = batch.step(torch.stack(actions, dim=1))
        observation, mask = transition.observation, transition.mask
        seen.append(observation[:, 0])
    return batch, torch.stack(seen)


def plain(batch: MarketBatch, seen: np.ndarray) -> dict[str, np.ndarray]:
    """The features after one market's observations ``[T, D]``, one step at a time."""
    rows = [batch.layout.unpack(row) for row in seen]
    partners = len(rows[0]["alive"])
    found: dict[str, list[float]] = {"bought_at": [], "declined_at": []}
    for partner in range(partners):
        sold = [before["ask"][0] for before, now in pairwise(rows) if now["sold_now"][partner] > 0]
        left = [before["ask"][0] for before, now in pairwise(rows) if now["declined"][partner] > 0]
        found["bought_at"].append(max(sold, default=NONE))
        found["declined_at"].append(min(left, default=NONE))
    prices = [[row["offer_price"][o] for row in rows if row["offer_legal"][o] > 0] for o in range(partners)]
    return {
        **{name: np.array(figures, dtype=np.float32) for name, figures in found.items()},
        "sales": np.sum([row["sold_now"] for row in rows], axis=0),
        "declines": np.sum([row["declined"] for row in rows], axis=0),
        "gain_before": rows[-2]["offer_gain"],
        "lowest_price": np.array([min(each, default=NONE) for each in prices], dtype=np.float32),
        "highest_price": np.array([max(each, default=NONE) for each in prices], dtype=np.float32),
        "loss_at_start": rows[0]["loss"],
    }


@pytest.mark.parametrize("name", ["digits-priced-short", "three-firms-short"])
def test_the_features_are_those_of_a_plain_loop(name: str) -> None:
    batch, seen = played(name)
    history = History(batch.layout)
    memory = history.start(seen.shape[1], batch.device)
    for observation in seen:
        memory = history.observe(memory, observation)
    sold_at_all = False
    for market in range(seen.shape[1]):
        expected = plain(batch, seen[:, market].numpy())
        sold_at_all |= bool(expected["sales"].any() and expected["declines"].any())
        for feature, value in expected.items():
            np.testing.assert_allclose(memory[feature][market].numpy(), value, atol=1e-6, err_msg=feature)
    assert sold_at_all


def test_the_features_stand_behind_the_observation() -> None:
    batch, seen = played("digits-priced-short", 2)
    history = History(batch.layout)
    memory = history.observe(history.start(2, batch.device), seen[0])
    longer = History.append(memory, seen[0])
    assert longer.shape == (2, batch.layout.size + history.size)
    assert torch.equal(longer[:, : batch.layout.size], seen[0])
