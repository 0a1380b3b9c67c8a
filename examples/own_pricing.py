"""A pricing rule of your own: it chooses a seller's asks.

Run it with ``python examples/own_pricing.py``. ``file:`` finds the pricing rule by the name ``pricing``. It follows
the ``+`` of a rule that decides on the rest:
``paramarket evaluate paper+file:examples/own_pricing.py paper+fixed paper --scenario digits-priced``.
"""

import os
from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_baselines.policies.pricing import Fields, Memory, PricingRule, by_ask, posted_levels
from paramarket_env.interface.policy import Seat
from paramarket_env.scenarios import scenario
from paramarket_env.validation import configuration

MARKET = replace(scenario("digits-priced"), max_cycles=12, action_mode="round")  # in rounds a new ask takes no step


@configuration
class Haggler(PricingRule):
    """Raises its ask after a sale and lowers it after a refusal, from the market's first ask on."""

    step: int = 1
    """The change in levels; set it with ``paper+file:examples/own_pricing.py(step=2)``."""

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """The levels to post, int64 ``[B, S]``, of S asks in B markets at once."""
        sold, refused = (by_ask(seat, fields[name]) > 0 for name in ("sold_now", "declined"))
        change = torch.where(sold, self.step, torch.where(refused, -self.step, 0))
        return (posted_levels(seat, fields) + change).clamp(0, len(seat.prices) - 1)


pricing = Haggler


def main() -> None:
    """Compare it with the middle price and with the Bayesian seller, against the paper's rule."""
    policies = ["paper+fixed", f"paper+file:{os.path.relpath(__file__)}", "paper+bayesian"]
    runs = evaluate(MARKET, policies, populations=["paper"], seeds=range(6), device="cpu")
    Console(width=130).print(estimates_table(summary(runs), "my pricing rule and others"))


if __name__ == "__main__":
    main()
