"""Every architecture by name, in small: it trains, aligns, merges and trades as a loop over plain modules would."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.reference import Samples, coming_passes
from benchmarks.reference import train as plain_train
from paramarket_env import paramarket_v0
from paramarket_env.learning import memory
from paramarket_env.learning.alignment.permutations import identity, permute
from paramarket_env.learning.alignment.weight_matching import weight_matching
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks import modules
from paramarket_env.learning.networks.modules import ModuleNetwork
from paramarket_env.learning.networks.network import ARCHITECTURES, Network, initial_parameters, permutation_sizes
from paramarket_env.learning.training import SGD
from paramarket_env.seeding import stream
from tests.helpers import CPU, leaves, logits, new_engine, orders, peak_memory, random_orders, tiny_market

SMALL = {
    "mlp": "mlp(hidden=(8, 8))",
    "cnn": "cnn(channels=(3, 4), hidden=8)",
    "resnet20": "resnet20(widen=1, depth=10)",
    "vgg16": "vgg16(width=0.05)",
    "vit": "vit(patch=4, dim=8, depth=2, heads=2)",
}
LARGE = {"resnet20": "resnet20", "vgg16": "vgg16(width=0.5)", "vit": "vit(dim=64, depth=6, heads=8)"}
MODULES = [text for name, text in SMALL.items() if name != "mlp"]
FEATURES, CLASSES = (1, 8, 8), 10


def small(text: str) -> Network:
    return ARCHITECTURES.parse(text)(FEATURES, CLASSES)


def drawn(network: Network, rows: int) -> Tensor:
    return initial_parameters(network, stream(torch.arange(rows), "network"))


def images(*shape: int, features: tuple[int, ...] = FEATURES) -> Tensor:
    return torch.randn(*shape, *features, generator=torch.Generator().manual_seed(0))


def test_every_architecture_is_tested() -> None:
    assert set(SMALL) == set(ARCHITECTURES) - {"known-loss"}  # a stub, which has tests of its own


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_it_trains_trades_and_is_evaluated_as_plain_modules(text: str) -> None:
    config = tiny_market(architecture=text, endowment="iid", optimizer=SGD(lr=0.05))
    engine = new_engine(config)
    modules = [engine.network.module(vector) for vector in engine.state.parameters[0]]
    samples = Samples(engine.dataset.inputs, engine.dataset.labels)
    for cycle in range(3):
        for module, order in zip(modules, coming_passes(engine, 0, range(2)).values(), strict=True):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
            plain_train(module, optimizer, samples, order, config.training.batch_size)
        engine.step(orders(engine, train=(0, 1)))
        expected = torch.stack([nn.utils.parameters_to_vector(module.parameters()) for module in modules]).detach()
        torch.testing.assert_close(engine.state.parameters[0], expected, rtol=1e-3, atol=1e-4, msg=f"cycle {cycle}")
    quoted = engine.state.quotes.loss[0, 0, 0, 0].item()
    engine.step(orders(engine, buy={0: 0}))
    assert engine.state.sold[0, 1] == 1
    assert engine.state.loss[0, 0].item() == pytest.approx(quoted, abs=1e-5)
    module, validation = engine.network.module(engine.state.parameters[0, 0]), engine.state.partition.validation[0, 0]
    loss = nn.functional.cross_entropy(module(samples.inputs[validation]), samples.labels[validation]).item()
    assert loss == pytest.approx(quoted, abs=1e-5)


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_alignment_leaves_what_a_network_computes_as_it_is(text: str) -> None:
    network = small(text)
    buyers, sellers = drawn(network, 6).split(3)
    order = weight_matching(network, buyers, sellers)
    aligned = permute(network, sellers, order)
    assert (order != identity(network, CPU)).float().mean() > 0.5
    assert not torch.allclose(aligned, sellers)
    before, after = (logits(network, each.unsqueeze(1), images(3, 5)) for each in (sellers, aligned))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", MODULES)
def test_batched_as_in_a_loop(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(text)
    parameters = drawn(network, 4)
    results = []
    for loops in (True, False):
        monkeypatch.setattr(ModuleNetwork, "_loops", lambda *_, loops=loops: loops)
        gradients = network.gradients(parameters, images(4, 5), lambda mine: mine.softmax(1) - 0.5)
        results.append((logits(network, parameters.view(2, 2, -1), images(2, 7)), torch.cat(list(gradients), dim=1)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for place, vector in enumerate(parameters):
        expected = network.module(vector)(images(2, 7)[place // 2])
        torch.testing.assert_close(results[0][0].flatten(0, 1)[place].T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", MODULES)
def test_the_same_episode_batched_and_in_a_loop(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Adam would make whole steps of gradients that are 0 but for rounding, which differs.
    config, played = tiny_market(architecture=text, max_cycles=3, optimizer=SGD(lr=0.05)), []
    for elements, loops in ((0, True), (2**60, False)):
        monkeypatch.setattr(modules, "LOOP_ELEMENTS", elements)
        engine, rng = new_engine(config, (0, 1)), np.random.default_rng(0)
        assert isinstance(engine.network, ModuleNetwork)
        assert engine.network._loops(CPU, 1) == loops
        for _ in range(3):
            engine.step(random_orders(engine, rng))
        played.append(engine.state)
    assert played[0].sold.sum() > 0
    assert played[0].passes.sum() > 0
    for (name, looped), (_, batched) in zip(*map(leaves, played), strict=True):
        torch.testing.assert_close(looped, batched, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_a_market_alone_is_the_market_among_several(text: str) -> None:
    config = tiny_market(architecture=text)
    together, alone = new_engine(config, (0, 1)), new_engine(config, (1,))
    rng = np.random.default_rng(0)
    for _ in range(2):
        chosen = random_orders(together, rng)
        together.step(chosen)
        alone.step(type(chosen)(*(column[1:2] for column in vars(chosen).values())))
    assert together.state.sold[1].sum() > 0
    for (name, one), (_, several) in zip(leaves(alone.state), leaves(together.state), strict=True):
        torch.testing.assert_close(one[0], several[1], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("text", MODULES)
def test_observations_have_the_same_layout_whatever_the_network(text: str) -> None:
    mine, usual = (
        paramarket_v0.parallel_env(tiny_market(**change), device="cpu") for change in ({"architecture": text}, {})
    )
    assert mine.layout.table() == usual.layout.table()
    assert mine.reset(seed=0)[0]["trader_0"].shape == usual.reset(seed=0)[0]["trader_0"].shape


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
@pytest.mark.slow
def test_a_large_one_is_examined_in_seconds(text: str) -> None:
    network = ARCHITECTURES.parse(text)((3, 32, 32), 10)
    assert len(permutation_sizes(network)) > 12


# --- memory -----------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest result of an operation that makes a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("text", ["cnn", "resnet20(widen=1, depth=10)", "vit"])
def test_no_layer_holds_more_than_a_chunk(text: str, loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModuleNetwork, "_loops", lambda *_: loops)
    features = (1, 28, 28)
    network = ARCHITECTURES.parse(text)(features, CLASSES)
    parameters, samples = torch.empty(1, 3, drawn(network, 1).shape[1], device="meta"), 300
    stem = network.stem(parameters, torch.empty(1, samples, *features, device="meta"))
    assert network.widest * samples > 2 * chunk_elements(CPU)
    with Largest() as largest, torch.no_grad():
        assert network.body(parameters, stem).shape == (1, 3, CLASSES, samples)
    assert network.widest <= largest.elements <= chunk_elements(CPU)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "features", "message"),
    [
        ("cnn", (64,), r"samples' shape for cnn=\(64,\) is not allowed: it must be \(channels, height, width\)"),
        ("cnn", (1, 3, 8), r"samples' shape for cnn=\(1, 3, 8\) .* with sides >= 4"),
        ("resnet20", (8, 8), "samples' shape for resnet20"),
        ("vgg16", (64,), "samples' shape for vgg16"),
        ("vit", (64,), "samples' shape for vit"),
        (
            "vit(patch=3)",
            (1, 8, 8),
            "vit.patch=3 is not allowed: it must be a divisor of the sides of the images, 8",
        ),
        ("vit(dim=10)", (1, 8, 8), "vit.dim=10 is not allowed: it must be a multiple of the 4 heads"),
        ("resnet20(depth=20)", (1, 8, 8), "resnet20.depth=20 is not allowed: it must be 10, 16, 22"),
        ("vgg16(width=0)", (1, 8, 8), "vgg16.width=0 is not allowed"),
        ("cnn(channels=(8, 8, 8))", (1, 8, 8), "cnn.channels"),
    ],
)
def test_settings_and_samples_that_do_not_fit_are_refused(text: str, features: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ARCHITECTURES.parse(text)(features, CLASSES)


WIDEST = ["cnn(channels=(65536, 65536))", "cnn(hidden=65536)", "resnet20:100", "vgg16:16", "vit(dim=65536, depth=100)"]
EXAMINED = """
import pathlib, sys
import paramarket_env.config  # registers the architectures
from paramarket_env.learning.networks import modules
from paramarket_env.learning.networks.network import ARCHITECTURES, parameter_count

# Not ru_maxrss, which a process inherits from the one that started it.
peak = lambda: 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
ARCHITECTURES.parse("cnn")((1, 8, 8), 10)  # the libraries' own memory is not the network's
before = peak()
network = ARCHITECTURES.parse(sys.argv[1])((3, 32, 32), 10)
print((peak() - before) / (modules.BYTES_EXAMINED * (parameter_count(network) + network.activations)))
"""


@pytest.mark.parametrize("text", WIDEST)
def test_a_network_that_does_not_fit_is_refused_before_it_is_made(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ARCHITECTURES.parse("cnn")((3, 64, 64), CLASSES)  # the libraries' own memory is not the network's
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**28)
    before = peak_memory()
    with pytest.raises(
        ValueError, match=r"network=\w+\(.* must be smaller: \d+ parameters and \d+ elements .* GiB are"
    ):
        ARCHITECTURES.parse(text)((3, 64, 64), CLASSES)
    assert peak_memory() - before < 2**26


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process from /proc")
@pytest.mark.parametrize(
    "text", ["cnn(channels=(64, 128), hidden=2048)", "resnet20:3", "vgg16:0.5", "vit(dim=512, depth=6)"]
)
@pytest.mark.slow
def test_the_examination_takes_no_more_memory_than_its_estimate(text: str) -> None:
    printed = subprocess.run([sys.executable, "-c", EXAMINED, text], capture_output=True, text=True, check=True).stdout
    assert 0.1 < float(printed) <= 1


@pytest.mark.parametrize("sides", [(1, 1), (5, 9), (28, 28)])
@pytest.mark.parametrize(
    "text", [SMALL["resnet20"], *(f"vgg16(width=0.05, norm='{name}')" for name in ("group", "batch", "none"))]
)
def test_images_of_any_size_are_served(text: str, sides: tuple[int, int]) -> None:
    network = ARCHITECTURES.parse(text)((2, *sides), CLASSES)
    assert logits(network, drawn(network, 1)[None], images(1, 2, features=(2, *sides))).isfinite().all()


def test_the_authors_resnet20_is_theirs() -> None:
    module = ARCHITECTURES["resnet20"]().build((3, 32, 32), 10)
    assert sum(math.prod(parameter.shape) for parameter in module.parameters()) == 9_659_802
    assert len(list(module.parameters())) == 68
