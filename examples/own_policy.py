"""A policy of your own: when to train, and when to buy.

Run it with ``python examples/own_policy.py``. ``file:`` finds the policy by the name ``policy``:
``paramarket evaluate file:examples/own_policy.py train paper`` compares it with rules, in any market.
"""

import os

import torch
from rich.console import Console
from torch import Tensor

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import Policy, Seat
from paramarket_env.market.orders import Orders

MARKET = MarketConfig(max_cycles=16)  # two firms, free parameters, one verb a step


class Choosy(Policy):
    """Buys the offer with the largest quoted gain if that is at least a quarter of a nat; otherwise trains.

    It has no memory. A policy with a memory overrides ``reset(rows, keys)``, which is called where episodes begin.
    """

    def __init__(self, seat: Seat) -> None:
        if seat.mechanism.bids:
            raise ValueError(f"choosy makes no bids: it needs posted prices, but the mechanism is {seat.mechanism}")
        self.seat = seat

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Actions of one seat in B markets at once; ``observation`` float32 ``[B, D]``, ``mask`` bool ``[B, A]``."""
        asks = observation.new_full((len(observation), self.seat.actions.choices.ask_slots), -1, dtype=torch.int64)
        fields = self.seat.layout.unpack(observation)  # their names: print(env.layout.table())
        gain, offer = fields["offer_gain"].where(fields["offer_legal"] > 0, 0).max(dim=1)
        buys = gain >= 0.25
        return self.seat.actions.encode(
            Orders(
                train=~buys,
                offer=torch.where(buys, offer, -1),
                bid=torch.zeros_like(offer),  # posted prices are taken or left
                ask=asks,  # -1 leaves its own ask unchanged
            )
        )


def policy(seat: Seat) -> Policy:
    """The policy of ``file:examples/own_policy.py``, in a seat."""
    return Choosy(seat)


def main() -> None:
    """Compare it with the rules."""
    policies = ["train", f"file:{os.path.relpath(__file__)}", "paper", "patient"]
    runs = evaluate(MARKET, policies, populations=["train", "patient"], seeds=range(6), device="cpu")
    Console(width=120).print(estimates_table(summary(runs), "my policy and the rules"))


if __name__ == "__main__":
    main()
