"""Learning algorithms find the known answers: they earn nearly what theory's answer earns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paramarket_baselines.policies.best_action import BestAction
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
MARKETS = {
    "posted-price": Market(POSTED, "train+fixed:3", "paper", (0,)),
    "price-skimming": Market(SKIMMING, script([[TRAIN, *asks(SKIMMING, 4, 2), HOLD]] * EPISODES), "paper", (0,)),
    "second-price": Market(scenario("known-second-price"), "paper+fixed:0", "paper+fixed:0", (1, 2)),
    "double-auction": Market(priced("known-double-auction", 12), "linear-equilibrium", "linear-equilibrium", (0, 1)),
    "last-round": Market(scenario("known-last-round"), "patient:11", "train", (0, 1)),
}
FOUR_PRICES = Market(priced("known-posted-price", 4), "train+fixed:2", "paper", (0,))


def learned(market: Market, algo: str, timesteps: int, num_markets: int, folder: Path) -> str:
    """The policy that an algorithm of Stable-Baselines3 has found."""
    learn(Plan(market.config, algo, timesteps, num_markets, against=(market.opponent,)), folder, "cpu")
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
    market = MARKETS[name]
    assert market.scores(market.answer) == pytest.approx([1.0] * len(market.seats))
    assert max(market.scores(wrong)) < 0.93


def test_the_best_price_is_learned_in_seconds(tmp_path: Path) -> None:
    assert FOUR_PRICES.scores(learned(FOUR_PRICES, "a2c", 30_000, 128, tmp_path)) == [pytest.approx(1.0)]


NEARLY = 0.8
"""The least score of a policy that has found the answer, but for a level or a step."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "algo", "timesteps", "num_markets"),
    [
        *(("posted-price", algo, 40_000, 128) for algo in ("ppo", "maskable-ppo", "a2c", "dqn")),
        *(("price-skimming", algo, 80_000, 128) for algo in ("ppo", "maskable-ppo")),
        ("price-skimming", "a2c", 100_000, 32),
        *(("second-price", algo, 60_000, 128) for algo in ("ppo", "maskable-ppo")),
        ("second-price", "a2c", 100_000, 32),
        ("second-price", "dqn", 40_000, 128),
        ("double-auction", "ppo", 120_000, 128),
        *(("last-round", algo, 150_000, 128) for algo in ("ppo", "a2c")),
        ("last-round", "dqn", 60_000, 64),
    ],
)
def test_an_algorithm_finds_the_answer(name: str, algo: str, timesteps: int, num_markets: int, tmp_path: Path) -> None:
    scores = MARKETS[name].scores(learned(MARKETS[name], algo, timesteps, num_markets, tmp_path))
    assert min(scores) > NEARLY, scores


@pytest.mark.slow
def test_torchrl_finds_the_best_price_in_self_play() -> None:
    torchrl_ppo = pytest.importorskip("paramarket_baselines.training.torchrl_ppo", exc_type=ImportError)
    market = MARKETS["posted-price"]
    scores = market.scores(partial(BestAction, torchrl_ppo.learn(market.config, 128, 60, 0, "cpu")))
    assert min(scores) > NEARLY, scores
