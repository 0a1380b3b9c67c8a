"""One seed, named independent streams, no global generator."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_env import seeding
from paramarket_env.config import DataConfig
from paramarket_env.learning.data.datasets import Dataset, Digits, load_dataset
from paramarket_env.learning.data.endowments import partition
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import initial_parameters
from paramarket_env.learning.training import SGD, Training, shuffled, train
from paramarket_env.seeding import as_seeds, bits, fresh_seed, next_seeds, permutation, stream, uniform

CPU = torch.device("cpu")


def splitmix64(seed: int, count: int) -> list[int]:
    """The published generator (Steele, Lea and Flood 2014) in Python's integers."""
    word, outputs = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & word
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        outputs.append(z ^ (z >> 31))
    return outputs


@contextmanager
def global_generators_untouched() -> Iterator[None]:
    def read() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = read()
    yield
    assert read() == before


# --- the hash ---------------------------------------------------------------------------------------------------------


def test_the_plain_splitmix64_gives_the_published_values() -> None:
    assert splitmix64(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("key", [0, 1, 1234567, -1, 2**63 - 1, -(2**63)])
def test_bits_are_splitmix64_without_the_lowest_bit(key: int) -> None:
    expected = [output >> 1 for output in splitmix64(key, 50)]
    assert bits(torch.tensor(key), 50).tolist() == expected


def test_golden_values_of_the_streams() -> None:
    seeds = torch.tensor([0, 1, 2**62])
    assert stream(seeds, "network", 3).tolist() == [4369047300552166209, 8430433600484860340, -118936343121094793]
    assert stream(torch.tensor(7), "shuffle", 1, 2).item() == -152422891234831101
    assert stream(torch.tensor(7), "split").item() == -6149058258015357312
    assert next_seeds(torch.tensor([0, 1])).tolist() == [945019022459483882, 51063635801551683]


def test_golden_values_of_the_draws() -> None:
    key = stream(torch.tensor(7), "split")
    assert bits(torch.tensor(7), 2).tolist() == [3595544800446187243, 154844686297477902]
    assert permutation(key, 8).tolist() == [3, 5, 6, 0, 4, 2, 7, 1]
    assert uniform(key, 2).tolist() == [0.6261112523041058, 0.7796803559415119]


# --- streams ----------------------------------------------------------------------------------------------------------


def test_streams_of_other_seeds_names_and_counters_are_other_streams() -> None:
    seeds = torch.cat([torch.arange(200), 2**63 - 1 - torch.arange(200)])
    counters: list[tuple[int, ...]] = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0)]
    names = ["", "split", "test split", "network", "shuffle"]
    keys = [stream(seeds, name, *some) for name in names for some in counters]
    assert torch.stack(keys).unique().numel() == len(seeds) * len(names) * len(counters)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(stream(torch.tensor(6), "a", 0), id="seed"),
        pytest.param(stream(torch.tensor(5), "b", 0), id="name"),
        pytest.param(stream(torch.tensor(5), "a", 1), id="counter"),
        pytest.param(stream(torch.tensor(5), "a"), id="no counter"),
    ],
)
def test_neighbouring_streams_are_uncorrelated(other: torch.Tensor) -> None:
    count = 20_000
    mine, theirs = uniform(stream(torch.tensor(5), "a", 0), count), uniform(other, count)
    for lag in range(4):
        assert abs(np.corrcoef(mine[lag:], theirs[: count - lag])[0, 1]) < 0.03


def test_a_seed_has_the_same_stream_alone_and_as_one_of_many() -> None:
    seeds, agents = torch.arange(11, 18), torch.arange(3)
    together = stream(seeds[:, None], "network", agents, 4)
    assert together.shape == (7, 3)
    for market, seed in enumerate(seeds):
        for agent in range(3):
            alone = stream(seed, "network", agent, 4)
            assert alone == together[market, agent]
            assert torch.equal(uniform(alone, 5), uniform(together, 5)[market, agent])
            assert torch.equal(permutation(alone, 9), permutation(together, 9)[market, agent])


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    key = stream(torch.arange(3), "any")
    assert torch.equal(bits(key, 20)[:, :6], bits(key, 6))


# --- draws ------------------------------------------------------------------------------------------------------------


def test_uniforms_have_the_range_mean_and_variance_of_the_uniform_distribution() -> None:
    draws = uniform(stream(torch.arange(100), "any"), 2000)
    assert draws.dtype == torch.float64
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    assert draws.mean().item() == pytest.approx(1 / 2, abs=0.003)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.001)


def test_the_largest_bits_give_a_uniform_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "bits", lambda key, count: torch.tensor([0, 2**63 - 1]))
    assert uniform(torch.tensor(0), 2).tolist() == [0.0, 1 - 2.0**-53]


def test_permutations_hold_every_number_once() -> None:
    orders = permutation(stream(torch.arange(20)[:, None], "any", torch.arange(3)), 57)
    assert orders.shape == (20, 3, 57)
    assert torch.equal(orders.sort(-1).values, torch.arange(57).expand(20, 3, 57))


def test_all_permutations_are_equally_likely() -> None:
    orders = permutation(stream(torch.arange(24_000), "any"), 4)
    seen, counts = orders.unique(dim=0, return_counts=True)
    assert len(seen) == 24
    assert ((counts - 1000).abs() < 5 * 31).all()  # 31: the standard deviation of such a count


def test_next_seeds_are_seeds_of_new_episodes() -> None:
    seeds, seen = torch.arange(1000), set(range(1000))
    for _ in range(5):
        seeds = next_seeds(seeds)
        assert ((seeds >= 0) & (seeds < 2**62)).all()
        seen |= set(seeds.tolist())
    assert len(seen) == 6000


def test_fresh_seeds_differ_and_are_allowed() -> None:
    seeds = [fresh_seed() for _ in range(20)]
    assert len(set(seeds)) == 20
    assert as_seeds(seeds, 20, CPU).tolist() == seeds


# --- seeds of markets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [5, np.int64(5), np.uint8(5), np.array(5), torch.tensor(5)])
def test_one_seed_is_hashed_for_every_market(seed: int) -> None:
    seeds = as_seeds(seed, 3, CPU)
    assert seeds.dtype == torch.int64
    assert seeds.tolist() == [3130268508261131482, 4331986505374860337, 4351438178658998131]
    assert as_seeds(seed, 7, CPU)[:3].tolist() == seeds.tolist()


def test_two_seeds_have_no_market_in_common() -> None:
    seeds = torch.cat([as_seeds(seed, 100, CPU) for seed in (*range(100), 2**62, 2**63 - 1)])
    assert ((seeds >= 0) & (seeds < 2**62)).all()
    assert len(seeds.unique()) == len(seeds)


NO_SEEDS = [
    1.7,
    3.0,
    True,
    np.bool_(True),
    "3",
    b"3",
    float("nan"),
    np.float64(3),
    None,
    3j,
    2**70,
    [3, True],
    [1.5],
]


@pytest.mark.parametrize("given", NO_SEEDS, ids=repr)
def test_what_is_no_seed_is_refused_by_name(given: Any) -> None:
    with pytest.raises(ValueError, match=r"seeds?=.* is not allowed: it must be"):
        as_seeds(given, 2, CPU)


@pytest.mark.parametrize("given", [[9, 2, 9], (9, 2, 9), torch.tensor([9, 2, 9]), np.array([9, 2, 9])])
def test_seeds_of_every_market_are_taken_as_given(given: Any) -> None:
    assert as_seeds(given, 3, CPU).tolist() == [9, 2, 9]


@pytest.mark.parametrize("given", [[1, 2], [1, 2, 3, 4], []])
def test_another_number_of_seeds_than_markets_is_refused(given: list[int]) -> None:
    with pytest.raises(ValueError, match=r"seeds=.*each of the 3 markets"):
        as_seeds(given, 3, CPU)


@pytest.mark.parametrize(("given", "named"), [(-1, -1), ([0, 2**63, 1], 2**63), ([0, 1, -7], -7), (2**63, 2**63)])
def test_seeds_that_int64_cannot_hold_are_refused_by_name(given: Any, named: int) -> None:
    with pytest.raises(ValueError, match=rf"seed={named} is not allowed"):
        as_seeds(given, 3, CPU)


# --- no global generator ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endowment", ["complementary", "dirichlet", "iid"])
def test_a_partition_touches_no_global_generator(endowment: str) -> None:
    dataset = load_dataset(Digits())
    with global_generators_untouched():
        data = DataConfig(endowment=endowment)
        partition(dataset, data.split_sizes()[0], data.endowment, 2, torch.arange(3), fewest=8)


def test_networks_touch_no_global_generator() -> None:
    network = MLPNetwork((6,), 3, (5,))
    with global_generators_untouched():
        network.module(initial_parameters(network, torch.tensor(3)))


def test_training_touches_no_global_generator() -> None:
    network = MLPNetwork((6,), 3, (5,))
    dataset = Dataset(torch.rand(20, 6), torch.arange(20) % 3, 3, 0)
    endowments, sizes = torch.arange(20).view(2, 10), torch.tensor([10, 10])
    parameters, optimizer = initial_parameters(network, torch.arange(2)), SGD()
    with global_generators_untouched():
        keys = torch.arange(2)
        order = shuffled(endowments, 10, keys)
        state = optimizer.fresh(parameters)
        train(network, Training(optimizer, 4, 1, None), dataset, parameters, state, order, sizes.numpy(), keys)
