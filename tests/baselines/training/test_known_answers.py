"""Learning algorithms find the known answers: they earn nearly what theory's answer earns."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.known_answers import MARKETS, TRAININGS, Market, Options, kept, of_sb3, priced, table
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn

ROOT = Path(__file__).parents[3]
FOUR_PRICES = Market(priced("known-posted-price", 4), "train+fixed:2", "paper", (0,), 30_000)
TWO_PRICES = MARKETS["posted price"].config.changed(ask_levels=(0, 1, 4), initial_ask=3)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("posted price", "train+fixed:2"),
        ("price skimming", "train+fixed:3"),
        ("last round", "patient:5"),
        ("last round", "greedy"),
    ],
)
def test_the_scale_tells_the_answer_from_other_rules(name: str, wrong: str) -> None:
    market = MARKETS[name]
    assert market.scores(market.answer) == pytest.approx([1.0] * len(market.seats))
    assert max(market.scores(wrong)) < 0.93


def test_the_page_has_the_table_of_the_scores_that_are_kept() -> None:
    assert table(kept(ROOT / Options().out)) in (ROOT / "docs" / "known-answers.md").read_text()


def test_the_best_price_is_learned_in_seconds() -> None:
    assert of_sb3("a2c", FOUR_PRICES, 0) == [pytest.approx(1.0)]


def test_dqn_values_an_action_at_its_mean_return_even_if_it_rarely_pays(tmp_path: Path) -> None:
    # 2/3 sells to a third of the buyers and earns 2/9, 1/6 sells to five sixths and earns 5/36.
    model: Any = learn(Plan(TWO_PRICES, "dqn", 8000, against=("paper",)), tmp_path, "cpu")
    env = model.get_env()
    of_sellers = torch.as_tensor(env.reset()[::2])
    values = model.q_net(of_sellers).max(1).values.detach().numpy()
    unit = 1 / env.normalize_reward(np.ones(1))
    assert values.mean() * unit == pytest.approx(2 / 9, rel=0.2)


NEARLY = 0.8
"""The least score of a policy that has found the answer, but for a level or a step."""

SELF_PLAY = ("TorchRL's PPO", "RLlib's PPO")
OTHER_GAMES = ("price skimming", "double auction")
"""The markets that have another answer, or several, if the opponent learns, too."""

NOT_FOUND = {("RLlib's PPO", "last round"), ("ppo", "double auction")}
"""Answers that an algorithm should find, and does not find yet."""


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "name"), [*product(TRAININGS, MARKETS)])
def test_an_algorithm_finds_the_answer(algo: str, name: str) -> None:
    if algo in SELF_PLAY and name in OTHER_GAMES:
        pytest.skip("in self-play this market has another answer, or several")
    if (algo, name) in NOT_FOUND:
        pytest.xfail("see docs/known-answers.md")
    if algo in SELF_PLAY:
        pytest.importorskip({"TorchRL's PPO": "torchrl", "RLlib's PPO": "ray"}[algo])
    scores = TRAININGS[algo](MARKETS[name], 0)
    assert min(scores) > NEARLY, scores
