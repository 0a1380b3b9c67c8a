"""Every learning algorithm finds the known answers: it earns nearly what theory's answer earns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paramarket_baselines.policies.best_action import BestAction
from paramarket_baselines.policies.learned import ALGORITHMS
from paramarket_baselines.training.sb3 import Plan, learn
from paramarket_env.config import MarketConfig
from paramarket_env.scenarios import scenario
from tests.known import HOLD, TRAIN, asks, played, script

EPISODES = 500


@dataclass(frozen=True)
class Market:
    """A market with a known answer, and what a learner needs to find it."""

    config: MarketConfig
    answer: Any
    """The policy that plays the answer."""
    opponent: str
    """The policy in the other seats."""
    seats: tuple[int, ...]
    """The seats in which there is something to learn."""
    timesteps: int
    """Agent-steps of a training."""

    def scores(self, player: Any) -> list[float]:
        """A player's mean return in each seat, on the scale from 0, ``train`` and no trade, to 1, the answer."""
        return [self._score(player, seat) for seat in self.seats]

    def _score(self, player: Any, seat: int) -> float:
        nothing, earned, best = (self._earned(policy, seat) for policy in ("train", player, self.answer))
        return (earned - nothing) / (best - nothing)

    def _earned(self, policy: Any, seat: int) -> float:
        players = [self.opponent] * self.config.agents
        players[seat] = policy
        return float(played(self.config, players, EPISODES)[:, seat].mean())


def priced(name: str, steps: int) -> MarketConfig:
    """The scenario with prices from 0 to 1 in so many steps. Learning takes longer the more prices there are."""
    return scenario(name, ask_levels=tuple(range(steps + 1)), initial_ask=steps + 1, tick=1 / steps, budget=steps)


POSTED = scenario("known-posted-price")
SKIMMING = scenario("known-price-skimming")
LEARNED = {
    "posted-price": Market(POSTED, "train+fixed:3", "paper", (0,), 40_000),
    "price-skimming": Market(
        SKIMMING, script([[TRAIN, *asks(SKIMMING, 4, 2), HOLD]] * EPISODES), "paper", (0,), 80_000
    ),
    "second-price": Market(scenario("known-second-price"), "paper+fixed:0", "paper+fixed:0", (1, 2), 60_000),
    "double-auction": Market(
        priced("known-double-auction", 12), "linear-equilibrium", "linear-equilibrium", (0, 1), 120_000
    ),
    "last-round": Market(scenario("known-last-round"), "patient:11", "train", (0, 1), 150_000),
}
FOUR_PRICES = Market(priced("known-posted-price", 4), "train+fixed:2", "paper", (0,), 30_000)


def learned(market: Market, algo: str, folder: Path) -> str:
    """The policy that an algorithm of Stable-Baselines3 has found after the market's timesteps."""
    plan = Plan(market.config, algo, market.timesteps, num_markets=128, against=(market.opponent,))
    learn(plan, folder, "cpu")
    return f"learned:{folder}"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("posted-price", "train+fixed:2"),
        ("price-skimming", "train+fixed:3"),
        ("last-round", "patient:5"),
        ("last-round", "greedy"),
    ],
)
def test_the_scale_tells_the_answer_from_other_rules(name: str, wrong: str) -> None:
    market = LEARNED[name]
    assert market.scores(market.answer) == pytest.approx([1.0] * len(market.seats))
    assert max(market.scores(wrong)) < 0.93


def test_the_best_price_is_learned_in_seconds(tmp_path: Path) -> None:
    assert FOUR_PRICES.scores(learned(FOUR_PRICES, "a2c", tmp_path)) == [pytest.approx(1.0)]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("name", LEARNED)
def test_every_algorithm_finds_the_answer(name: str, algo: str, tmp_path: Path) -> None:
    scores = LEARNED[name].scores(learned(LEARNED[name], algo, tmp_path))
    assert min(scores) > 0.85, scores


SELF_PLAY = pytest.mark.parametrize("name", ["posted-price", "last-round"])
"""Markets in which the answer does not depend on what the others do, if they train: all agents can learn at once."""


@pytest.mark.slow
@SELF_PLAY
def test_torchrl_finds_the_answer_in_self_play(name: str) -> None:
    torchrl_ppo = pytest.importorskip("paramarket_baselines.training.torchrl_ppo", exc_type=ImportError)
    scores = torchrl_ppo.learn(LEARNED[name].config, num_markets=64, iterations=150, seed=0, device="cpu")
    found = LEARNED[name].scores(partial(BestAction, scores))
    assert min(found) > 0.85, found


@pytest.mark.slow
@SELF_PLAY
def test_rllib_finds_the_answer_in_self_play(name: str) -> None:
    rllib_ppo = pytest.importorskip("paramarket_baselines.training.rllib_ppo", exc_type=ImportError)
    options = rllib_ppo.Options(num_markets=64, iterations=150)
    with rllib_ppo.connected(options):
        result = rllib_ppo.learn(options, LEARNED[name].config)
    found = LEARNED[name].scores(partial(BestAction, result.policy.scores))
    assert min(found) > 0.85, found
