"""Accuracy by class, the scarce classes apart, and confusion matrices: both on test data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from paramarket_env.learning.data.scarcity import class_sizes, scarce_classes
from paramarket_env.market.engine import Engine


@dataclass(frozen=True)
class Classes:
    """The classes of the agents of M markets, which stay the same during an episode."""

    held: Tensor
    """int64 ``[M, N, classes]``: the number of the agent's training samples."""
    scarce: Tensor
    """bool ``[M, N, classes]``: see :func:`scarce_classes`."""
    exists: Tensor
    """bool ``[N, classes]``: the agent's task has the class."""


def classes_of(engine: Engine) -> Classes:
    """The classes of the agents in the engine's current episodes."""
    tasks, state = engine.tasks, engine.state
    held = class_sizes(tasks, state.partition)
    scarce = scarce_classes(tasks, engine.config.data.split_sizes(tasks.number), state.seeds, held)
    numbers = tasks.classes.new_tensor(range(tasks.dataset.classes))
    return Classes(held, scarce, numbers < tasks.classes.unsqueeze(1))


def accuracy_on(confusions: Tensor, chosen: Tensor) -> Tensor:
    """Each agent's accuracy on the test samples of the chosen classes, float64 ``[M, N]``; NaN if there are none.

    ``confusions`` is int64 ``[M, N, classes, classes]``, and ``chosen`` is bool ``[M, N, classes]``.
    """
    correct, tested = confusions.diagonal(dim1=-2, dim2=-1), confusions.sum(-1)
    return (correct * chosen).sum(-1).double() / (tested * chosen).sum(-1)


def class_table(classes: Classes, confusions: Tensor, seeds: list[int]) -> pd.DataFrame:
    """A row for each class of the task of each agent: its samples, whether it is scarce, and its test accuracy."""
    tested, correct = confusions.sum(-1), confusions.diagonal(dim1=-2, dim2=-1)
    columns = {
        "training_samples": classes.held,
        "scarce": classes.scarce,
        "test_samples": tested,
        "test_accuracy": correct.double() / tested,
    }
    rows = classes.exists.expand_as(classes.scarce)
    return _rows(rows, ["agent", "class"], columns, seeds)


def confusion_table(confusions: Tensor, seeds: list[int]) -> pd.DataFrame:
    """A row for each agent, class and predicted class that occur together, with the number of test samples."""
    return _rows(confusions > 0, ["agent", "class", "predicted"], {"test_samples": confusions}, seeds)


def _rows(chosen: Tensor, names: list[str], columns: dict[str, Tensor], seeds: list[int]) -> pd.DataFrame:
    """The chosen entries of the columns, ``[M, ...]``, with their indices, of which the first becomes the seed."""
    places = chosen.cpu().numpy().nonzero()
    index = {"seed": np.asarray(seeds)[places[0]], **dict(zip(names, places[1:], strict=True))}
    chosen_entries = {name: column.cpu().numpy()[places] for name, column in columns.items()}
    table: pd.DataFrame = pd.DataFrame({**index, **chosen_entries})
    return table
