"""The Triton kernels, held against torch and SciPy: on a GPU, or on a CPU in Triton's interpreter.

``test_triton.py`` runs these tests in a process of their own, since Triton must know from the start that it interprets.
On a machine with a GPU, ``pytest -n0 tests/learning/kernels/triton_cases.py`` runs them there.
"""

from __future__ import annotations

import logging
import os

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from paramarket_env.learning.alignment.assignment import assign_units
from paramarket_env.learning.alignment.permutations import identity, permute
from paramarket_env.learning.alignment.weight_matching import weight_matching
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import losses
from paramarket_env.learning.kernels import selection
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.training import SGD, Adam, Optimizer, OptimizerState, Training, shuffled, train
from paramarket_env.learning.trials import Groups, Pairs, try_merges
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import no_orders
from tests.helpers import leaves, tiny_market
from tests.learning.kernels import test_compiled as compiled

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
OPTIMIZERS = pytest.mark.parametrize(
    "optimizer", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.9), Adam(lr=0.01)], ids=["sgd", "momentum", "adam"]
)
FEATURES, CLASSES = compiled.FEATURES, compiled.CLASSES

pytestmark = [
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy, which interprets, warns of an overflow
]


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    assert not torch.backends.cuda.matmul.allow_tf32


def on_device(part: Groups | Pairs) -> list[Tensor]:
    return [value.to(DEVICE) for value in vars(part).values() if isinstance(value, Tensor)]


# --- training ---------------------------------------------------------------------------------------------------------


def trained(backend: str, network: MLPNetwork, training: Training, scale: float = 1.0) -> tuple[Tensor, OptimizerState]:
    """Three networks after two passes, and what their optimizer keeps."""
    sizes, keys = torch.tensor([40, 33, 1], device=DEVICE), torch.arange(3, device=DEVICE)
    place = torch.arange(40, device=DEVICE)
    samples = ((7 * place + keys.unsqueeze(1)) % compiled.SAMPLES).masked_fill(place >= sizes.unsqueeze(1), -1)
    order = shuffled(samples, int(sizes.max()), keys)
    parameters = scale * compiled.networks(network, 3).to(DEVICE)
    state = training.optimizer.fresh(parameters)
    data = compiled.dataset(network.widths[0], network.widths[-1])
    moved = Dataset(data.inputs.to(DEVICE), data.labels.to(DEVICE), data.classes, official_test=0)
    with forced(backend):
        for _ in range(2):
            train(network, training, moved, parameters, state, order, sizes.cpu().numpy(), keys)
    return parameters, state


@OPTIMIZERS
@pytest.mark.parametrize(
    ("hidden", "local_steps"), [((), None), ((7,), 2), ((20, 6), None), ((5, 9, 3), None)], ids=str
)
def test_trained_networks_equal_torchs(hidden: tuple[int, ...], local_steps: int | None, optimizer: Optimizer) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, hidden)
    training = Training(optimizer, batch_size=12, passes=1, local_steps=local_steps)
    (ours, kept), (theirs, expected) = (trained(name, network, training) for name in ("triton", "torch"))
    assert ((theirs.cpu() - compiled.networks(network, 3)).abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)
    assert kept.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-4, atol=2e-6)


@OPTIMIZERS
@pytest.mark.parametrize("scale", [1e20, float("nan")])
def test_trained_networks_fail_as_with_torch(optimizer: Optimizer, scale: float) -> None:
    network, training = MLPNetwork((FEATURES,), CLASSES, (6, 5)), Training(optimizer, 16, 1, None)
    ours, theirs = (trained(name, network, training, scale)[0] for name in ("triton", "torch"))
    assert ours.isfinite().all(1).tolist() == theirs.isfinite().all(1).tolist()


def test_what_is_too_large_for_registers_is_trained_by_torch_which_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    selection._log_torch.cache_clear()
    network, training = MLPNetwork((FEATURES,), CLASSES, (300,)), Training(SGD(lr=0.1), 16, 1, None)
    with caplog.at_level(logging.INFO):
        ours, theirs = (trained(name, network, training)[0] for name in ("triton", "torch"))
    assert torch.equal(ours, theirs)
    assert [record.getMessage() for record in caplog.records] == [
        "torch serves networks or minibatches that are too large for registers, which the back end 'triton' does not"
    ]


# --- trials and evaluation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (7,), (20, 6), (5, 9, 3)], ids=str)
def test_tries_and_losses_equal_torchs(hidden: tuple[int, ...]) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, hidden)
    market = compiled.market(network, 35)
    groups, pairs = Groups(*on_device(market), market.dataset), Pairs(*on_device(compiled.all_pairs(network)))
    shares = torch.tensor([0.05, 0.5], device=DEVICE).unsqueeze(1)
    for name, mask in compiled.layer_masks(network).items():
        found = []
        for backend in ("triton", "torch"):
            with forced(backend):
                found.append(try_merges(network, groups, pairs, shares * mask.to(DEVICE)))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6, msg=name)
    own = []
    for backend in ("triton", "torch"):
        with forced(backend):
            own.append(losses(network, groups.parameters, groups.stem, groups.labels))
    torch.testing.assert_close(*own, rtol=1e-5, atol=1e-6)


# --- assignment -------------------------------------------------------------------------------------------------------


def assigned(products: Tensor, wanted: Tensor | None = None) -> Tensor:
    everyone = torch.ones(len(products), dtype=torch.bool)
    with forced("triton"):
        return assign_units(products.to(DEVICE), (everyone if wanted is None else wanted).to(DEVICE)).cpu()


def scipys(products: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(linear_sum_assignment(each, maximize=True)[1]) for each in products.numpy()])


def is_permutation(found: Tensor) -> bool:
    return torch.equal(found.sort(1).values, torch.arange(found.shape[1]).expand_as(found))


@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (2, 1.0), (5, 1e-300), (5, 1e300), (16, 1.0), (33, 1.0)])
def test_assigned_permutations_equal_scipys(size: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(size)
    products = scale * torch.randn(2, size, size, dtype=torch.float64, generator=generator)
    assert torch.equal(assigned(products), scipys(products))


def test_assigned_sums_equal_scipys_if_there_are_ties() -> None:
    products = torch.randint(-2, 3, (12, 6, 6), generator=torch.Generator().manual_seed(0)).double()
    found = assigned(products)
    assert is_permutation(found)
    sums = [products.gather(2, order.unsqueeze(-1)).sum((1, 2)) for order in (found, scipys(products))]
    assert torch.equal(*sums)


def test_a_matrix_that_is_not_wanted_is_assigned_the_identity() -> None:
    products = torch.randn(4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([True, False, True, False])
    expected = torch.where(wanted.unsqueeze(1), scipys(products), torch.arange(6))
    assert torch.equal(assigned(products, wanted), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1.7e308])
def test_an_assignment_never_hangs(value: float) -> None:
    products = torch.randn(3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    products[1, 2] = value
    products[2] = value
    found = assigned(products)
    assert is_permutation(found)
    assert torch.equal(found[0], scipys(products[:1])[0])


def test_no_matrix_is_assigned_without_a_launch() -> None:
    assert assigned(torch.zeros(0, 4, 4, dtype=torch.float64)).shape == (0, 4)


# --- everything together ----------------------------------------------------------------------------------------------


def shuffled_units(hidden: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.randperm(units, generator=generator) for units in hidden]).to(DEVICE)


@pytest.mark.parametrize("hidden", [(7,), (20, 6), (5, 9, 3), (33, 8)], ids=str)
def test_matches_equal_torchs(hidden: tuple[int, ...]) -> None:
    network = MLPNetwork((FEATURES,), CLASSES, hidden)
    buyers, sellers = compiled.networks(network, 6).to(DEVICE).split(3)
    unchanged = identity(network, DEVICE).repeat(3, 1)
    planted = shuffled_units(hidden).expand_as(unchanged)
    sellers[1] = 0  # so that every permutation is as good as any other
    found: dict[str, list[Tensor]] = {}
    for backend in ("triton", "torch"):
        with forced(backend):
            found[backend] = [weight_matching(network, buyers, sellers, start) for start in (None, planted)]
    for ours, theirs in zip(*found.values(), strict=True):
        assert torch.equal(ours[[0, 2]], theirs[[0, 2]])
    assert torch.equal(found["triton"][0][1], unchanged[1])
    assert not torch.equal(found["triton"][0], unchanged)


def test_a_planted_match_is_found_and_a_network_that_is_not_finite_stays_as_it_is() -> None:
    network = MLPNetwork((FEATURES,), CLASSES, (12, 10))
    buyers = compiled.networks(network, 3).to(DEVICE)
    sellers = permute(network, buyers, shuffled_units((12, 10)).repeat(3, 1))
    sellers[2] = torch.nan
    with forced("triton"):
        found = weight_matching(network, buyers, sellers)
    assert torch.equal(permute(network, sellers[:2], found[:2]), buyers[:2])
    assert torch.equal(found[2], identity(network, DEVICE))


def test_no_pairs_are_matched_without_a_launch() -> None:
    network = MLPNetwork((FEATURES,), CLASSES, (12, 10))
    nobody = compiled.networks(network, 1).to(DEVICE)[:0]
    with forced("triton"):
        assert weight_matching(network, nobody, nobody).shape == (0, 22)


def test_a_market_equals_torchs() -> None:
    states = []
    for backend in ("triton", "torch"):
        with forced(backend):
            engine = Engine(tiny_market(), 2, DEVICE)
            engine.reset(torch.arange(2, device=DEVICE))
            orders = no_orders(2, 2, 1, DEVICE)
            orders.train.fill_(True)
            for _ in range(2):
                engine.step(orders)
        states.append(leaves(engine.state))
    for (name, ours), (_, theirs) in zip(*states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("setting", "expected"), [("highest", "tf32x3"), ("high", "tf32")])
def test_the_precision_in_a_market_follows_torchs(setting: str, expected: str) -> None:
    from paramarket_env.learning.kernels.triton_mlp import precision

    torch.set_float32_matmul_precision(setting)
    try:
        assert precision() == expected
    finally:
        torch.set_float32_matmul_precision("highest")
