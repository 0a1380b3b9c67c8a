"""Endowments: the three splits, and the rules that divide the training split among the agents.

An endowment rule chooses the training samples of each agent. Several agents can hold the same sample, as in the paper's
setting, but the training split shares no sample with the other splits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from scipy.special import gammaincinv
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.plugins import Registry
from paramarket_env.seeding import permutation, stream, uniform
from paramarket_env.validation import configuration

SplitProtocol = Literal["clean", "authors"]

DIRICHLET_DRAWS = 100
"""The largest number of draws for a market. The last one is kept even if an agent has too few samples."""


@dataclass(frozen=True)
class Partition:
    """The samples of M markets of N agents, as int64 indices into the dataset."""

    endowments: Tensor
    """``[M, N, T]``: each agent's training samples, then -1."""
    sizes: Tensor
    """``[M, N]``: the number of each agent's training samples."""
    validation: Tensor
    """``[M, V]``: the broker's samples."""
    test: Tensor
    """``[M, E]``: the samples of the reports."""


@dataclass(frozen=True)
class Pool:
    """The training split of each market, which an endowment rule divides."""

    labels: Tensor
    """int64 ``[M, T]``: the classes of the samples, in the random order of the split."""
    classes: int
    agents: int
    seeds: Tensor
    """int64 ``[M]``."""
    fewest: int
    """The number of samples that each agent needs at least: one minibatch."""


@runtime_checkable
class Endowment(Protocol):
    """A plug-in that divides the training samples among the agents."""

    def __call__(self, pool: Pool) -> Tensor:
        """Whether each agent holds each sample of the pool: bool ``[M, N, T]``."""


ENDOWMENTS: Registry[Endowment] = Registry("endowment", Endowment)


def _rank_in_class(labels: Tensor, classes: int) -> Tensor:
    """The rank of each sample within its class, int64 ``[m, T]``. It is random because the order of the pool is."""
    by_class = labels.argsort(dim=-1, stable=True)
    counts = _class_counts(labels, classes)
    starts = (counts.cumsum(-1) - counts).gather(-1, labels)
    return torch.empty_like(by_class).scatter_(-1, by_class, _positions(labels).expand_as(by_class)) - starts


def _positions(labels: Tensor) -> Tensor:
    return torch.arange(labels.shape[-1], device=labels.device)


def _class_counts(labels: Tensor, classes: int) -> Tensor:
    zeros = labels.new_zeros(*labels.shape[:-1], classes)
    return zeros.scatter_add_(-1, labels, torch.ones_like(labels))


@ENDOWMENTS.register
@configuration
class Complementary:
    """The authors' rule: agent i has few samples of its block of classes, and all samples of the other classes."""

    scarcity: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of its block's samples that an agent holds."""

    def __call__(self, pool: Pool) -> Tensor:
        """See :meth:`Endowment.__call__`; raises ``ValueError`` for more agents than classes."""
        if pool.agents > pool.classes:
            allowed = f"at most the {pool.classes} classes that complementary divides"
            raise ValueError(f"agents={pool.agents} is not allowed: it must be {allowed}")
        labels = pool.labels
        kept = (_class_counts(labels, pool.classes) * self.scarcity).round().long().gather(-1, labels)
        spared = _rank_in_class(labels, pool.classes) < kept
        block_of_class = torch.arange(pool.classes, device=labels.device) * pool.agents // pool.classes
        short = block_of_class[labels].unsqueeze(1) == torch.arange(pool.agents, device=labels.device)[:, None]
        return ~short | spared.unsqueeze(1)


@ENDOWMENTS.register
@configuration
class IID:
    """The shuffled samples are divided into equal parts, one per agent."""

    def __call__(self, pool: Pool) -> Tensor:
        """See :meth:`Endowment.__call__`."""
        owner = _positions(pool.labels) % pool.agents
        agents = torch.arange(pool.agents, device=pool.labels.device)
        return (owner == agents[:, None]).expand(len(pool.labels), -1, -1)


@ENDOWMENTS.register
@configuration
class Dirichlet:
    """Each class is divided in proportions drawn from a Dirichlet distribution (Hsu et al. 2019).

    As is usual in federated learning, a market's proportions are drawn again until every agent has enough samples.
    """

    concentration: Annotated[float, Field(ge=0.01, le=1e6)] = 0.5
    """The parameter alpha. The smaller it is, the more uneven are the parts."""

    def __call__(self, pool: Pool) -> Tensor:
        """See :meth:`Endowment.__call__`."""
        owner = torch.full_like(pool.labels, -1)
        waiting = torch.arange(len(pool.labels), device=pool.labels.device)
        for draw in range(DIRICHLET_DRAWS):
            owner[waiting] = self._owners(pool, waiting, draw)
            sizes = _class_counts(owner, pool.agents)
            waiting = (sizes.min(dim=-1).values < pool.fewest).nonzero().squeeze(-1)
            if len(waiting) == 0:
                break
        agents = torch.arange(pool.agents, device=owner.device)
        return owner.unsqueeze(1) == agents[:, None]

    def _owners(self, pool: Pool, markets: Tensor, draw: int) -> Tensor:
        """The owner of each sample of these markets in one draw, int64 ``[m, T]``."""
        labels, seeds = pool.labels[markets], pool.seeds[markets]
        quantiles = uniform(stream(seeds, "dirichlet", draw), pool.classes * pool.agents)
        # A Dirichlet vector is a normalised vector of gamma variates, each drawn by inverting its CDF.
        gammas = torch.from_numpy(np.asarray(gammaincinv(self.concentration, quantiles.cpu().numpy())))
        shares = (gammas.to(labels.device) + 1e-300).view(-1, pool.classes, pool.agents)
        ends = shares.cumsum(-1) / shares.sum(-1, keepdim=True)
        place = (_rank_in_class(labels, pool.classes) + 0.5) / _class_counts(labels, pool.classes).gather(-1, labels)
        ends = ends.gather(1, labels.unsqueeze(-1).expand(-1, -1, pool.agents))
        return (place.unsqueeze(-1) > ends[..., :-1]).sum(-1)


@dataclass(frozen=True)
class SplitSizes:
    """The number of samples of each split; see ``DataConfig``."""

    train: int | None
    validation: int | None
    test: int | None
    protocol: SplitProtocol


def partition(
    dataset: Dataset, sizes: SplitSizes, endowment: Endowment, agents: int, seeds: Tensor, fewest: int
) -> Partition:
    """Split the dataset and divide the training samples, each market by its own seed, int64 ``[M]``.

    Raises ``ValueError`` if a split asks for more samples than there are, or if an agent would have none.
    """
    train, validation, test = _splits(dataset, sizes, seeds)
    held = endowment(Pool(dataset.labels[train], dataset.classes, agents, seeds, fewest))
    counts = held.sum(-1)
    packed = (~held).to(torch.int8).argsort(dim=-1, stable=True)
    endowments = train.unsqueeze(1).expand_as(held).gather(-1, packed)
    endowments[_positions(endowments) >= counts.unsqueeze(-1)] = -1
    result = Partition(endowments, counts, validation, test)
    require_minibatches(result, 1)
    return result


def require_minibatches(split: Partition, batch_size: int) -> None:
    """Raise ``ValueError``, naming the agent, if an agent has fewer samples than a minibatch."""
    short = (split.sizes < batch_size).nonzero()
    if len(short):
        market, agent = short[0].tolist()
        raise ValueError(
            f"training.batch_size={batch_size} is not allowed: it must be at most the number of samples of each "
            f"agent, and trader_{agent} has {int(split.sizes[market, agent])}"
        )


def _splits(dataset: Dataset, sizes: SplitSizes, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the training, validation and test samples, ``[M, ...]`` each."""
    total = len(dataset.labels)
    drawn = permutation(stream(seeds, "split"), total - dataset.official_test)
    if dataset.official_test:
        first = total - dataset.official_test
        tests = first + permutation(stream(seeds, "test split"), dataset.official_test)
        test = _take(tests, "data.test_samples", sizes.test)
    else:
        count = sizes.test if sizes.test is not None else drawn.shape[1] // 5
        test = _take(drawn.flip(-1), "data.test_samples", count)
        drawn = drawn[:, : drawn.shape[1] - count]
    if sizes.protocol == "authors":
        validation = test
    else:
        validation = _take(drawn, "data.validation_samples", sizes.validation)
        drawn = drawn[:, validation.shape[1] :]
    return _take(drawn, "data.train_samples", sizes.train), validation, test


def _take(samples: Tensor, field: str, count: int | None) -> Tensor:
    left = samples.shape[1]
    if count is not None and count > left:
        raise ValueError(f"{field}={count} is not allowed: it must be at most the {left} samples that are left")
    return samples if count is None else samples[:, :count]
