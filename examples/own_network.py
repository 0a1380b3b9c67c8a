"""A network of your own: every agent trains and sells a module with a block that you wrote.

Run it with ``python examples/own_network.py``. Any module will do that returns a row of logits for each sample. Pass
the network to a market's configuration. On the command line it is ``file:examples/own_network.py``.
"""

import math

from rich.console import Console
from torch import Tensor, nn

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
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
    first = nn.Linear(math.prod(features), width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), Residual(width), nn.Linear(width, classes))


network = from_module(residual)
"""The name under which the command line looks for a network."""

MARKET = scenario("digits", max_cycles=16, architecture=network)


def main() -> None:
    """Compare the rule that only trains with the rule that also buys such networks."""
    runs = evaluate(MARKET, ["train", "patient"], populations=["train", "patient"], seeds=range(6), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "two firms and their residual networks"))


if __name__ == "__main__":
    main()
