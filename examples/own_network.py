"""A network of your own: a module with a block that you wrote, as the network that every agent trains and sells.

Run it with ``python examples/own_network.py``. The module is an ``nn.Sequential`` that begins with an ``nn.Linear``;
what follows is yours, as long as it is made of torch's linear, convolutional and normalising layers. A
market's configuration takes it as it is. On the command line it is ``file:examples/own_network.py``.
"""

from rich.console import Console
from torch import Tensor, nn

from baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.learning.networks.modules import from_module
from paramarket_env.scenarios import scenario


class Residual(nn.Module):
    """Adds a small network's output to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden units ``[..., width]`` to hidden units."""
        change: Tensor = self.down(self.up(hidden).relu())
        return hidden + change


def residual(features: tuple[int, ...], classes: int, width: int = 16) -> nn.Sequential:
    """The network for samples of shape ``features``."""
    (inputs,) = features
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), Residual(width), nn.Linear(width, classes))


PERMUTATIONS = {  # which units can change places, so that the broker can align two networks; without it none do
    "0.weight": ("units", None),
    "0.bias": ("units",),
    "2.up.weight": ("inner", "units"),
    "2.up.bias": ("inner",),
    "2.down.weight": ("units", "inner"),
    "2.down.bias": ("units",),
    "3.weight": (None, "units"),
}
network = from_module(residual, PERMUTATIONS)
"""The name under which the command line looks for a network."""

MARKET = scenario("digits", max_cycles=16, architecture=network)


def main() -> None:
    """Is it worth trading such networks? Who trains alone, and who buys now and then."""
    runs = evaluate(MARKET, ["train", "patient"], populations=["train", "patient"], seeds=range(6), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "two firms and their residual networks"))


if __name__ == "__main__":
    main()
