"""Endowments: three disjoint splits, and the rules that divide the training split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from paramarket_env.config import DataConfig, MarketConfig
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.data.endowments import Complementary, Dirichlet, Partition, partition, require_minibatches

ENDOWMENTS = pytest.mark.parametrize("endowment", ["complementary", "dirichlet", "iid"])
CONFIG = DataConfig(train_samples=None, validation_samples=60, test_samples=50, endowment=Complementary(scarcity=0.3))


def make_dataset(samples: int = 400, classes: int = 10, official_test: int = 0) -> Dataset:
    labels = torch.randint(classes, (samples,), generator=torch.Generator().manual_seed(0))
    return Dataset(torch.zeros(samples, 1), labels, classes, official_test)


DATASET, OFFICIAL = make_dataset(), make_dataset(official_test=100)


def split(
    dataset: Dataset = DATASET,
    agents: int = 2,
    seeds: Tensor | None = None,
    batch_size: int = 4,
    config: DataConfig = CONFIG,
    **changes: Any,
) -> Partition:
    """A partition for three markets; ``changes`` of the configuration."""
    markets = torch.arange(3) if seeds is None else seeds
    data = MarketConfig(data=config).changed(**changes).data
    return partition(dataset, data.split_sizes, data.endowment, agents, markets, batch_size)


def held(partition: Partition, market: int, agent: int) -> list[int]:
    """An agent's samples, without the padding."""
    return partition.endowments[market, agent, : partition.sizes[market, agent]].tolist()


def training(partition: Partition, market: int) -> set[int]:
    """The samples that any agent holds."""
    return {sample for agent in range(partition.sizes.shape[1]) for sample in held(partition, market, agent)}


# --- splits -----------------------------------------------------------------------------------------------------------


@ENDOWMENTS
@pytest.mark.parametrize("dataset", [DATASET, OFFICIAL], ids=["drawn test", "official test"])
def test_no_sample_is_in_two_splits(endowment: str, dataset: Dataset) -> None:
    one = split(dataset, endowment=endowment)
    assert one.validation.shape == (3, 60)
    assert one.test.shape == (3, 50)
    for market in range(3):
        splits = [training(one, market), set(one.validation[market].tolist()), set(one.test[market].tolist())]
        assert [len(split) for split in splits[1:]] == [60, 50]
        assert len(set.union(*splits)) == sum(len(split) for split in splits)
        assert set.union(*splits) <= set(range(400))


@ENDOWMENTS
def test_all_samples_that_are_left_are_distributed(endowment: str) -> None:
    assert all(len(training(split(endowment=endowment), market)) == 400 - 60 - 50 for market in range(3))


@ENDOWMENTS
def test_no_more_training_samples_are_distributed_than_requested(endowment: str) -> None:
    assert all(len(training(split(endowment=endowment, train_samples=90), market)) == 90 for market in range(3))


def test_markets_are_split_each_by_its_own_seed() -> None:
    one = split(seeds=torch.tensor([5, 6, 5]))
    assert set(one.validation[0].tolist()) != set(one.validation[1].tolist())
    assert set(one.test[0].tolist()) != set(one.test[1].tolist())
    assert training(one, 0) != training(one, 1)
    assert all(torch.equal(tensor[0], tensor[2]) for tensor in vars(one).values())


@pytest.mark.parametrize("dataset", [DATASET, OFFICIAL], ids=["drawn test", "official test"])
def test_under_the_authors_protocol_the_validation_data_is_the_test_data(dataset: Dataset) -> None:
    one = split(dataset, protocol="authors", validation_samples=None)
    assert torch.equal(one.validation, one.test)
    for market in range(3):
        assert len(one.test[market].unique()) == 50
        assert not training(one, market) & set(one.test[market].tolist())


@pytest.mark.parametrize("protocol", ["clean", "authors"])
def test_an_official_test_set_stays_the_test_set(protocol: str) -> None:
    one = split(OFFICIAL, protocol=protocol, test_samples=None)
    for market in range(3):
        assert set(one.test[market].tolist()) == set(range(300, 400))
        assert max(training(one, market)) < 300
        assert protocol == "authors" or one.validation[market].max() < 300


def test_part_of_an_official_test_set_is_drawn_from_it() -> None:
    one = split(OFFICIAL, test_samples=20)
    assert (one.test >= 300).all()
    assert one.test[0].sort().values.tolist() != one.test[1].sort().values.tolist()


def test_without_an_official_test_set_all_means_a_fifth() -> None:
    assert split(test_samples=None).test.shape == (3, 80)


# --- endowments -------------------------------------------------------------------------------------------------------


@ENDOWMENTS
@pytest.mark.parametrize("agents", [2, 3])
def test_an_endowment_is_distinct_samples_and_then_padding(endowment: str, agents: int) -> None:
    one = split(agents=agents, endowment=endowment)
    for market in range(3):
        for agent in range(agents):
            samples = held(one, market, agent)
            assert min(samples) >= 0
            assert len(set(samples)) == len(samples)
            assert (one.endowments[market, agent, len(samples) :] == -1).all()


@pytest.mark.parametrize("blocks", [[range(5), range(5, 10)], [range(4), range(4, 7), range(7, 10)]])
@pytest.mark.parametrize("scarcity", [0.0, 0.1, 0.3, 1.0])
def test_complementary_agents_are_short_of_their_own_block_only(blocks: list[range], scarcity: float) -> None:
    one = split(agents=len(blocks), endowment=Complementary(scarcity=scarcity))
    for market in range(3):
        rest = set(range(400)) - set(one.validation[market].tolist()) - set(one.test[market].tolist())
        available = DATASET.labels[sorted(rest)].bincount(minlength=10).tolist()
        for agent, block in enumerate(blocks):
            counts = DATASET.labels[held(one, market, agent)].bincount(minlength=10).tolist()
            assert counts == [round(scarcity * n) if c in block else n for c, n in enumerate(available)]


def test_complementary_agents_keep_a_random_part_of_each_scarce_class() -> None:
    one = split(seeds=torch.arange(200), endowment=Complementary(scarcity=0.5), validation_samples=1, test_samples=1)
    times = torch.zeros(400)
    for market in range(200):
        times[held(one, market, 0)] += 1
    scarce = times[DATASET.labels < 5]
    assert 60 < scarce.min() < scarce.max() < 140  # each sample is kept in about half of the markets


@pytest.mark.parametrize("agents", [2, 3, 7])
def test_iid_agents_have_equal_parts_that_do_not_overlap(agents: int) -> None:
    one = split(agents=agents, endowment="iid")
    assert (one.sizes.sum(1) == 290).all()
    assert one.sizes.max() - one.sizes.min() <= 1
    assert all(len(training(one, market)) == 290 for market in range(3))


@pytest.mark.parametrize("concentration", [0.05, 0.5, 100.0])
@pytest.mark.parametrize("agents", [2, 3, 5])
def test_dirichlet_agents_share_the_samples_out_and_have_a_minibatch_each(concentration: float, agents: int) -> None:
    seeds = torch.arange(20)
    one = split(agents=agents, seeds=seeds, endowment=Dirichlet(concentration=concentration), batch_size=25)
    assert (one.sizes.sum(1) == 290).all()
    assert one.sizes.min() >= 25
    assert all(len(training(one, market)) == 290 for market in range(20))


@pytest.mark.parametrize("concentration", [0.2, 1.0, 5.0])
def test_dirichlet_shares_have_the_moments_of_the_distribution(concentration: float) -> None:
    dataset = make_dataset(samples=600, classes=3)
    seeds = torch.arange(500)
    one = split(dataset, seeds=seeds, endowment=Dirichlet(concentration=concentration), batch_size=1)
    labels = torch.where(one.endowments >= 0, dataset.labels[one.endowments.clamp_min(0)], -1)
    counts = torch.stack([(labels == each).sum(2) for each in range(3)])  # [classes, markets, agents]
    shares = (counts / counts.sum(2, keepdim=True))[..., 0]
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.12)
    assert abs(torch.corrcoef(shares)[0, 1].item()) < 0.15  # classes are divided independently


@ENDOWMENTS
def test_a_partition_is_the_same_alone_and_as_one_of_seven(endowment: str) -> None:
    seeds = torch.arange(100, 107)
    together = split(agents=3, seeds=seeds, endowment=endowment, batch_size=30)
    for market in range(7):
        one = slice(market, market + 1)
        alone = split(agents=3, seeds=seeds[one], endowment=endowment, batch_size=30)
        assert all(torch.equal(tensor[0], vars(together)[name][market]) for name, tensor in vars(alone).items())


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        (DATASET, {"test_samples": 401}, r"data.test_samples=401 .* at most the 400 samples"),
        (OFFICIAL, {"test_samples": 101}, r"data.test_samples=101 .* at most the 100 samples"),
        (DATASET, {"validation_samples": 351}, r"data.validation_samples=351 .* at most the 350 samples"),
        (OFFICIAL, {"validation_samples": 301}, r"data.validation_samples=301 .* at most the 300 samples"),
        (DATASET, {"train_samples": 291}, r"data.train_samples=291 .* at most the 290 samples"),
        (OFFICIAL, {"train_samples": 241}, r"data.train_samples=241 .* at most the 240 samples"),
    ],
)
def test_more_samples_than_there_are_are_refused(dataset: Dataset, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(dataset, **changes)


def test_all_samples_can_be_asked_for() -> None:
    assert len(training(split(train_samples=290), 0)) == 290


@ENDOWMENTS
def test_a_minibatch_larger_than_an_endowment_is_refused_by_trader(endowment: str) -> None:
    one = split(endowment=endowment, batch_size=280)
    with pytest.raises(ValueError, match=r"training.batch_size=280 .* trader_[01] has \d+$"):
        require_minibatches(one, 280)


def test_the_trader_that_is_short_of_samples_is_the_one_named() -> None:
    labels = torch.cat([torch.zeros(30), torch.ones(370)]).long()
    dataset = Dataset(torch.zeros(400, 1), labels, 2, 0)
    one = split(dataset, seeds=torch.tensor([7]), endowment=Complementary(scarcity=0.0))
    with pytest.raises(ValueError, match=r"trader_1 has \d{1,2}$"):
        require_minibatches(one, 64)


def test_a_partition_with_an_agent_without_samples_is_refused() -> None:
    dataset = Dataset(torch.zeros(400, 1), torch.ones(400).long(), 2, 0)
    with pytest.raises(ValueError, match="trader_1 has 0"):
        split(dataset, endowment=Complementary(scarcity=0.0))


def test_a_minibatch_as_large_as_the_smallest_endowment_is_enough() -> None:
    one = split(agents=3, endowment="iid")
    require_minibatches(one, 96)
    with pytest.raises(ValueError, match="trader_2 has 96"):
        require_minibatches(one, 97)


def test_more_complementary_agents_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"agents=11 is not allowed: .*10 classes"):
        split(agents=11)


def test_complementary_endowments_allow_as_many_agents_as_classes() -> None:
    one = split(agents=10, endowment=Complementary(scarcity=0.0))
    for agent in range(10):
        assert set(DATASET.labels[held(one, 0, agent)].tolist()) == set(range(10)) - {agent}


def test_an_unknown_endowment_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown endowment 'feudal': choose from complementary, dirichlet, iid"):
        split(endowment="feudal")
