"""Play whole episodes, all seeds side by side as one batch, and keep what happened as tidy tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from baselines.federated import average
from baselines.policy import seat_of
from baselines.rules import build_policy
from paramarket_env.config import MarketConfig, require
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.market.engine import StepRecord
from paramarket_env.seeding import as_seeds, stream


@dataclass(frozen=True)
class Arm:
    """One line of a comparison: who plays, and under which broker."""

    name: str
    policies: tuple[str, ...]
    """One policy for all seats, or one for each."""
    align: bool | None = None
    """In place of the configuration's; None: as configured."""
    federated: bool = False
    """All take the mean of their networks before every step after the first."""


PAPER_ARMS = (
    Arm("out of market", ("train",)),
    Arm("market unaligned", ("paper",), align=False),
    Arm("market aligned", ("paper",), align=True),
    Arm("fed. averaging", ("train",), federated=True),
)
"""The paper's comparison."""

RULE_ARMS = tuple(Arm(name, (name,)) for name in ("train", "hold", "random", "greedy", "paper", "patient"))
"""Every rule against its like; the first is out of the market."""


@dataclass(frozen=True)
class Episode:
    """What one arm did, one row an agent and cycle, or a trade."""

    steps: pd.DataFrame
    trades: pd.DataFrame


def play(
    config: MarketConfig,
    arm: Arm,
    seeds: Sequence[int],
    device: str | torch.device = "auto",
    on_step: Callable[[], None] = lambda: None,
) -> Episode:
    """One episode of an arm for every seed. ``on_step`` is called after each of the ``max_cycles`` steps."""
    count = len(arm.policies)
    require(
        count in (1, config.agents), "policies", arm.policies, f"one name, or one for each of {config.agents} agents"
    )
    names = arm.policies if count > 1 else arm.policies * config.agents
    if arm.align is not None:
        config = replace(config, broker=replace(config.broker, align=arm.align))
    batch = MarketBatch(config, len(seeds), device)
    market_seeds = as_seeds(list(seeds), len(seeds), batch.engine.device)
    keys = [stream(market_seeds, "policy", agent) for agent in range(config.agents)]
    players = [build_policy(name, seat_of(batch, key)) for name, key in zip(names, keys, strict=True)]
    batch.reset(market_seeds)
    recorder = _Recorder(arm.name, batch, list(seeds))
    recorder.add(None)
    for cycle in range(config.max_cycles):
        averaged = average(batch.engine) if arm.federated and cycle > 0 else 0.0
        observation, mask = batch.observe(), batch.mask()
        actions = [player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players)]
        transition = batch.step(torch.stack(actions, dim=1))
        recorder.add(transition.record, averaged)
        on_step()
    return recorder.episode()


class _Recorder:
    """Gathers tensors step by step; makes tables of them at the end."""

    def __init__(self, arm: str, batch: MarketBatch, seeds: list[int]) -> None:
        self.arm, self.batch, self.seeds = arm, batch, seeds
        self.steps: list[dict[str, np.ndarray]] = []
        self.trades: list[pd.DataFrame] = []

    def add(self, record: StepRecord | None, averaged: Tensor | float = 0.0) -> None:
        """Take down the state after a step, or at the start; ``averaged``: nats gained outside the market."""
        engine = self.batch.engine
        state = engine.state
        test_loss, test_accuracy = engine.test_metrics()
        columns: dict[str, Tensor] = {
            "validation_loss": state.loss,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "balance": state.balance,
            "ask": engine.asks,
            "sold": state.sold,
            "refused": state.refusals.sum(-1),
            "alive": state.alive,
            "trained": record.trained if record else torch.zeros_like(state.alive),
            "reward": record.reward + engine.values * averaged if record else torch.zeros_like(state.loss),
        }
        self.steps.append({name: column.cpu().numpy().copy() for name, column in columns.items()})
        if record is not None:
            self._add_trades(record)

    def _add_trades(self, record: StepRecord) -> None:
        market, buyer = (record.seller >= 0).nonzero().cpu().unbind(1)
        goods = self.batch.engine.broker.set_names

        def pick(column: Tensor) -> np.ndarray:
            picked: np.ndarray = column.cpu()[market, buyer].numpy()
            return picked

        rows = {
            "arm": self.arm,
            "seed": np.asarray(self.seeds)[market.numpy()],
            "cycle": len(self.steps) - 1,
            "buyer": buyer.numpy(),
            "seller": pick(record.seller),
            "parameter_set": [goods[offer % len(goods)] for offer in pick(record.offer)],
            "merge_weight": pick(record.weight),
            "price": pick(record.paid),
            "gain": pick(record.gain),
        }
        self.trades.append(pd.DataFrame(rows))

    def episode(self) -> Episode:
        agents = self.batch.config.agents
        index = pd.MultiIndex.from_product(
            [[self.arm], range(len(self.steps)), self.seeds, range(agents)], names=["arm", "cycle", "seed", "agent"]
        )
        columns = {name: np.stack([step[name] for step in self.steps]).reshape(-1) for name in self.steps[0]}
        steps = pd.DataFrame(columns, index=index).reset_index()
        return Episode(steps, pd.concat(self.trades, ignore_index=True))
