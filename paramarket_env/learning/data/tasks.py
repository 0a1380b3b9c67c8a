"""Tasks: the datasets that the agents of a market learn. Agents with the same dataset have the same task.

The samples of all tasks form one dataset. Its labels are the tasks' own, so label 0 means something else in each task.
The splits of all tasks follow from the same random numbers. Tasks that label the same images, such as ``digits`` and
``digits-parity``, therefore split them alike: no image is in the training split of one task and the test split of
another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_env.learning.data.augmentation import Joined
from paramarket_env.learning.data.datasets import DATASETS, Dataset, DatasetSource, load_dataset
from paramarket_env.learning.data.endowments import (
    Endowment,
    Partition,
    SplitSizes,
    partition,
    require_minibatches,
    split_counts,
    splits,
)
from paramarket_env.validation import require


@dataclass(frozen=True)
class Tasks:
    """The T tasks of the N agents of a market. A pickled copy reads the datasets again instead of holding them."""

    sources: tuple[DatasetSource, ...]
    """The dataset of each agent."""
    names: tuple[str, ...]
    """The textual forms of the tasks' datasets. They say where the files are only to tell two tasks apart."""
    parts: tuple[Dataset, ...]
    """The dataset of each task."""
    dataset: Dataset
    """The samples of all tasks in their order. It has as many classes as the task with most of them."""
    of_agent: Tensor
    """int64 ``[N]``: the task of each agent."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Pickle the sources and the device."""
        return load_tasks, (self.sources, self.of_agent.device)

    @property
    def number(self) -> int:
        """T, the number of tasks."""
        return len(self.parts)

    @property
    def differ(self) -> bool:
        """Whether there are agents with different tasks."""
        return self.number > 1

    @cached_property
    def classes(self) -> Tensor:
        """The number of classes of each agent's task, int64 ``[N]``."""
        return torch.tensor([part.classes for part in self.parts], device=self.of_agent.device)[self.of_agent]

    @cached_property
    def chance(self) -> Tensor:
        """The loss of a uniform guess among the classes of each agent's task, in nats: float64 ``[N]``."""
        chance = [math.log(part.classes) for part in self.parts]
        return torch.tensor(chance, dtype=torch.float64, device=self.of_agent.device)[self.of_agent]

    # --- splits and endowments -------------------------------------------------------------------------------------

    def split_counts(self, sizes: Sequence[SplitSizes]) -> list[tuple[int, int, int]]:
        """The numbers of training, validation and test samples of each task, for the ``sizes`` of each task.

        Raises ``ValueError`` if tasks have different numbers of validation or test samples.
        """
        counts = [split_counts(part, size) for part, size in zip(self.parts, sizes, strict=True)]
        for split, numbers in zip(("validation", "test"), list(zip(*counts, strict=True))[1:], strict=True):
            allowed = "a number of samples that every task has, since tasks are compared on equally many"
            require(len(set(numbers)) == 1, f"data.{split}_samples", numbers, allowed)
        return counts

    def partition(self, sizes: Sequence[SplitSizes], endowment: Endowment, seeds: Tensor, fewest: int) -> Partition:
        """Split each task's samples, and divide its training split among the agents with that task.

        See :func:`paramarket_env.learning.data.endowments.partition`.
        """
        starts = [0, *accumulate(len(part.labels) for part in self.parts)]
        each = zip(self.parts, sizes, self._members, strict=True)
        parts = [partition(part, size, endowment, members, seeds, fewest) for part, size, members in each]
        return self._combined([_moved(part, start) for part, start in zip(parts, starts, strict=False)])

    def share_of_first(self, sizes: Sequence[SplitSizes], seeds: Tensor, share: float) -> Tensor:
        """Take this share of the first task's training samples, one sample at least: int64 ``[M, n]``."""
        train, _, _ = splits(self.parts[0], sizes[0], seeds)
        return train[:, : max(1, round(share * train.shape[1]))]

    def _combined(self, parts: list[Partition]) -> Partition:
        """The partition of all agents, in their order, from those of the tasks."""
        longest = max(part.endowments.shape[2] for part in parts)
        endowments = [F.pad(part.endowments, (0, longest - part.endowments.shape[2]), value=-1) for part in parts]
        place = self.of_agent.argsort(stable=True).argsort()
        return Partition(
            torch.cat(endowments, dim=1)[:, place],
            torch.cat([part.sizes for part in parts], dim=1)[:, place],
            torch.cat([part.validation for part in parts], dim=1),
            torch.cat([part.test for part in parts], dim=1),
        )

    def require_minibatches(self, sizes: Sequence[SplitSizes], endowment: Endowment, batch_size: int) -> None:
        """Raise ``ValueError`` for a task whose endowments have less than a minibatch on average."""
        for part, size, members in zip(self.parts, sizes, self._members, strict=True):
            require_minibatches(part, size, endowment, members, batch_size)

    @cached_property
    def _members(self) -> list[int]:
        """The number of agents with each task."""
        members: list[int] = self.of_agent.bincount(minlength=self.number).tolist()
        return members

    # --- evaluation, each agent on its own task ---------------------------------------------------------------------

    def on_each(self, parameters: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The networks ``[m, N, P]`` on every task's samples ``[m, T, n]``: ``[m * T, N, P]`` and ``[m * T, n]``."""
        repeated = parameters.unsqueeze(1).expand(-1, self.number, -1, -1)
        return repeated.flatten(0, 1), samples.flatten(0, 1)

    def on_own(self, parameters: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The networks ``[m, N, P]``, each on its own task's samples of ``[m, T, n]``: ``[R, G, P]`` and ``[R, n]``.

        The G networks of a group share their samples. They are those of a market, or, where tasks differ, each alone.
        """
        own = samples[:, self.of_agent] if self.differ else samples
        return parameters.reshape(own.shape[:2].numel(), -1, parameters.shape[2]), own.flatten(0, 1)

    def own_groups(self, num_markets: int) -> tuple[Tensor, Tensor]:
        """Each network's group of :meth:`on_each` with its own task, and its place in it: int64 ``[m * N]`` each."""
        device = self.of_agent.device
        markets = torch.arange(num_markets, device=device).unsqueeze(1)
        groups = markets * self.number + self.of_agent
        return groups.flatten(), torch.arange(len(self.of_agent), device=device).repeat(num_markets)


def _moved(part: Partition, start: int) -> Partition:
    """The partition of a task whose samples begin at index ``start`` of all tasks' samples."""
    endowments = torch.where(part.endowments < 0, -1, part.endowments + start)
    return Partition(endowments, part.sizes, part.validation + start, part.test + start)


def load_tasks(sources: Sequence[DatasetSource], device: torch.device) -> Tasks:
    """The tasks of agents whose datasets have these ``sources``, one for each agent.

    Raises ``ValueError`` if the samples of two tasks have different shapes, and the errors of :func:`load_dataset`.
    """
    distinct = list(dict.fromkeys(sources))
    names = _names(distinct)
    parts = [load_dataset(source) for source in distinct]
    for name, part in zip(names, parts, strict=True):
        first = parts[0].features
        allowed = f"{first}, as that of {names[0]}: the agents' networks have one trunk"
        require(part.features == first, f"shape of a sample of {name}", part.features, allowed)
    on_device, dataset = _on_device(tuple(parts), device)
    of_agent = torch.tensor([distinct.index(source) for source in sources], device=device)
    return Tasks(tuple(sources), names, on_device, dataset, of_agent)


@lru_cache(maxsize=4)
def _on_device(parts: tuple[Dataset, ...], device: torch.device) -> tuple[tuple[Dataset, ...], Dataset]:
    """The datasets, and all their samples in one, on the device. All environments of a process share them."""
    dataset, lengths = _joined(parts).to(device), [len(part.labels) for part in parts]
    cut = zip(parts, dataset.inputs.split(lengths), dataset.labels.split(lengths), strict=True)
    return tuple(replace(part, inputs=inputs, labels=labels) for part, inputs, labels in cut), dataset


def _joined(parts: Sequence[Dataset]) -> Dataset:
    if len(parts) == 1:
        return parts[0]
    inputs, labels = (torch.cat([getattr(part, field) for part in parts]) for field in ("inputs", "labels"))
    rules = tuple(part.augmentation for part in parts)
    changed = any(rule is not None for rule in rules)
    augmentation = Joined(rules, tuple(len(part.labels) for part in parts)) if changed else None
    return Dataset(inputs, labels, max(part.classes for part in parts), official_test=0, augmentation=augmentation)


def _names(sources: Sequence[DatasetSource]) -> tuple[str, ...]:
    """The textual forms of the sources, without the folders of their files if they still differ."""
    names = tuple(_name(source, number) for number, source in enumerate(sources))
    short = tuple(_name(_anywhere(source), number) for number, source in enumerate(sources))
    return short if len(set(short)) == len(names) else names


def _anywhere(source: DatasetSource) -> DatasetSource:
    return replace(source, data_dir=None) if is_dataclass(source) and hasattr(source, "data_dir") else source


def _name(source: DatasetSource, number: int) -> str:
    try:
        return DATASETS.text(source)
    except ValueError:  # a source that is not registered
        return f"task {number}"
