"""A network of your own: a module with a block that you wrote, as the network that every agent trains and sells.

Run it with ``python examples/own_network.py``. The module is an ``nn.Sequential`` that begins with an ``nn.Linear``;
what follows is yours, as long as it is made of torch's linear, convolutional and normalising layers. It has a name in
``NETWORKS``; from then on a market's configuration can name it, in this process.
"""

from rich.console import Console
from torch import Tensor, nn

from baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.config import MarketConfig, NetworkConfig
from paramarket_env.learning.networks.mlp import NETWORKS
from paramarket_env.learning.networks.modules import from_module


class Residual(nn.Module):
    """Adds a small network's output to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden units ``[..., width]`` to hidden units."""
        change: Tensor = self.down(self.up(hidden).relu())
        return hidden + change


def residual(features: tuple[int, ...], classes: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """The network for samples of shape ``features``; ``hidden`` is the configuration's."""
    (inputs,), (width,) = features, hidden
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
MARKET = MarketConfig(max_cycles=16, network=NetworkConfig(architecture="residual", hidden=(16,)))


def main() -> None:
    """Is it worth trading such networks? Who trains alone, and who buys now and then."""
    NETWORKS["residual"] = from_module(residual, PERMUTATIONS)
    runs = evaluate(MARKET, ["train", "patient"], populations=["train", "patient"], seeds=range(6), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "two firms and their residual networks"))


if __name__ == "__main__":
    main()
