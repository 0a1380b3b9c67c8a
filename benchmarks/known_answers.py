"""Which learning algorithm finds which known answer: ``python -m benchmarks.known_answers``.

Each algorithm trains in every scenario with a known answer. Its policy then plays the seats in which there is something
to learn, against the rule that theory assumes. A score of 0 is the return of ``train``, which never trades, and 1 that
of theory's answer, on the same episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import tyro

from benchmarks.scripts import HOLD, TRAIN, asks, played, script
from paramarket_baselines.evaluation.display import markdown, new_console
from paramarket_baselines.evaluation.results import read_json, write_json
from paramarket_baselines.policies.best_action import BestAction
from paramarket_baselines.policies.learned import ALGORITHMS
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import PolicyFactory
from paramarket_env.scenarios import scenario
from paramarket_env.validation import configuration, lookup

EPISODES = 500
"""The number of episodes behind a mean return."""

Player = str | PolicyFactory


@dataclass(frozen=True)
class Market:
    """A market with a known answer, and the length of a training in it."""

    config: MarketConfig
    answer: Player
    """The policy that plays the answer."""
    opponent: str
    """The policy in the other seats."""
    seats: tuple[int, ...]
    """The seats in which there is something to learn."""
    timesteps: int
    """The agent-steps of a training."""

    def scores(self, player: Player) -> list[float]:
        """A player's mean return in each seat, on the scale from 0, ``train`` and no trade, to 1, the answer."""
        return [self._score(player, seat) for seat in self.seats]

    def _score(self, player: Player, seat: int) -> float:
        nothing, earned, best = (self._earned(policy, seat) for policy in ("train", player, self.answer))
        return (earned - nothing) / (best - nothing)

    def _earned(self, policy: Player, seat: int) -> float:
        players: list[Player] = [self.opponent] * self.config.agents
        players[seat] = policy
        return float(played(self.config, players, EPISODES)[:, seat].mean())


def priced(name: str, steps: int) -> MarketConfig:
    """The scenario with prices from 0 to 1 in so many steps. Learning takes longer the more prices there are."""
    return scenario(name, ask_levels=tuple(range(steps + 1)), initial_ask=steps + 1, tick=1 / steps, budget=steps)


POSTED = scenario("known-posted-price")
SKIMMING = scenario("known-price-skimming")
IN_TURN = script([[TRAIN, *asks(SKIMMING, 4, 2), HOLD]])
MARKETS = {
    "posted price": Market(POSTED, "train+fixed:3", "paper", (0,), 40_000),
    "price skimming": Market(SKIMMING, IN_TURN, "paper", (0,), 80_000),
    "second price": Market(scenario("known-second-price"), "paper+fixed:0", "paper+fixed:0", (1, 2), 60_000),
    "double auction": Market(
        priced("known-double-auction", 12), "linear-equilibrium", "linear-equilibrium", (0, 1), 120_000
    ),
    "last round": Market(scenario("known-last-round"), "patient:11", "train", (0, 1), 150_000),
}

# --- the algorithms ---------------------------------------------------------------------------------------------------

SELF_PLAY_ROLLOUT = 768
"""The agent-steps of an iteration in self-play."""


def of_sb3(algo: str, market: Market, seed: int, **settings: Any) -> list[float]:
    """The scores of the policy that ``paramarket train --algo ALGO --against OPPONENT`` finds."""
    plan = Plan(market.config, algo, market.timesteps, seed=seed, against=(market.opponent,), **settings)
    with TemporaryDirectory() as folder:
        learn(plan, folder, "cpu")
        return market.scores(f"learned:{folder}")


def self_play(market: Market) -> tuple[int, int]:
    """The number of markets and of iterations of a training in which all agents learn."""
    num_markets = SELF_PLAY_ROLLOUT // (market.config.max_cycles * market.config.agents)
    return num_markets, market.timesteps // SELF_PLAY_ROLLOUT


def of_torchrl(market: Market, seed: int) -> list[float]:
    """The scores of the policy that TorchRL's PPO finds in self-play."""
    from paramarket_baselines.training import torchrl_ppo  # noqa: PLC0415  # optional

    num_markets, iterations = self_play(market)
    scores = torchrl_ppo.learn(market.config, num_markets, iterations, seed, "cpu")
    return market.scores(partial(BestAction, scores))


def of_rllib(market: Market, seed: int) -> list[float]:
    """The scores of the policy that RLlib's PPO finds in self-play."""
    from paramarket_baselines.training import rllib_ppo  # noqa: PLC0415  # optional

    num_markets, iterations = self_play(market)
    options = rllib_ppo.Options(num_markets=num_markets, iterations=iterations, seed=seed)
    with rllib_ppo.connected(options):
        return market.scores(partial(BestAction, rllib_ppo.learn(options, market.config).policy.scores))


TRAININGS: dict[str, Callable[[Market, int], list[float]]] = {
    **{algo: partial(of_sb3, algo) for algo in ALGORITHMS},
    "ppo, league": partial(of_sb3, "ppo", league=True),
    "TorchRL's PPO": of_torchrl,
    "RLlib's PPO": of_rllib,
}
"""Trains an algorithm in a market with a seed, and returns its scores in the market's seats."""

# --- the table --------------------------------------------------------------------------------------------------------

Scores = dict[str, dict[str, list[float]]]
"""The scores of each algorithm in each market."""


def table(scores: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The scores as a Markdown table: a row for each algorithm, and the worst seat where there are two."""
    found = {algo: scores.get(algo, {}) for algo in TRAININGS}
    rows = {algo: [f"{min(of[name]):.2f}" if name in of else "" for name in MARKETS] for algo, of in found.items()}
    return markdown(rows, [*MARKETS], "algorithm")


def kept(file: Path) -> Scores:
    """The scores of a file, and none if there is no file."""
    found: Scores = read_json(file) if file.exists() else {}
    return found


@configuration
class Options:
    """Let learning algorithms look for the known answers. Scores that `out` has already are kept, unless named here."""

    algorithms: tuple[str, ...] = tuple(TRAININGS)
    """The algorithms to train. None: only print the table."""
    markets: tuple[str, ...] = tuple(MARKETS)
    """The markets to train in."""
    seed: int = 0
    """Seed of the trainings."""
    out: Path = Path("benchmarks/results/known-answers.json")
    """The file of the scores."""


def main() -> None:
    """Train, keep the scores, and print the table."""
    options = tyro.cli(Options, description=__doc__)
    console = new_console()
    for algo in options.algorithms:
        for name in options.markets:
            begun = perf_counter()
            found = lookup(TRAININGS, algo, "algorithm")(lookup(MARKETS, name, "market"), options.seed)
            scores = kept(options.out)  # read again, since another process may have added to it
            scores.setdefault(algo, {})[name] = [round(score, 3) for score in found]
            write_json(options.out, scores)
            console.print(f"{algo} in {name}: {scores[algo][name]} after {perf_counter() - begun:.0f} s")
    print(table(kept(options.out)))


if __name__ == "__main__":
    main()
