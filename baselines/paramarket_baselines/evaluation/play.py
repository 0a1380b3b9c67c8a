"""Play whole episodes, with all seeds in one batch, and record them as tidy tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramarket_baselines.evaluation.classes import accuracy_on, class_table, classes_of, confusion_table
from paramarket_baselines.evaluation.federated import average
from paramarket_baselines.policies.decisions import RULES
from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import WITHHELD
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.infos import REFUSED, trade_columns
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, seat_of
from paramarket_env.learning.alignment.aligner import NoAlignment
from paramarket_env.learning.evaluation import accuracies
from paramarket_env.market.orders import StepRecord
from paramarket_env.seeding import as_seeds, stream
from paramarket_env.validation import require


def closed(config: MarketConfig) -> MarketConfig:
    """The same market, but it never opens."""
    return config.changed(opens_at=config.max_cycles)


def aligned(config: MarketConfig) -> MarketConfig:
    """The same market, by weight matching if it would not align."""
    return config.changed(aligner="weight-matching") if config.broker.aligner == NoAlignment() else config


def unaligned(config: MarketConfig) -> MarketConfig:
    """The same market, but hidden units keep their order."""
    return config.changed(aligner=NoAlignment())


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison: the policies, and the market in which they play."""

    name: str
    policies: tuple[str | PolicyFactory, ...]
    """One policy for all seats, or one for each: a plug-in or its textual form."""
    market: Callable[[MarketConfig], MarketConfig] | None = None
    """Changes the market's configuration; None: no change."""
    federated: bool = False
    """Whether all agents average their networks before every step after the first."""


PAPER_ARMS = (
    Arm("out of market", ("train",), closed),
    Arm("market unaligned", ("paper",), unaligned),
    Arm("market aligned", ("paper",), aligned),
    Arm("fed. averaging", ("train",), closed, federated=True),
)
"""The paper's comparison."""

RULE_ARMS = tuple(Arm(name, (name,)) for name in ("train", *(rule for rule in RULES if rule != "train")))
"""Each rule in all seats; the first arm is out of the market."""


@dataclass(frozen=True)
class Episode:
    """The record of one arm in four tables."""

    steps: pd.DataFrame
    """A row for each agent and cycle. ``best_value`` is the value of the best offer in the coming step, in units of
    reward, at least 0."""
    trades: pd.DataFrame
    """A row for each trade. ``value`` is that of the purchase to the buyer, in units of reward; ``price`` in ticks."""
    classes: pd.DataFrame
    """A row for each agent and class of its task at the end; see :func:`class_table`."""
    confusions: pd.DataFrame
    """A row for each entry above 0 of each agent's confusion matrix at the end; see :func:`confusion_table`."""


OnStep = Callable[[MarketBatch, StepRecord | None], None]
"""Called at the start (without a record) and after each step."""


def play(
    config: MarketConfig,
    arm: Arm,
    seeds: Sequence[int],
    device: str | torch.device = "auto",
    on_step: OnStep | None = None,
    *,
    closing_trade: bool = True,
) -> Episode:
    """Play one episode of an arm for each seed.

    In the paper, agents train and then trade in a round; in a step of ``round`` mode they trade and then train. So
    ``round`` mode adds a step in which nobody trains, and every arm is measured after the trades of the last round.
    Without ``closing_trade`` the episode is as long as the environment's.
    """
    closes = closing_trade and config.action_mode == "round"
    batch, players = _seat(replace(config, max_cycles=config.max_cycles + closes), arm, seeds, device)
    recorder = _Recorder(arm.name, batch, list(seeds))
    watchers = [recorder.add] if on_step is None else [recorder.add, on_step]
    for watch in watchers:
        watch(batch, None)
    observation, mask = batch.observe_and_mask()
    for cycle in range(batch.config.max_cycles):
        if arm.federated and cycle > 0:
            recorder.gained_outside(average(batch.engine))
            observation, mask = batch.observe_and_mask()
        chosen = [player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players)]
        actions = torch.stack(chosen, dim=1)
        if cycle == config.max_cycles:
            actions[..., 0] = 0
        transition = batch.step(actions)
        observation, mask = transition.observation, transition.mask
        for watch in watchers:
            watch(batch, transition.record)
    return recorder.episode()


def _seat(
    config: MarketConfig, arm: Arm, seeds: Sequence[int], device: str | torch.device
) -> tuple[MarketBatch, list[Policy]]:
    """The markets of an arm after a reset, and its policies in their seats."""
    count = len(arm.policies)
    allowed = f"one policy, or one for each of {config.agents} agents"
    require(count in (1, config.agents), "policies", arm.policies, allowed)
    batch = MarketBatch(arm.market(config) if arm.market else config, len(seeds), device)
    market_seeds = as_seeds(list(seeds), len(seeds), batch.device)
    batch.reset(market_seeds)
    seat, rows = seat_of(batch, len(seeds)), torch.arange(len(seeds), device=batch.device)
    players = [POLICIES.check(policy)(seat) for policy in (arm.policies * config.agents)[: config.agents]]
    for agent, player in enumerate(players):
        player.reset(rows, stream(market_seeds, "policy", agent))
    return batch, players


def _lowest_ask(asks: Tensor) -> Tensor:
    """The lowest of each agent's asks, int64 ``[M, N]``; ``WITHHELD`` if there is none."""
    lowest = asks.masked_fill(asks == WITHHELD, torch.iinfo(asks.dtype).max).amin(2)
    return lowest.where((asks != WITHHELD).any(2), WITHHELD)


def _array(column: Tensor | np.ndarray) -> np.ndarray:
    """A copy of the column."""
    return np.array(column.cpu().numpy() if isinstance(column, Tensor) else column)


class _Recorder:
    """Collects tensors in each step and makes tables of them at the end."""

    def __init__(self, arm: str, batch: MarketBatch, seeds: list[int]) -> None:
        self.arm, self.market_batch, self.seeds = arm, batch, seeds
        self.steps: list[dict[str, np.ndarray]] = []
        self.trades: list[pd.DataFrame] = []
        self.outside = torch.zeros_like(batch.engine.state.loss)
        self.classes = classes_of(batch.engine)

    def gained_outside(self, nats: Tensor) -> None:
        """Add gains from outside of a step, in nats ``[M, N]``, to the next step's reward."""
        self.outside = self.market_batch.engine.state.kappa * nats

    def add(self, batch: MarketBatch, record: StepRecord | None) -> None:
        """Record the state at the start or after a step."""
        state, infos = batch.engine.state, batch.infos(record)
        test_loss, self.confusions = batch.engine.test_confusions()
        scarce = self.classes.scarce
        columns: dict[str, Tensor | np.ndarray] = {
            "validation_loss": infos["loss"],
            "test_loss": test_loss,
            "test_accuracy": accuracies(self.confusions),
            "scarce_accuracy": accuracy_on(self.confusions, scarce),
            "other_accuracy": accuracy_on(self.confusions, ~scarce),
            "balance": infos["balance"],
            "ask": _lowest_ask(batch.engine.asks),
            "sold": state.sold,
            **{name: infos[name] for name in ("refused", *REFUSED)},
            "alive": state.alive,
            "kappa": state.kappa,
            "best_value": batch.engine.values.amax(2).clamp_min(0),
            **{name: infos[name] for name in ("trained", "paid", "received")},
            "reward": torch.zeros_like(state.loss) if record is None else record.reward + self.outside,
        }
        self.steps.append({name: _array(column) for name, column in columns.items()})
        if record is not None:
            self._add_trades(record)

    def _add_trades(self, record: StepRecord) -> None:
        columns = trade_columns(record, self.market_batch.set_names)
        market, buyer = columns.pop("market"), columns["buyer"]
        kappa = self.market_batch.engine.state.kappa.cpu().numpy()[market, buyer]
        index = {"arm": self.arm, "seed": np.asarray(self.seeds)[market], "cycle": len(self.steps) - 1}
        self.trades.append(pd.DataFrame({**index, **columns, "value": columns["quoted_gain"] * kappa}))

    def episode(self) -> Episode:
        agents = self.market_batch.config.agents
        index = pd.MultiIndex.from_product(
            [[self.arm], range(len(self.steps)), self.seeds, range(agents)], names=["arm", "cycle", "seed", "agent"]
        )
        columns = {name: np.stack([step[name] for step in self.steps]).reshape(-1) for name in self.steps[0]}
        steps = pd.DataFrame(columns, index=index).reset_index()
        by_class = class_table(self.classes, self.confusions, self.seeds)
        confusions = confusion_table(self.confusions, self.seeds)
        for table in (by_class, confusions):
            table.insert(0, "arm", self.arm)
        for table in (steps, by_class, confusions):
            table["task"] = self._tasks_of(table.agent)
        return Episode(steps, pd.concat(self.trades, ignore_index=True), by_class, confusions)

    def _tasks_of(self, agents: pd.Series) -> np.ndarray:
        tasks = self.market_batch.engine.tasks
        names: np.ndarray = np.asarray(tasks.names)[tasks.of_agent.cpu().numpy()]
        return names[agents]
