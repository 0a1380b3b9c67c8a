"""Networks called in turn against networks batched by ``vmap``: ``python -m benchmarks.batching``.

For each architecture and size of the batch, several networks compute their logits and their gradients, each on its own
samples, in both ways. A module's network chooses between the two by the elements that its widest layer holds of a batch
(``paramarket_env.learning.networks.modules.LOOP_ELEMENTS``). Figures are medians over the repetitions; both ways are
timed in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from unittest.mock import patch

import torch
import tyro
from rich.console import Console
from torch import Tensor

from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.results import machine, provenance
from paramarket_env import config  # noqa: F401  # registers the architectures
from paramarket_env.learning.networks.modules import ModuleNetwork
from paramarket_env.learning.networks.network import ARCHITECTURES, initial_parameters
from paramarket_env.market.devices import resolve_device
from paramarket_env.seeding import stream
from paramarket_env.validation import require

CASES = (
    ("cnn", (1, 8, 8)),
    ("cnn", (1, 28, 28)),
    ("cnn(channels=(32, 128), hidden=128)", (1, 28, 28)),
    ("resnet20(widen=1, depth=10)", (1, 8, 8)),
    ("resnet20(widen=1, depth=10)", (1, 28, 28)),
    ("vgg16(width=0.125)", (1, 8, 8)),
    ("vit", (1, 8, 8)),
    ("vit", (1, 28, 28)),
)
"""Architectures and the shapes of their samples."""


@dataclass(frozen=True)
class Batching:
    """Time networks called in turn and batched by `vmap`."""

    device: str = "auto"
    """`auto` (the GPU if there is one), `cpu` or `cuda`."""
    networks: int = 8
    """Number of networks."""
    batches: tuple[int, ...] = (16, 128)
    """Numbers of samples of each network."""
    repeats: int = 5
    """Number of measurements, after one to warm up."""

    def __post_init__(self) -> None:
        require(min(self.networks, self.repeats, *self.batches) >= 1, "numbers", self, "at least 1")


def seconds(network: ModuleNetwork, parameters: Tensor, inputs: Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each task in each way, such as ``logits loop``."""

    def logits() -> None:
        network.body(parameters.unsqueeze(1)[..., network.stem_size :], network.stem(parameters.unsqueeze(1), inputs))

    def gradients() -> None:
        network.gradients(parameters, inputs, torch.clone)

    jobs: dict[str, Callable[[], None]] = {"logits": logits, "gradients": gradients}
    taken: dict[str, list[float]] = {f"{job} {way}": [] for job in jobs for way in ("loop", "vmap")}
    for _ in range(repeats + 1):
        for name, times in taken.items():
            job, way = name.split()
            with patch.object(ModuleNetwork, "_loops", lambda *_, way=way: way == "loop"):
                times.append(_seconds(jobs[job], parameters.device))
    return {name: median(times[1:]) for name, times in taken.items()}


def _seconds(job: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@torch.no_grad()
def run(options: Batching, console: Console) -> dict[str, dict[str, float]]:
    """Measure and print. Returns the seconds by case."""
    device = resolve_device(options.device)
    console.print(machine(provenance([0], device, dated=False)))
    found, rows = {}, {}
    for text, features in CASES:
        network = ARCHITECTURES.parse(text)(features, 10)
        assert isinstance(network, ModuleNetwork)
        parameters = initial_parameters(network, stream(torch.arange(options.networks, device=device), "network"))
        for samples in options.batches:
            inputs = torch.zeros(options.networks, samples, *features, device=device)
            taken = found[f"{text} {features} {samples}"] = seconds(network, parameters, inputs, options.repeats)
            rows[f"{text}, {features[-1]} px, {samples}"] = _cells(network, samples, taken, device)
    ratios = ["loop ÷ vmap", "chosen ÷ loop"]
    labels = ["elements", "logits ms", *ratios, "gradients ms", *ratios, "chosen"]
    console.print(table(rows, labels, f"{options.networks} networks", "architecture, image, batch"))
    return found


def _cells(network: ModuleNetwork, samples: int, taken: dict[str, float], device: torch.device) -> list[str]:
    """The cells of a row: milliseconds are those of the loop."""
    cells, chosen = [f"{network.widest * samples:,}"], "loop" if network._loops(device, samples) else "vmap"
    for job in ("logits", "gradients"):
        loop, batched = taken[f"{job} loop"], taken[f"{job} vmap"]
        cells += [f"{1000 * loop:.1f}", f"{loop / batched:.2f}", f"{taken[f'{job} {chosen}'] / loop:.2f}"]
    return [*cells, chosen]


def main() -> None:
    """Measure and print."""
    run(tyro.cli(Batching), new_console(120))


if __name__ == "__main__":
    main()
