"""RLlib's PPO on a local Ray cluster of two nodes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from paramarket_baselines.evaluation.statistics import compare_with_random
from paramarket_baselines.policies.best_action import BestAction
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from paramarket_env.learning.training import SGD
from tests.helpers import tiny_market

pytest.importorskip("ray.rllib")
rllib_ppo = pytest.importorskip("paramarket_baselines.training.rllib_ppo")

# Nobody's offer is worth anything yet, and to hold gains nothing: to train is the one action that pays.
CONFIG = tiny_market(max_cycles=1, optimizer=SGD(lr=0.2), opens_at=1, endowment="iid")


@pytest.fixture(scope="module")
def result() -> Any:
    options = rllib_ppo.Options(nodes=2, num_markets=32, iterations=60)
    with rllib_ppo.connected(options):
        return rllib_ppo.learn(options, CONFIG)


@pytest.mark.slow
def test_the_env_runners_are_on_the_second_node(result: Any) -> None:
    assert len(result.runners) == 1
    assert result.learner not in result.runners


@pytest.mark.slow
def test_the_best_action_of_a_single_step_is_found(result: Any) -> None:
    batch = MarketBatch(CONFIG, 20, "cpu")
    seen, mask = batch.reset(torch.arange(1000, 1020))
    player = BestAction(result.policy.scores, seat_of(batch, batch.seeds))
    trained = player.act(seen[:, 0], mask[:, 0]) == 1
    assert float(trained.float().mean()) > 0.9


@pytest.mark.slow
def test_what_was_learned_does_better_than_random_play(result: Any) -> None:
    found = compare_with_random(CONFIG, partial(BestAction, result.policy.scores), rllib_ppo.HELD_OUT)
    assert found["learned"].low > found["random"].high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 2, "address": "auto"}, "nodes=2 is not allowed: it must be 1 where there is an address"),
        ({"num_markets": 0}, "num_markets=0 is not allowed"),
        ({"runners": 0}, "runners=0 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rllib_ppo.Options(**arguments)
