"""Tasks: the samples of all agents' datasets in one, the splits of each task, and each agent's own task."""

from __future__ import annotations

import math
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paramarket_env.config import DataConfig
from paramarket_env.learning.data.datasets import DATASETS, Dataset, DatasetSource, FashionMNIST, load_dataset
from paramarket_env.learning.data.endowments import IID, Partition, partition
from paramarket_env.learning.data.tasks import Tasks, load_tasks
from tests.datafiles import MNIST_FILES, draw_images, write_family
from tests.helpers import CPU

SEEDS = torch.arange(3)
DATA = DataConfig(train_samples=(60, 90), validation_samples=50, test_samples=40, endowment=IID())


def tasks_of(*names: str | DatasetSource) -> Tasks:
    return load_tasks([DATASETS.check(name) for name in names], CPU)


def split(tasks: Tasks, data: DataConfig = DATA, fewest: int = 4) -> Partition:
    return tasks.partition(data.split_sizes(tasks.number), data.endowment, SEEDS, fewest)


def held(part: Partition, market: int, agent: int) -> set[int]:
    return set(part.endowments[market, agent, : part.sizes[market, agent]].tolist())


def test_agents_with_the_same_dataset_have_the_same_task() -> None:
    tasks = tasks_of("digits", "digits-parity", "digits")
    assert tasks.names == ("digits", "digits-parity")
    assert tasks.of_agent.tolist() == [0, 1, 0]
    assert (tasks.number, tasks.differ) == (2, True)
    assert tasks.classes.tolist() == [10, 2, 10]
    assert tasks.chance.tolist() == [math.log(10), math.log(2), math.log(10)]


def test_a_name_has_the_folder_only_where_tasks_differ_in_nothing_else(tmp_path: Path) -> None:
    one, other = (FashionMNIST(data_dir=str(tmp_path / name)) for name in "ab")
    for name in "ab":
        write_family(tmp_path / name, MNIST_FILES, arrays=draw_images(sides=(28, 28)))
    assert tasks_of(one, DATASETS.check("digits-enlarged")).names[0] == "fashion-mnist"
    assert tasks_of(one, other).names == tuple(DATASETS.text(source) for source in (one, other))


def test_one_task_is_its_dataset() -> None:
    tasks = tasks_of("digits", "digits")
    assert (tasks.number, tasks.differ) == (1, False)
    assert tasks.dataset.inputs.data_ptr() == load_dataset(DATASETS.check("digits")).inputs.data_ptr()


def test_the_samples_of_all_tasks_are_one_dataset_without_copies() -> None:
    tasks = tasks_of("digits-parity", "digits")
    assert tasks.dataset.classes == 10
    assert torch.equal(tasks.dataset.labels, torch.cat([part.labels for part in tasks.parts]))
    start = len(tasks.parts[0].labels)
    assert tasks.parts[1].inputs.data_ptr() == tasks.dataset.inputs[start:].data_ptr()


def test_a_source_without_a_name_is_a_task_with_a_number() -> None:
    def own() -> Dataset:
        return Dataset(torch.zeros(9, 1, 8, 8), torch.arange(9) % 3, 3, 0)

    assert tasks_of("digits", own).names == ("digits", "task 1")


def test_samples_of_two_shapes_have_no_common_trunk() -> None:
    allowed = (
        r"shape of a sample of digits-enlarged=\(1, 28, 28\) is not allowed: it must be \(1, 8, 8\), as that of digits:"
    )
    with pytest.raises(ValueError, match=allowed):
        tasks_of("digits", "digits-enlarged")


# --- splits -----------------------------------------------------------------------------------------------------------


def test_no_sample_is_in_two_splits_or_in_two_tasks() -> None:
    tasks = tasks_of("digits", "digits-parity", "digits")
    part = split(tasks)
    starts = [0, len(tasks.parts[0].labels), len(tasks.dataset.labels)]
    for market in range(3):
        training = [held(part, market, 0) | held(part, market, 2), held(part, market, 1)]
        splits = [*training, *map(set, part.validation[market].tolist()), *map(set, part.test[market].tolist())]
        assert [len(each) for each in splits] == [60, 90, 50, 50, 40, 40]
        assert not any(one & other for one, other in combinations(splits, 2))
        for each, task in zip(splits, [0, 1] * 3, strict=True):
            assert all(starts[task] <= sample < starts[task + 1] for sample in each)


@pytest.mark.parametrize("other", ["digits-parity", "digits-half", "digits-rotated", "digits-inverted"])
def test_no_image_is_in_different_splits_of_two_tasks_that_share_it(other: str) -> None:
    tasks = tasks_of("digits", other)
    images = len(tasks.parts[0].labels)
    part = split(tasks)
    for market in range(3):
        training = held(part, market, 0) | held(part, market, 1)
        splits = (training, part.validation[market].flatten().tolist(), part.test[market].flatten().tolist())
        chosen = [{sample % images for sample in each} for each in splits]
        assert not any(one & another for one, another in combinations(chosen, 2))


def test_a_task_is_divided_among_its_agents_as_if_it_were_the_only_one() -> None:
    tasks = tasks_of("digits-parity", "digits", "digits-parity", "digits")
    part = split(tasks)
    for task, members in enumerate(([0, 2], [1, 3])):
        (size,) = DataConfig(train_samples=(60, 90)[task], validation_samples=50, test_samples=40).split_sizes()
        alone = partition(tasks.parts[task], size, IID(), 2, SEEDS, fewest=4)
        start = task * len(tasks.parts[0].labels)
        for market, (place, agent) in product(range(3), enumerate(members)):
            assert held(part, market, agent) == {start + sample for sample in held(alone, market, place)}
        assert torch.equal(part.validation[:, task], alone.validation[:, 0] + start)
        assert torch.equal(part.test[:, task], alone.test[:, 0] + start)


def test_endowments_are_padded_to_the_largest() -> None:
    part = split(tasks_of("digits", "digits-parity"))
    assert part.endowments.shape == (3, 2, 90)
    assert part.sizes.tolist() == [[60, 90]] * 3
    assert (part.endowments[:, 0, 60:] == -1).all()
    assert (part.endowments[:, 0, :60] >= 0).all()


def test_tasks_are_compared_on_equally_many_samples() -> None:
    small = Dataset(torch.zeros(200, 1, 8, 8), torch.arange(200) % 3, 3, 0)
    tasks = load_tasks([DATASETS.check("digits"), lambda: small], CPU)
    data = DataConfig(train_samples=60, validation_samples=50, test_samples=None)
    with pytest.raises(ValueError, match=r"data.test_samples=\(359, 40\) is not allowed: it must be a number of samp"):
        tasks.split_counts(data.split_sizes(2))


def test_a_task_whose_agent_has_no_minibatch_is_refused() -> None:
    tasks = tasks_of("digits", "digits-parity")
    sizes = DATA.split_sizes(2)
    tasks.require_minibatches(sizes, IID(), 60)
    with pytest.raises(ValueError, match="60 are too few for 61 to each of agents=1"):
        tasks.require_minibatches(sizes, IID(), 61)


# --- each agent on its own task ---------------------------------------------------------------------------------------


def test_each_network_meets_the_samples_of_its_own_task_alone() -> None:
    tasks = tasks_of("digits", "digits-parity", "digits")
    networks, samples = torch.randn(4, 3, 7), torch.arange(4 * 2 * 5).view(4, 2, 5)
    alone, own = tasks.on_own(networks, samples)
    assert torch.equal(alone, networks.view(12, 1, 7))
    assert torch.equal(own.view(4, 3, 5), samples[:, [0, 1, 0]])
    every, each = tasks.on_each(networks, samples)
    group, place = tasks.own_groups(4)
    assert torch.equal(every[group, place], alone[:, 0])
    assert torch.equal(each[group], own)


def test_networks_with_one_task_share_its_samples() -> None:
    tasks, networks, samples = tasks_of("digits", "digits"), torch.randn(4, 2, 7), torch.arange(20).view(4, 1, 5)
    together, own = tasks.on_own(networks, samples)
    assert torch.equal(together, networks)
    assert torch.equal(own, samples[:, 0])
    assert together.data_ptr() == networks.data_ptr()


def test_one_task_takes_no_copy() -> None:
    networks, samples = torch.randn(4, 2, 7), torch.arange(20).view(4, 1, 5)
    repeated, _ = tasks_of("digits", "digits").on_each(networks, samples)
    assert repeated.data_ptr() == networks.data_ptr()


# --- the datasets on hand ---------------------------------------------------------------------------------------------

LABELS: dict[str, Any] = {
    "digits-parity": lambda digit: digit % 2,
    "digits-half": lambda digit: (digit >= 5).long(),
    "digits-rotated": lambda digit: digit,
    "digits-inverted": lambda digit: digit,
    "digits-enlarged": lambda digit: digit,
}


@pytest.mark.parametrize("name", LABELS)
def test_a_variant_labels_the_images_of_digits(name: str) -> None:
    digits, variant = (load_dataset(DATASETS.check(each)) for each in ("digits", name))
    assert torch.equal(variant.labels, LABELS[name](digits.labels))
    assert variant.classes == int(variant.labels.max()) + 1


def images(name: str) -> Tensor:
    return load_dataset(DATASETS.check(name)).inputs.squeeze(1)


def test_the_other_domains() -> None:
    digits = images("digits")
    assert torch.equal(images("digits-inverted"), 1 - digits)
    assert torch.equal(images("digits-rotated")[:, 7 - 2, 1], digits[:, 1, 2])
    enlarged = images("digits-enlarged(size=16)") * 0.3081 + 0.1307
    assert enlarged.shape[1:] == (16, 16)
    torch.testing.assert_close(enlarged.mean((1, 2)), digits.mean((1, 2)), atol=0.02, rtol=0)
