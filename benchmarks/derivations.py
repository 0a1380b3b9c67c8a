"""The derived permutations of modules that were written for other purposes: ``python -m benchmarks.derivations``.

Most are torchvision's networks for images of 224 x 224, which needs the extra ``vision``. Each derivation is checked: a
random order of all the units that may move must leave the outputs as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from paramarket_env.learning.networks.derive import check, derive
from paramarket_env.learning.networks.network import units_of

IMAGE, SEQUENCE = (3, 224, 224), (16, 8)

TORCHVISION = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vit_b_16",
]

ON_THE_CPU = ("maxvit_t", "regnet_y_400mf", "swin_t", "swin_v2_t")
"""Networks that compute with tensors when they are made, so that they cannot be made on the meta device."""


class Sequence(nn.Module):
    """A classifier of sequences, whose body is another module."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Linear(SEQUENCE[1], width), body, nn.Linear(width, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits ``[n, 10]`` of sequences ``[n, 16, 8]``."""
        out = self.body(self.embed(inputs))
        logits: Tensor = self.head((out[0] if isinstance(out, tuple) else out).mean(1))
        return logits


def image_network(name: str) -> nn.Module:
    """A network of torchvision, on the meta device if possible."""
    settings = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("cpu" if name in ON_THE_CPU else "meta"), torch.random.fork_rng():
        module: nn.Module = getattr(import_module("torchvision.models"), name)(**settings)
    return module


def transformer() -> nn.Module:
    """Torch's transformer encoder of two layers."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return Sequence(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 64)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (partial(image_network, name), IMAGE) for name in TORCHVISION},
    "nn.TransformerEncoder": (transformer, SEQUENCE),
    "nn.LSTM": (lambda: Sequence(nn.LSTM(64, 64, batch_first=True), 64), SEQUENCE),
}
"""The function that makes each network, and the shape of a sample."""


@dataclass(frozen=True)
class Derivations:
    """Derive and check the permutations of each network."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(NETWORKS)
    """Names of networks; all by default."""


def row(name: str) -> list[str]:
    """The network's row of the table: what was derived, or what stops the derivation."""
    make, features = NETWORKS[name]
    module = make()
    size = f"{sum(parameter.numel() for parameter in module.parameters()):,}"
    start = perf_counter()
    try:
        derived = derive(module, features)
        seconds = f"{perf_counter() - start:.1f}"
        check(module, features, derived)
    except ValueError as error:
        return [name, size, "", "", "", "", str(error).partition(";")[0]]
    units = units_of(derived.axes.values())
    return [name, size, str(len(units)), f"{sum(units.values()):,}", str(len(derived.blocks)), seconds, "passes"]


def table(names: tuple[str, ...]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield "| network | parameters | permutations | units | blocks | seconds | check |"
    yield "|---|---|---|---|---|---|---|"
    for name in names:
        yield f"| {' | '.join([f'`{name}`', *row(name)[1:]])} |"


def main() -> None:
    """Print the table."""
    for line in table(tyro.cli(Derivations).networks):
        print(line, flush=True)
    print(f"\ntorch {torch.__version__}, torchvision {import_module('torchvision').__version__}")


if __name__ == "__main__":
    main()
