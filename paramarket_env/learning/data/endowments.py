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
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.plugins import Registry
from paramarket_env.seeding import permutation, stream, uniform
from paramarket_env.validation import Count, configuration, require, shown

SplitProtocol = Literal["clean", "authors"]

DIRICHLET_DRAWS = 100
"""The largest number of draws for a market. If the last one leaves an agent short, others give samples to it."""


@dataclass(frozen=True)
class Partition:
    """The samples of M markets of N agents with T tasks, as int64 indices into the dataset."""

    endowments: Tensor
    """``[M, N, S]``: each agent's training samples, then -1."""
    sizes: Tensor
    """``[M, N]``: the number of each agent's training samples."""
    validation: Tensor
    """``[M, T, V]``: the broker's samples for each of T tasks."""
    test: Tensor
    """``[M, T, E]``: the samples of the reports for each task."""


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
    """A plug-in that divides the training samples among the agents.

    The draws of some seeds can leave an agent with fewer than ``Pool.fewest`` samples. It then gets more of the pool's
    samples, in their random order. A rule that must not give a sample to two agents has to prevent this itself.
    """

    def __call__(self, pool: Pool) -> Tensor:
        """Whether each agent holds each sample of the pool: bool ``[M, N, T]``.

        Raises ``ValueError`` for a pool that the rule cannot divide, whatever the seeds.
        """


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


def _require_parts(pool: Pool, rule: Endowment) -> None:
    """Raise ``ValueError`` if the pool has too few samples for disjoint parts with a minibatch each."""
    samples = pool.labels.shape[1]
    if samples < pool.agents * pool.fewest:
        allowed = f"a rule that shares samples: {samples} are too few for {pool.fewest} to each of agents={pool.agents}"
        require(False, "data.endowment", rule, allowed)


@ENDOWMENTS.register
@configuration
class Complementary:
    """The authors' rule: agent i has few samples of its block of classes, and all samples of the other classes.

    It has more samples of its block in those draws in which it would otherwise have less than a minibatch.
    """

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
        _require_parts(pool, self)
        owner = _positions(pool.labels) % pool.agents
        agents = torch.arange(pool.agents, device=pool.labels.device)
        return (owner == agents[:, None]).expand(len(pool.labels), -1, -1)


@ENDOWMENTS.register
@configuration
class Dirichlet:
    """Each class is divided in proportions drawn from a Dirichlet distribution (Hsu et al. 2019).

    As is usual in federated learning, a market's proportions are drawn again until every agent has a minibatch. After
    100 draws, the agents with the most samples give some to those that are short.
    """

    concentration: Annotated[float, Field(ge=0.01, le=1e6)] = 0.5
    """The parameter alpha. The smaller it is, the more uneven are the parts."""

    def __call__(self, pool: Pool) -> Tensor:
        """See :meth:`Endowment.__call__`."""
        _require_parts(pool, self)
        owner = torch.full_like(pool.labels, -1)
        waiting = torch.arange(len(pool.labels), device=pool.labels.device)
        for draw in range(DIRICHLET_DRAWS):
            owner[waiting] = self._owners(pool, waiting, draw)
            sizes = _class_counts(owner, pool.agents)
            waiting = (sizes.min(dim=-1).values < pool.fewest).nonzero().squeeze(-1)
            if len(waiting) == 0:
                break
        owner[waiting] = _levelled(owner[waiting], pool.agents, pool.fewest)
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


@ENDOWMENTS.register
@configuration
class FewClasses:
    """Each agent draws a few classes and some of their samples (McMahan et al. 2017), independently of the others.

    Agents can hold the same sample, so any number of agents can hold equally many.
    """

    classes: Count = 3
    """The number of classes of an agent."""
    samples: Count = 40
    """The number of samples of an agent; fewer if its classes have fewer."""

    def __call__(self, pool: Pool) -> Tensor:
        """See :meth:`Endowment.__call__`; raises ``ValueError`` for more classes or samples than there are."""
        samples = pool.labels.shape[1]
        require(self.classes <= pool.classes, "few-classes.classes", self.classes, f"at most {pool.classes}")
        require(self.samples <= samples, "few-classes.samples", self.samples, f"at most {samples}")
        seeds, agents = pool.seeds.unsqueeze(1), torch.arange(pool.agents, device=pool.labels.device)
        own = permutation(stream(seeds, "few classes", agents), pool.classes) < self.classes
        of_class = own.gather(2, pool.labels.unsqueeze(1).expand(-1, pool.agents, -1))
        place = permutation(stream(seeds, "samples", agents), samples).masked_fill(~of_class, samples)
        last = place.kthvalue(self.samples, dim=2, keepdim=True).values
        return of_class & (place <= last)


def _levelled(owner: Tensor, agents: int, fewest: int) -> Tensor:
    """The owners, int64 ``[m, T]``, after the agents with the most samples have given some to those with too few."""
    missing = (fewest - _class_counts(owner, agents)).clamp_min(0).cumsum(-1)
    # The samples in the order in which they are given away: those of the largest endowments first.
    rank = _rank_in_class(owner, agents)
    order = rank.argsort(dim=-1, descending=True, stable=True)
    place = _positions(owner).expand_as(owner)
    receiver = torch.searchsorted(missing, place.contiguous(), right=True)
    given = place < missing[:, -1:]
    return owner.scatter(-1, order, torch.where(given, receiver, owner.gather(-1, order)))


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
    """Split the dataset of one task and divide its training samples, each market by its own seed, int64 ``[M]``.

    Every agent has at least ``fewest`` samples. Raises the errors of :func:`split_counts` and of the endowment.
    """
    train, validation, test = splits(dataset, sizes, seeds)
    held = _completed(_held(dataset, train, endowment, agents, seeds, fewest), fewest)
    counts = held.sum(-1)
    packed = (~held).to(torch.int8).argsort(dim=-1, stable=True)
    endowments = train.unsqueeze(1).expand_as(held).gather(-1, packed)
    endowments[_positions(endowments) >= counts.unsqueeze(-1)] = -1
    return Partition(endowments, counts, validation.unsqueeze(1), test.unsqueeze(1))


def _held(dataset: Dataset, train: Tensor, endowment: Endowment, agents: int, seeds: Tensor, fewest: int) -> Tensor:
    """Whether each agent holds each training sample by the endowment alone, bool ``[M, N, T]``."""
    held = endowment(Pool(dataset.labels[train], dataset.classes, agents, seeds, fewest))
    shape = (len(train), agents, train.shape[1])
    given = f"{held.dtype} {list(held.shape)}" if isinstance(held, Tensor) else type(held).__name__
    fits = isinstance(held, Tensor) and held.dtype == torch.bool and held.shape == shape
    require(fits, "data.endowment's result", given, f"a bool tensor of shape {list(shape)}")
    return held


def _completed(held: Tensor, fewest: int) -> Tensor:
    """``held`` with the first samples of the pool that an agent lacks, if it would have fewer than ``fewest``."""
    missing = (fewest - held.sum(-1, keepdim=True)).clamp_min(0)
    return held | (~held & ((~held).cumsum(-1) <= missing)) if bool(missing.any()) else held


def require_minibatches(
    dataset: Dataset, sizes: SplitSizes, endowment: Endowment, agents: int, batch_size: int
) -> None:
    """Raise ``ValueError``, naming the agent, if the endowment gives an agent less than a minibatch on average.

    The average is over a few seeds. It decides for all seeds, as ``partition`` completes the endowments that are short.
    """
    device, samples = dataset.labels.device, split_counts(dataset, sizes)[0]
    markets = chunk_elements(device) // max(len(dataset.labels), agents * samples)
    seeds = torch.arange(min(max(markets, 1), 4), device=device)
    train, _, _ = splits(dataset, sizes, seeds)
    held = _held(dataset, train, endowment, agents, seeds, batch_size)
    average, agent = held.sum(-1).double().mean(0).min(0)
    allowed = (
        f"at most the number of samples of each agent: data.endowment={shown(endowment)} divides {samples} samples "
        f"among agents={agents}, and trader_{int(agent)} has {float(average):.1f} on average"
    )
    require(float(average) >= batch_size, "training.batch_size", batch_size, allowed)


def split_counts(dataset: Dataset, sizes: SplitSizes) -> tuple[int, int, int]:
    """The numbers of training, validation and test samples.

    Raises ``ValueError`` if a split asks for more samples than there are, or if none are left for it.
    """
    official, drawn = dataset.official_test, len(dataset.labels) - dataset.official_test
    test = _count("data.test_samples", sizes.test, official or drawn, default=official or drawn // 5)
    left = drawn if official else drawn - test
    if sizes.protocol == "authors":
        return _count("data.train_samples", sizes.train, left, default=left), test, test
    validation = _count("data.validation_samples", sizes.validation, left, default=left)
    left -= validation
    return _count("data.train_samples", sizes.train, left, default=left), validation, test


def _count(field: str, count: int | None, left: int, default: int) -> int:
    chosen = default if count is None else count
    require(1 <= chosen <= left, field, count, f"at most the {left} samples that are left")
    return chosen


def splits(dataset: Dataset, sizes: SplitSizes, seeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the training, validation and test samples in random order, int64 ``[M, ...]`` each."""
    train, validation, test = split_counts(dataset, sizes)
    total, official = len(dataset.labels), dataset.official_test
    drawn = permutation(stream(seeds, "split"), total - official)
    if official:
        tests = (total - official + permutation(stream(seeds, "test split"), official))[:, :test]
    else:
        tests, drawn = drawn.flip(-1)[:, :test], drawn[:, : total - test]
    if sizes.protocol == "authors":
        return drawn[:, :train], tests, tests
    return drawn[:, validation : validation + train], drawn[:, :validation], tests
