"""The compiled kernels, held against torch and SciPy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import losses
from paramarket_env.learning.kernels import build, compiled
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import initial_parameters, parameter_count, permutation_sizes, split
from paramarket_env.learning.training import SGD, Adam, Optimizer, OptimizerState, Training, shuffled, train
from paramarket_env.learning.trials import Groups, Pairs, group, own_losses, try_merges
from paramarket_env.seeding import permutation, stream
from tests.helpers import CPU

pytestmark = pytest.mark.skipif(build.library() is None, reason="the C++ kernels cannot be built here")

OPTIMIZERS: tuple[Optimizer, ...] = (SGD(lr=0.1), SGD(lr=0.1, momentum=0.9), Adam(lr=0.01))
SHAPES = ((), (1,), (7,), (32, 32), (33, 7, 5), (128,), (20, 40))
FEATURES, CLASSES, SAMPLES = 11, 5, 150
TRAINED = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "momentum", "adam"])
HIDDEN = pytest.mark.parametrize("hidden", SHAPES, ids=str)


def dataset(features: int = FEATURES, classes: int = CLASSES) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, features, generator=generator)
    return Dataset(inputs, torch.randint(classes, (SAMPLES,), generator=generator), classes, official_test=0)


def networks(network: MLPNetwork, *shape: int) -> Tensor:
    keys = stream(torch.tensor(1), "network", torch.arange(max(1, int(torch.tensor(shape).prod()))))
    return 2 * initial_parameters(network, keys).view(*shape, -1)


# --- the order of samples ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), st.integers(0, 2**32))
def test_a_shuffle_equals_torchs(sizes: list[int], seed: int) -> None:
    columns = torch.arange(max(sizes) + 3)
    samples = columns.masked_fill(columns >= torch.tensor(sizes).unsqueeze(1), -1)
    keys = stream(torch.tensor(seed), "shuffle", torch.arange(len(sizes)))
    orders = []
    for name in ("compiled", "torch"):
        with forced(name):
            orders.append(shuffled(samples, torch.tensor(sizes), keys))
    assert torch.equal(*orders)


# --- training ---------------------------------------------------------------------------------------------------------


def trained(
    backend: str,
    network: MLPNetwork,
    training: Training,
    sizes: Tensor,
    rows: slice = slice(None),
    scale: float = 1.0,
) -> tuple[Tensor, OptimizerState]:
    """The networks with ``sizes`` samples after two passes, and what their optimizer keeps."""
    keys = torch.arange(len(sizes))
    samples = (7 * torch.arange(int(sizes.max())) + keys.unsqueeze(1)) % SAMPLES
    samples = samples.masked_fill(torch.arange(samples.shape[1]) >= sizes.unsqueeze(1), -1)
    order = shuffled(samples, sizes, keys)[rows]
    parameters = scale * networks(network, len(sizes))[rows]
    state = training.optimizer.fresh(parameters)
    data = dataset(network.widths[0], network.widths[-1])
    with forced(backend):
        for _ in range(2):
            train(network, training, data, parameters, state, order, sizes[rows], keys[rows])
    return parameters, state


def assert_trained_alike(network: MLPNetwork, training: Training, sizes: Tensor) -> None:
    (ours, kept), (theirs, expected) = (trained(name, network, training, sizes) for name in ("compiled", "torch"))
    moved = (theirs - networks(network, len(sizes))).abs().amax(1)
    assert (moved > 1e-3).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=2e-5)


@TRAINED
@HIDDEN
def test_training_equals_torchs(hidden: tuple[int, ...], optimizer: Optimizer) -> None:
    training = Training(optimizer, batch_size=32, passes=1, local_steps=None)
    assert_trained_alike(MLPNetwork((FEATURES,), CLASSES, hidden), training, torch.tensor([140, 97, 64, 3]))


@TRAINED
@pytest.mark.parametrize("local_steps", [None, 1, 2, 100])
@pytest.mark.parametrize("batch_size", [1, 5, 32, 64, 200])
def test_minibatches_equal_torchs(batch_size: int, local_steps: int | None, optimizer: Optimizer) -> None:
    training = Training(optimizer, batch_size, passes=1, local_steps=local_steps)
    slower = replace(training, optimizer=replace(optimizer, lr=0.01))  # type: ignore[type-var, call-arg]
    assert_trained_alike(MLPNetwork((FEATURES,), CLASSES, (9, 6)), slower, torch.tensor([71, 64, 20, 1]))


@given(
    features=st.integers(1, 40),
    hidden=st.lists(st.integers(1, 40), max_size=3).map(tuple),
    classes=st.integers(2, 20),
    batch_size=st.integers(1, 70),
    sizes=st.lists(st.integers(1, 80), min_size=1, max_size=4),
)
def test_any_shape_trains_as_with_torch(
    features: int, hidden: tuple[int, ...], classes: int, batch_size: int, sizes: list[int]
) -> None:
    network, training = MLPNetwork((features,), classes, hidden), Training(SGD(lr=0.01), batch_size, 1, None)
    given_sizes = torch.tensor(sorted(sizes, reverse=True))
    ours, theirs = (trained(name, network, training, given_sizes)[0] for name in ("compiled", "torch"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@TRAINED
def test_a_network_is_trained_the_same_to_the_bit_alone_and_among_others(optimizer: Optimizer) -> None:
    network, training = MLPNetwork((FEATURES,), CLASSES, (32, 10)), Training(optimizer, 16, 1, None)
    sizes = torch.tensor([90, 50, 50, 7])
    together, state = trained("compiled", network, training, sizes)
    for row in range(4):
        alone, own = trained("compiled", network, training, sizes, rows=slice(row, row + 1))
        assert torch.equal(alone[0], together[row])
        assert all(torch.equal(own[name][0], tensor[row]) for name, tensor in state.items())


@TRAINED
@pytest.mark.parametrize("scale", [1e20, 3e38, float("nan")])
def test_the_same_networks_fail_as_with_torch(optimizer: Optimizer, scale: float) -> None:
    network, training = MLPNetwork((FEATURES,), CLASSES, (12, 9)), Training(optimizer, 32, 1, None)
    sizes = torch.tensor([90, 50])
    ours, theirs = (trained(name, network, training, sizes, scale=scale)[0] for name in ("compiled", "torch"))
    assert ours.isfinite().all(1).tolist() == theirs.isfinite().all(1).tolist()


@TRAINED
def test_networks_that_train_too_fast_fail_as_with_torch(optimizer: Optimizer) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, (12, 9))
    training = Training(replace(optimizer, lr=1e30), 32, 1, None)  # type: ignore[type-var, call-arg]
    ours, theirs = (trained(name, network, training, torch.tensor([90, 50]))[0] for name in ("compiled", "torch"))
    assert not theirs.isfinite().all(1).any()
    assert not ours.isfinite().all(1).any()


# --- evaluation and trials -------------------------------------------------------------------------------------------


def market(network: MLPNetwork, samples: int) -> Groups:
    """Two groups of three networks, each on its own samples, with the stems that torch computes."""
    chosen = (torch.arange(2).unsqueeze(1) + 3 * torch.arange(samples)) % SAMPLES
    with forced("torch"):
        return group(network, dataset(), networks(network, 2, 3), chosen)


def all_pairs(network: MLPNetwork) -> Pairs:
    """Five pairs of the networks of :func:`market`, with permutations that differ."""
    sizes = permutation_sizes(network).values()
    keys = stream(torch.tensor(3), "order", torch.arange(5))
    orders = [permutation(keys, size) for size in sizes]
    which = [torch.tensor(column) for column in ([0, 0, 1, 1, 0], [0, 1, 2, 0, 2], [1, 2, 0, 2, 0])]
    empty = torch.zeros(5, 0, dtype=torch.int64)
    return Pairs(*which, torch.cat(orders, dim=1) if orders else empty, empty)


def layer_masks(network: MLPNetwork) -> dict[str, Tensor]:
    """Parameter sets by name: each layer, the prefixes, two layers apart, and half of the last layer's parameters."""
    layer = torch.tensor(
        [int(spec.layer.removeprefix("layer")) for spec in network.parameters for _ in range(spec.size)]
    )
    last = int(layer.max())
    alone = {f"layer {number}": layer == number for number in range(1, last + 1)}
    prefixes = {f"to {number}": layer <= number for number in range(1, last + 1)}
    half = (layer == last) & (torch.arange(len(layer)) % 2 == 0)
    return {**alone, **prefixes, "ends": (layer == 1) | (layer == last), "nothing": layer == 0} | (
        {"half": half} if last > 1 else {}
    )


@HIDDEN
@pytest.mark.parametrize("samples", [1, 16, 145])
def test_stems_and_losses_equal_torchs(hidden: tuple[int, ...], samples: int) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, hidden)
    expected = market(network, samples)
    chosen = (torch.arange(2).unsqueeze(1) + 3 * torch.arange(samples)) % SAMPLES
    with forced("compiled"):
        ours = group(network, dataset(), expected.parameters, chosen)
        found = losses(network, ours.parameters, ours.stem, ours.labels)
    torch.testing.assert_close(ours.stem, expected.stem, rtol=1e-5, atol=1e-5)
    with forced("torch"):
        torch.testing.assert_close(found, own_losses(network, expected), rtol=1e-5, atol=1e-6)


@HIDDEN
@pytest.mark.parametrize("samples", [1, 145])
def test_tries_equal_torchs(hidden: tuple[int, ...], samples: int) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, hidden)
    groups, pairs = market(network, samples), all_pairs(network)
    for name, mask in layer_masks(network).items():
        weights = torch.tensor([0.05, 0.5, 0.95, 1.0]).unsqueeze(1) * mask
        with forced("torch"):
            expected = try_merges(network, groups, pairs, weights)
        with forced("compiled"):
            found = try_merges(network, groups, pairs, weights)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e38])
@pytest.mark.parametrize("tensor", ["layer1.weight", "layer2.weight", "layer2.bias", "layer3.weight", "layer3.bias"])
def test_losses_of_networks_that_have_failed_equal_torchs(tensor: str, value: float) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, (9, 17))
    groups = market(network, 40)
    split(network, groups.parameters)[tensor][:, 1].flatten(1)[:, 3] = value
    chosen = (torch.arange(2).unsqueeze(1) + 3 * torch.arange(40)) % SAMPLES
    found = []
    for name in ("compiled", "torch"):
        with forced(name):
            own = group(network, dataset(), groups.parameters, chosen)
            found.append((own_losses(network, own), losses(network, own.parameters, own.stem, own.labels)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert found[0][0][:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("hidden", [(), (9,)])
def test_losses_of_large_logits_and_of_one_that_is_nan_equal_torchs(hidden: tuple[int, ...]) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, hidden)
    groups = market(network, 40)
    stem, labels = groups.stem.double().mul(1e3).float(), torch.zeros_like(groups.labels)
    parameters = groups.parameters.clone()
    split(network, parameters)[f"layer{len(hidden) + 1}.bias"][:, 1, 3] = torch.nan
    if not hidden:
        stem[:, 1, 3] = torch.nan
    found = []
    for name in ("compiled", "torch"):
        with forced(name):
            found.append(losses(network, parameters, stem, labels))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert found[0].isnan().tolist() == [[False, True, False]] * 2
    assert (found[0][:, 0] > 100).all()


def test_a_seller_that_has_failed_spoils_only_the_merges_with_it() -> None:
    network = MLPNetwork((FEATURES,), CLASSES, (9, 17))
    groups, pairs = market(network, 40), all_pairs(network)
    with forced("compiled"):
        before = try_merges(network, groups, pairs, torch.full((2, parameter_count(network)), 0.5))
        split(network, groups.parameters)["layer2.weight"][0, 1, 4, 2] = torch.nan
        after = try_merges(network, groups, pairs, torch.full((2, parameter_count(network)), 0.5))
    with_it = torch.tensor([True, True, False, False, False])
    assert after[with_it].isnan().all()
    assert torch.equal(after[~with_it], before[~with_it])


@pytest.mark.usefixtures("_threads")
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    network, results = MLPNetwork((FEATURES,), CLASSES, (128, 64)), []  # enough work for several threads
    groups, pairs = market(network, 145), all_pairs(network)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        with forced("compiled"):
            parameters, _ = trained("compiled", network, Training(SGD(), 16, 1, None), torch.tensor([140, 90, 50, 7]))
            tries = try_merges(network, groups, pairs, torch.full((3, parameter_count(network)), 0.5))
            own = group(network, dataset(), groups.parameters, torch.arange(145).expand(2, -1))
            results.append((parameters, tries, own.stem, own_losses(network, own)))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


# --- assignment -------------------------------------------------------------------------------------------------------


def scipys(products: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(linear_sum_assignment(each, maximize=True)[1]) for each in products.numpy()])


def worth(products: Tensor, permutations: Tensor) -> Tensor:
    return products.gather(2, permutations.unsqueeze(-1)).sum((1, 2))


@pytest.mark.parametrize("size", [1, 2, 3, 16, 32, 65])
def test_permutations_equal_scipys(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    random = torch.randn(40, size, size, dtype=torch.float64, generator=generator)
    for products in (random, random @ random.mT, random.exp() * 1e6):
        assert torch.equal(compiled.assign(products), scipys(products))


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**32))
def test_sums_equal_scipys_if_there_are_ties(size: int, most: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    products = torch.randint(-most, most + 1, (8, size, size), generator=generator).double()
    found = compiled.assign(products)
    assert (found.sort(1).values == torch.arange(size)).all()
    assert torch.equal(worth(products, found), worth(products, scipys(products)))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_products_of_any_size_are_solved(scale: float) -> None:
    products = torch.randn(10, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale
    assert torch.equal(compiled.assign(products), scipys(products))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_products_that_are_not_finite_are_refused(value: float) -> None:
    products = torch.ones(2, 3, 3, dtype=torch.float64, device=CPU)
    products[1, 2, 0] = value
    with pytest.raises(ValueError, match="products of units are not finite"):
        compiled.assign(products)
