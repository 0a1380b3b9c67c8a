"""The estimate of memory, compared with that of a process, and the numbers of markets that are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paramarket_env.learning import memory
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.market.capacity import required_bytes, state_bytes
from paramarket_env.market.engine import Engine
from tests.helpers import CROWD, leaves, new_engine, peak_memory, tiny_market

ROOT = Path(__file__).parents[2]
NORMED = f"file:{ROOT / 'tests' / 'market' / 'normed.py'}"
"""A network whose running statistics take most of the memory."""
PEAK = """
import pathlib, sys
from dataclasses import replace
import psutil, torch
torch.set_num_threads(1)
from paramarket_env.market.capacity import required_bytes
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import no_orders
from paramarket_env.scenarios import scenario

def play(engine, steps):
    some = torch.arange(engine.num_markets)
    engine.reset(some)
    everyone = torch.ones(engine.num_markets, 2, dtype=torch.bool)
    for _ in range(steps):
        nothing = no_orders(engine.num_markets, 2, 1, engine.device)
        engine.step(replace(nothing, train=everyone, offer=everyone.long() - 1))
    engine.reset(some[::2], some[::2])

markets = int(sys.argv[1])
play(Engine(scenario("digits"), 2, "cpu"), 1)  # the libraries' own memory is not the markets'
before = psutil.Process().memory_info().rss
engine = Engine(scenario("digits"), markets, "cpu")
play(engine, 2)
# Not ru_maxrss, which a process inherits from the one that started it.
peak = 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) - before
print(peak / required_bytes(markets, engine.config, engine.network, engine.tasks))
"""

PEAK_OF_MODULES = """
import pathlib, sys
from dataclasses import replace
import psutil, torch
torch.set_num_threads(1)
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.merging import Linear
from paramarket_env.market.capacity import required_bytes
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import no_orders
from paramarket_env.validation import configuration

@configuration
class Noise:
    def __call__(self):
        inputs = torch.randn(200 + most, 1, side, side, generator=torch.Generator().manual_seed(0))
        return Dataset(inputs, torch.arange(200 + most) % 10, 10, 0)

def play(validation):
    config = MarketConfig().changed(
        architecture=sys.argv[1], dataset=Noise(), merger=Linear(weights=weights), endowment="iid",
        train_samples=160, validation_samples=validation, test_samples=40, batch_size=80, disclosure=sys.argv[2],
    )
    engine = Engine(config, 1, "cpu")
    engine.reset(torch.tensor([0]))
    engine.step(replace(no_orders(1, 2, 1, engine.device), train=torch.ones(1, 2, dtype=torch.bool)))
    return engine

side, most, merges = map(int, sys.argv[3:])
weights = tuple(torch.linspace(0.05, 1, merges).tolist())
play(20)
before = psutil.Process().memory_info().rss
engine = play(most)
peak = 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) - before
in_one_layer = 4 * merges * most * engine.network.widest
print(peak / required_bytes(1, engine.config, engine.network, engine.tasks), in_one_layer / peak)
"""

PEAK_OF_AUGMENTATION = """
import pathlib, sys
from dataclasses import replace
import psutil, torch
torch.set_num_threads(1)
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.augmentation import CropsAndFlips
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.market.capacity import required_bytes
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import no_orders
from paramarket_env.validation import configuration

BATCH = 8192

@configuration
class Noise:
    number: int

    def __call__(self):
        inputs = torch.randn(BATCH + 40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        return Dataset(inputs, torch.arange(BATCH + 40) % 10, 10, 0, CropsAndFlips((0.0,), padding=4, flips=True))

def play(train):
    config = MarketConfig().changed(
        dataset=(Noise(0), Noise(int(sys.argv[1]))), endowment="complementary:1.0", train_samples=train,
        validation_samples=20, test_samples=20, batch_size=train, parameter_sets="trunk",
    )
    engine = Engine(config, 1, "cpu")
    engine.reset(torch.tensor([0]))
    before = psutil.Process().memory_info().rss
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    engine.step(replace(no_orders(1, 2, 1, engine.device), train=torch.ones(1, 2, dtype=torch.bool)))
    return engine, before

play(10)  # the libraries' own memory
engine, before = play(BATCH)
peak = 1024 * int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) - before
print(peak / required_bytes(1, engine.config, engine.network, engine.tasks), peak / (BATCH * 28 * 28 * 4))
"""

LONG = """
import pathlib
import torch
from paramarket_env.adapters.autoreset import AutoresetBatch
from paramarket_env.scenarios import scenario

def peak():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

autoreset = AutoresetBatch(scenario("digits"), 1024, device="cpu")
autoreset.reset(0)
generator = torch.Generator().manual_seed(0)
for step in range(1200):
    if step == 200:
        before = peak()
    # Any legal action for a tenth of the agents, and to hold for the others: so that it takes a minute.
    scores = torch.rand(autoreset.mask.shape, generator=generator).masked_fill(~autoreset.mask, -1)
    busy = torch.rand(scores.shape[:2], generator=generator) < 0.1
    autoreset.step(torch.where(busy, autoreset.market_batch.actions.best(scores), 0))
print(before, peak())
"""


def ratio(num_markets: int) -> float:
    """Peak memory of so many default markets, over its estimate, in a process of its own."""
    command = [sys.executable, "-c", PEAK, str(num_markets)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_what_the_estimate_says() -> None:
    # What is resident is less by up to a fifth where freed pages happen to be used again: the highest of three counts.
    assert 1 / 1.5 < max(ratio(512) for _ in range(3)) < 1.5


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_of_many_markets_is_what_the_estimate_says() -> None:
    assert 1 / 1.5 < ratio(2048) < 1.5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_further_steps_of_many_markets_take_no_more_memory() -> None:
    printed = subprocess.run([sys.executable, "-c", LONG], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    before, after = map(float, printed.split())
    # The allocator's gaps differ from step to step; what a step left behind would add up to more.
    assert after < 1.1 * before


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"agents": 3, "optimizer": "adam", "parameter_sets": "layers", "mechanism": "personal"},
        {"disclosure": "bounds", "optimizer": "sgd(momentum=0.5)", "protocol": "authors", "aligner": "none"},
        {"train_samples": None, "test_samples": None, "endowment": "iid", "architecture": "mlp(hidden=())"},
        {**CROWD, "disclosure": "bounds", "parameter_sets": "prefixes"},
        {"agents": 3, "dataset": ("digits", "digits-parity", "digits"), "parameter_sets": "layers", "endowment": "iid"},
        {
            "dataset": ("digits-half", "digits"),
            "parameter_sets": "trunk",
            "endowment": "iid",
            "train_samples": (40, 90),
        },
    ],
)
def test_the_size_of_a_state_is_known_before_it_is_made(changes: dict[str, Any]) -> None:
    engine = new_engine(tiny_market(**changes), (0, 1))
    size = sum(tensor.nbytes for _, tensor in leaves(engine.state))
    assert 2 * state_bytes(engine.config, engine.network, engine.tasks) == size


def test_more_markets_than_fit_are_refused_with_the_estimate_and_the_largest_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(tiny_market(), 1, "cpu")
    free = required_bytes(37, engine.config, engine.network, engine.tasks)
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert Engine(tiny_market(), 37, "cpu").num_markets == 37
    with pytest.raises(
        ValueError, match=r"num_markets=38 .* at most 37: .* need about 0\.\d GiB, but 0\.\d GiB are free"
    ):
        Engine(tiny_market(), 38, "cpu")


def test_the_refusal_comes_before_the_memory_is_taken() -> None:
    with pytest.raises(ValueError, match=r"num_markets=10000000000 .*at most \d+: "):
        Engine(tiny_market(), 10**10, "cpu")


def test_where_not_even_one_market_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match=r"num_markets=1 .*at most 0: "):
        Engine(tiny_market(), 1, "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"agents": 10_000, "endowment": "iid", "batch_size": 1},
        {"architecture": MLP(hidden=(20_000, 200_000))},
        {"architecture": MLP(hidden=(2**63 - 1,) * 3), "optimizer": "adam"},
        {"architecture": MLP(hidden=(2**62,) * 100), "parameter_sets": "prefixes"},
        {"agents": 1500, "endowment": "dirichlet", "mechanism": "double-auction", "ask_levels": tuple(range(10_000))},
    ],
    ids=str,
)
def test_a_market_that_does_not_fit_is_refused_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**33)
    before = peak_memory()
    with pytest.raises(ValueError, match=r"num_markets=1 is not allowed: it must be at most 0: agents=\d+ with \d+ "):
        Engine(tiny_market(**changes), 1, "cpu")
    assert peak_memory() - before < 2**26


NARROW = "resnet20(widen=1, depth=10)"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process from /proc")
@pytest.mark.parametrize(
    ("architecture", "side", "validation", "merges"),
    [
        pytest.param("cnn", 28, 3000, 3, marks=pytest.mark.slow),
        pytest.param("vit", 28, 1500, 3, marks=pytest.mark.slow),
        pytest.param(NARROW, 28, 1500, 3, marks=pytest.mark.slow),
        pytest.param(NORMED, 28, 1500, 3, marks=pytest.mark.slow),
        pytest.param(NARROW, 8, 10_000, 20, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_bounds_the_memory_of_networks_made_of_modules(
    architecture: str, side: int, validation: int, merges: int
) -> None:
    sizes = map(str, (side, validation, merges))
    disclosure = "none" if architecture == NORMED else "bounds"
    command = [sys.executable, "-c", PEAK_OF_MODULES, architecture, disclosure, *sizes]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    used, one_layer = (float(part) for part in printed.split())
    assert used <= 1
    assert one_layer > 3  # so the samples of the validation split were never in a layer all at once, in all merges


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of a process from /proc")
@pytest.mark.parametrize("second", [0, 1], ids=["one task", "two tasks"])
def test_the_estimate_bounds_the_memory_of_an_augmentation(second: int) -> None:
    command = [sys.executable, "-c", PEAK_OF_AUGMENTATION, str(second)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    used, minibatches = (float(part) for part in printed.split())
    assert used <= 1
    assert minibatches > 3  # so the augmentation takes most of it
