"""A cell is one independent run of an experiment: an arm in a market, with all seeds in one batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, nan
from typing import Any

import pandas as pd

from paramarket_baselines.evaluation.play import Arm, Episode, play
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.datasets import DatasetSource
from paramarket_env.market.devices import device_for

Setting = Mapping[str, str | int | float]
"""The values that distinguish the markets of an experiment, by the names of their columns."""

Folders = Mapping[str, str]
"""Folders with the files of datasets, by the name of the dataset's class."""

Result = dict[str, Any]
"""A played cell in JSON's types: ``columns``, ``device`` and ``versions``; or why it cannot be played: ``hole``."""

MEASURES = ("test_accuracy", "test_loss", "validation_loss", "purchases", "paid", "received", "surplus", "return")
"""The measures of each agent: accuracy in percent, losses in nats, payments in ticks, and the rest in units of
reward. ``surplus`` is the value of an agent's purchases less what it paid."""


@dataclass(frozen=True, eq=False)
class Cell:
    """An arm in a market, with the seeds from 0 on."""

    setting: Setting
    config: MarketConfig
    arm: Arm
    seeds: int

    @cached_property
    def market(self) -> MarketConfig:
        """The arm's market; raises ``ValueError`` if it cannot be."""
        return self.arm.market(self.config) if self.arm.market else self.config

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that identify the market, its policies and the seeds."""
        policies = [policy if isinstance(policy, str) else repr(policy) for policy in self.arm.policies]
        content = [self.market.to_dict(), policies, self.arm.federated, self.seeds]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def refusal(self) -> str:
        """Why there cannot be such a market, or an empty text."""
        try:
            self.market.to_dict()
        except ValueError as error:
            return str(error)
        return ""

    @property
    def label(self) -> str:
        """The setting and the arm in words."""
        return ", ".join([*map(str, self.setting.values()), self.arm.name])


def play_cell(cell: Cell, device: str, folders: Folders) -> Result:
    """Play a cell. ``hole`` says why its market cannot be built, such as that there are no data."""
    try:
        config = located(cell.config, folders)
        chosen = device_for(config, cell.seeds, device)
        episode = play(config, cell.arm, range(cell.seeds), chosen)
    except (ValueError, OSError, ImportError) as error:
        return {"hole": str(error)}
    origin = provenance(range(cell.seeds), chosen, dated=False)
    frame = measures(episode, config.economy.tick).astype(object)
    columns = frame.where(frame.notna(), None).to_dict("list")
    return {"columns": columns, "device": machine(origin), "versions": origin["versions"]}


def located(config: MarketConfig, folders: Folders) -> MarketConfig:
    """The market with its datasets read from the ``folders``. Their paths are no part of a cell's hash."""
    source = config.data.dataset
    each = source if isinstance(source, tuple) else (source,)
    found: tuple[DatasetSource, ...] = tuple(_located(one, folders) for one in each)
    return config.changed(dataset=found if isinstance(source, tuple) else found[0])


def _located(source: Any, folders: Folders) -> Any:
    folder = folders.get(type(source).__name__)
    return replace(source, data_dir=folder) if folder else source


def measures(episode: Episode, tick: float) -> pd.DataFrame:
    """``MEASURES`` at the end of an episode, a row for each seed and agent; NaN where one is not finite."""
    steps, keys = episode.steps, ["seed", "agent"]
    last = steps[steps.cycle == steps.cycle.max()].set_index(keys)
    frame = last.assign(test_accuracy=100 * last.test_accuracy)
    bought = episode.trades.rename(columns={"buyer": "agent"}).groupby(keys)
    frame["purchases"] = bought.size().reindex(frame.index, fill_value=0)
    sums = steps.groupby(keys)[["paid", "received", "reward"]].sum()
    frame[["paid", "received", "return"]] = sums
    frame["surplus"] = bought.value.sum().reindex(frame.index, fill_value=0.0) - tick * frame.paid
    finite: pd.DataFrame = frame[["task", *MEASURES]].replace([inf, -inf], nan).reset_index()
    return finite
