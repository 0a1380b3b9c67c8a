"""A pricing rule of your own: what a seller asks.

Run it with ``python examples/own_pricing.py``. The function ``pricing`` below is all that ``file:`` needs, behind the
``+`` of a rule that decides on the rest:
``paramarket evaluate paper+file:examples/own_pricing.py paper+fixed paper --scenario digits-priced``.
"""

import os
from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor

from baselines.evaluation.statistics import estimates_table, evaluate, summary
from baselines.policies.pricing import Fields, PricingRule
from paramarket_env.interface.policy import Seat
from paramarket_env.scenarios import scenario

MARKET = replace(scenario("digits-priced"), max_cycles=12, action_mode="round")  # to re-price takes no step


class Haggler(PricingRule):
    """Asks one level more after a sale and one less after a refusal, from the market's first ask on."""

    def price(self, fields: Fields) -> Tensor:
        """The levels to post, int64 ``[B, S]``, of S asks in B markets at once."""
        sold, refused = (self._by_slot(fields[name]) > 0 for name in ("sold_now", "declined"))
        step = torch.where(sold, 1, torch.where(refused, -1, 0))
        return (self._posted(fields) + step).clamp(0, len(self.prices) - 1)


def pricing(seat: Seat) -> PricingRule:
    """What ``+file:examples/own_pricing.py`` plays."""
    return Haggler(seat)


def main() -> None:
    """Compare it with the middle price and with the Bayesian seller, beside one who buys what is worth its price."""
    policies = ["paper+fixed", f"paper+file:{os.path.relpath(__file__)}", "paper+bayesian"]
    runs = evaluate(MARKET, policies, populations=["paper"], seeds=range(6), device="cpu")
    Console(width=130).print(estimates_table(summary(runs), "my pricing rule and others"))


if __name__ == "__main__":
    main()
