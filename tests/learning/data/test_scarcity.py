"""Scarce classes, held against a plain count of each agent's samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paramarket_env.learning.data.endowments import ENDOWMENTS, splits
from paramarket_env.learning.data.scarcity import class_sizes, scarce_classes
from paramarket_env.market.engine import Engine
from tests.helpers import new_engine, tiny_market

SETTINGS = {"few-classes": "few-classes(classes=2, samples=20)"}
"""Textual forms of endowments whose defaults do not fit a task of two classes."""


def found(engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
    """The sizes of the classes and which are scarce, ``[M, N, classes]`` each."""
    held = class_sizes(engine.tasks, engine.state.partition)
    sizes = engine.config.data.split_sizes(engine.tasks.number)
    return held, scarce_classes(engine.tasks, sizes, engine.state.seeds, held)


@pytest.mark.parametrize("changes", [{}, {"dataset": ("digits", "digits-parity", "digits"), "train_samples": 300}])
@pytest.mark.parametrize("name", ENDOWMENTS)
def test_a_class_is_scarce_where_an_agent_has_less_than_its_share(name: str, changes: dict[str, Any]) -> None:
    engine = new_engine(
        tiny_market(endowment=SETTINGS.get(name, name), agents=3, parameter_sets="trunk", **changes), (0, 5)
    )
    held, scarce = found(engine)
    tasks, partition = engine.tasks, engine.state.partition
    for market in range(2):
        for agent in range(3):
            task = int(tasks.of_agent[agent])
            size = engine.config.data.split_sizes(tasks.number)[task]
            pool = tasks.parts[task].labels[splits(tasks.parts[task], size, engine.state.seeds)[0][market]].tolist()
            mine = tasks.dataset.labels[partition.endowments[market, agent, : partition.sizes[market, agent]]].tolist()
            for number in range(tasks.dataset.classes):
                assert held[market, agent, number] == mine.count(number)
                less = number in pool and mine.count(number) / pool.count(number) < len(mine) / len(pool)
                assert bool(scarce[market, agent, number]) == less


@pytest.mark.parametrize("scarcity", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("agents", [2, 3, 5])
def test_the_scarce_classes_of_the_authors_rule_are_the_deducted_block(agents: int, scarcity: float) -> None:
    config = tiny_market(endowment=f"complementary(scarcity={scarcity})", agents=agents, train_samples=600)
    _, scarce = found(new_engine(config, (0, 1, 2)))
    block = torch.arange(10) * agents // 10
    assert torch.equal(scarce, (block == torch.arange(agents).unsqueeze(1)).expand(3, -1, -1))


def test_nothing_is_scarce_where_everybody_has_everything() -> None:
    assert not found(new_engine(tiny_market(endowment="complementary(scarcity=1.0)")))[1].any()
