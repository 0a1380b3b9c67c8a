"""Endowments: three disjoint splits, and the rules that divide the training split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from paramarket_env.config import DataConfig, MarketConfig
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.data.endowments import (
    Complementary,
    Dirichlet,
    FewClasses,
    Partition,
    Pool,
    _levelled,
    partition,
    require_minibatches,
)

DIVIDING = ["complementary", "dirichlet", "iid"]
ENDOWMENTS = pytest.mark.parametrize("endowment", [*DIVIDING, "few-classes"])
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
    return partition(dataset, data.split_sizes()[0], data.endowment, agents, markets, batch_size)


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
    assert one.validation.shape == (3, 1, 60)
    assert one.test.shape == (3, 1, 50)
    for market in range(3):
        splits = [training(one, market), set(one.validation[market, 0].tolist()), set(one.test[market, 0].tolist())]
        assert [len(split) for split in splits[1:]] == [60, 50]
        assert len(set.union(*splits)) == sum(len(split) for split in splits)
        assert set.union(*splits) <= set(range(400))


@pytest.mark.parametrize("endowment", DIVIDING)
def test_all_samples_that_are_left_are_distributed(endowment: str) -> None:
    assert all(len(training(split(endowment=endowment), market)) == 400 - 60 - 50 for market in range(3))


@pytest.mark.parametrize("endowment", DIVIDING)
def test_no_more_training_samples_are_distributed_than_requested(endowment: str) -> None:
    assert all(len(training(split(endowment=endowment, train_samples=90), market)) == 90 for market in range(3))


def test_markets_are_split_each_by_its_own_seed() -> None:
    one = split(seeds=torch.tensor([5, 6, 5]))
    assert set(one.validation[0, 0].tolist()) != set(one.validation[1, 0].tolist())
    assert set(one.test[0, 0].tolist()) != set(one.test[1, 0].tolist())
    assert training(one, 0) != training(one, 1)
    assert all(torch.equal(tensor[0], tensor[2]) for tensor in vars(one).values())


@pytest.mark.parametrize("dataset", [DATASET, OFFICIAL], ids=["drawn test", "official test"])
def test_under_the_authors_protocol_the_validation_data_is_the_test_data(dataset: Dataset) -> None:
    one = split(dataset, protocol="authors", validation_samples=None)
    assert torch.equal(one.validation, one.test)
    for market in range(3):
        assert len(one.test[market].unique()) == 50
        assert not training(one, market) & set(one.test[market, 0].tolist())


@pytest.mark.parametrize("protocol", ["clean", "authors"])
def test_an_official_test_set_stays_the_test_set(protocol: str) -> None:
    one = split(OFFICIAL, protocol=protocol, test_samples=None)
    for market in range(3):
        assert set(one.test[market, 0].tolist()) == set(range(300, 400))
        assert max(training(one, market)) < 300
        assert protocol == "authors" or one.validation[market].max() < 300


def test_part_of_an_official_test_set_is_drawn_from_it() -> None:
    one = split(OFFICIAL, test_samples=20)
    assert (one.test >= 300).all()
    assert one.test[0].sort().values.tolist() != one.test[1].sort().values.tolist()


def test_without_an_official_test_set_all_means_a_fifth() -> None:
    assert split(test_samples=None).test.shape == (3, 1, 80)


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
        rest = set(range(400)) - set(one.validation[market, 0].tolist()) - set(one.test[market, 0].tolist())
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


@pytest.mark.parametrize(("classes", "samples"), [(1, 5), (3, 20), (10, 290)])
@pytest.mark.parametrize("agents", [2, 40])
def test_an_agent_with_few_classes_has_so_many_samples_of_them(classes: int, samples: int, agents: int) -> None:
    one = split(agents=agents, endowment=FewClasses(classes=classes, samples=samples))
    assert bool((one.sizes == samples).all())
    chosen = [set(DATASET.labels[held(one, market, agent)].tolist()) for market in range(3) for agent in range(agents)]
    assert max(map(len, chosen)) == classes
    assert set.union(*chosen) == set(range(10)) or agents == 2
    assert agents == 2 or classes == 10 or len(set(map(frozenset, chosen))) > 9


def test_few_classes_with_fewer_samples_are_held_as_a_whole() -> None:
    one = split(endowment=FewClasses(classes=1, samples=200))
    labels = DATASET.labels[held(one, 0, 0)]
    left = [sample for sample in range(400) if sample not in {*one.validation[0, 0].tolist(), *one.test[0, 0].tolist()}]
    assert len(labels) == int((DATASET.labels[left] == labels[0]).sum()) < 200


@pytest.mark.parametrize(("field", "value"), [("classes", 11), ("samples", 291)])
def test_more_classes_or_samples_than_there_are_are_refused(field: str, value: int) -> None:
    with pytest.raises(
        ValueError, match=rf"few-classes.{field}={value} is not allowed: it must be at most {value - 1}"
    ):
        split(endowment=FewClasses(**{field: value}))


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


def require(endowment: Any, batch_size: int, agents: int = 2, dataset: Dataset = DATASET) -> None:
    data = MarketConfig(data=CONFIG).changed(endowment=endowment).data
    require_minibatches(dataset, data.split_sizes()[0], data.endowment, agents, batch_size)


def test_a_minibatch_larger_than_an_endowment_is_refused_with_all_that_matters() -> None:
    with pytest.raises(
        ValueError, match=r"batch_size=280 .*Complementary\(.*290 samples .*agents=2.* trader_[01] has 1"
    ):
        require("complementary", 280)
    for rule, name in (("dirichlet:0.01", r"Dirichlet\(concentration=0.01\)"), ("iid", r"IID\(\)")):
        with pytest.raises(ValueError, match=rf"data.endowment={name} .* 290 are too few for 146 to each of agents=2"):
            require(rule, 146)


def test_the_trader_that_is_short_of_samples_is_the_one_named() -> None:
    labels = torch.cat([torch.zeros(30), torch.ones(370)]).long()
    with pytest.raises(ValueError, match=r"trader_1 has 2\d\.\d on average$"):
        require(Complementary(scarcity=0.0), 64, dataset=Dataset(torch.zeros(400, 1), labels, 2, 0))


def test_an_agent_without_samples_is_refused() -> None:
    dataset = Dataset(torch.zeros(400, 1), torch.ones(400).long(), 2, 0)
    with pytest.raises(ValueError, match=r"trader_1 has 0\.0 on average"):
        require(Complementary(scarcity=0.0), 1, dataset=dataset)


@pytest.mark.parametrize("unlike", [0, 1, 2, 3])
def test_one_seed_does_not_decide_whether_a_rule_is_refused(unlike: int) -> None:
    def rule(generous: bool) -> Any:
        return lambda pool: (pool.seeds.eq(unlike) != generous)[:, None, None].expand(-1, 2, pool.labels.shape[1])

    require(rule(generous=True), 100)
    with pytest.raises(ValueError, match=r"trader_0 has 72\.5 on average"):
        require(rule(generous=False), 100)


def test_a_minibatch_as_large_as_the_smallest_endowment_is_enough() -> None:
    require("iid", 96, agents=3)
    require("dirichlet", 96, agents=3)
    with pytest.raises(ValueError, match=r"290 are too few for 97 to each of agents=3"):
        require("iid", 97, agents=3)


# --- every seed -------------------------------------------------------------------------------------------------------

SEEDS = torch.arange(2000)


def meagre(pool: Pool) -> Tensor:
    """A rule that gives an agent nothing in some markets, and few samples in most."""
    held = torch.zeros(len(pool.seeds), pool.agents, pool.labels.shape[1], dtype=torch.bool)
    held[pool.seeds % 7 > 0, :, :5] = True
    return held


@pytest.mark.parametrize(
    ("endowment", "agents", "batch_size"),
    [
        ("dirichlet:0.01", 2, 145),
        ("dirichlet:0.01", 8, 30),
        ("dirichlet:0.3", 8, 36),
        ("dirichlet:0.5", 29, 10),
        ("dirichlet:100.0", 10, 29),
        ("iid", 7, 41),
        ("complementary:0.1", 2, 155),
        ("complementary:0.0", 3, 190),
        ("complementary:1.0", 2, 290),
        (meagre, 3, 25),
    ],
)
def test_an_endowment_reaches_a_minibatch_for_every_seed(endowment: Any, agents: int, batch_size: int) -> None:
    one = split(seeds=SEEDS[:60], agents=agents, endowment=endowment, batch_size=batch_size)
    assert one.sizes.min() >= batch_size
    for market in range(0, 60, 6):
        parts = [held(one, market, agent) for agent in range(agents)]
        assert all(len(set(part)) == len(part) for part in parts)
        if str(endowment).startswith(("dirichlet", "iid")):
            assert sorted(sample for part in parts for sample in part) == sorted(training(one, market))
            assert sum(map(len, parts)) == 290


@pytest.mark.parametrize("rarest", [1, 2, 7])
@ENDOWMENTS
def test_rare_classes_leave_no_agent_short_for_any_seed(endowment: str, rarest: int) -> None:
    labels = torch.arange(400).clamp_max(10 * rarest - 1) // rarest
    one = split(Dataset(torch.zeros(400, 1), labels, 10, 0), 3, SEEDS, 40, endowment=endowment)
    assert one.sizes.min() >= 40


def test_only_endowments_that_are_short_are_changed() -> None:
    enough = split(seeds=SEEDS[:50], agents=3, endowment="complementary:0.0", batch_size=1)
    short = split(seeds=SEEDS[:50], agents=3, endowment="complementary:0.0", batch_size=190)
    changed = enough.sizes < 190
    assert changed.any()
    assert not changed.all()
    assert torch.equal(torch.where(changed, 190, enough.sizes), short.sizes)
    for market, agent in changed.nonzero().tolist():
        assert set(held(enough, market, agent)) < set(held(short, market, agent))


def test_the_agents_with_the_most_samples_give_those_that_others_lack() -> None:
    levelled = _levelled(torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1, 2], [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]), 4, 2)
    counts = torch.stack([row.bincount(minlength=4) for row in levelled])
    assert counts.tolist() == [[3, 3, 2, 2], [2, 3, 3, 2]]


@pytest.mark.parametrize(
    "result",
    [None, torch.zeros(3, 2, 290), torch.zeros(3, 2, 289, dtype=torch.bool), torch.zeros(2, 290, dtype=torch.bool)],
)
def test_the_result_of_an_own_rule_is_checked(result: Any) -> None:
    with pytest.raises(ValueError, match=r"data.endowment's result=.* it must be a bool tensor of shape \[3, 2, 290\]"):
        split(endowment=lambda pool: result)


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({"validation_samples": 350, "test_samples": 50}, "train_samples"),
        ({"validation_samples": 1, "test_samples": 400}, "validation_samples"),
    ],
)
def test_a_split_for_which_nothing_is_left_is_refused(sizes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"data.{field}=.* at most the 0 samples that are left"):
        split(**sizes)


def test_more_complementary_agents_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"agents=11 is not allowed: .*10 classes"):
        split(agents=11)


def test_complementary_endowments_allow_as_many_agents_as_classes() -> None:
    one = split(agents=10, endowment=Complementary(scarcity=0.0))
    for agent in range(10):
        assert set(DATASET.labels[held(one, 0, agent)].tolist()) == set(range(10)) - {agent}


def test_an_unknown_endowment_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        ValueError, match=r"unknown endowment 'feudal': choose from complementary, dirichlet, few-classes, iid"
    ):
        split(endowment="feudal")
