"""The equilibrium of the scenario ``known-double-auction`` as a policy."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_baselines.policies.pricing import cycle_of
from paramarket_env.economics.mechanisms import DoubleAuction
from paramarket_env.interface.policy import Policy, Seat
from paramarket_env.market.orders import Orders
from paramarket_env.validation import configuration, require


@configuration
class LinearEquilibrium:
    """Trains, asks 2/3 of its cost + 1/4, and bids 2/3 of its value + 1/12: for `known-double-auction` alone.

    Source: Chatterjee and Samuelson, *Bargaining under incomplete information*, 1983, for values and costs that are
    uniform on [0, 1]. Bids are rounded down to a level, and asks up. The cost of a sale is the own kappa.
    """

    def __call__(self, seat: Seat) -> Policy:
        """See :class:`PolicyFactory`; raises ``ValueError`` for any market but a double auction of two agents."""
        fits = isinstance(seat.mechanism, DoubleAuction) and seat.num_agents == 2
        require(fits, "mechanism", seat.mechanism, "double-auction with two agents for linear-equilibrium")
        return _LinearEquilibrium(seat)


class _LinearEquilibrium(Policy):
    """The policy in a seat; see :class:`LinearEquilibrium`."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`: train in the first step, ask in the second, and bid in the last."""
        fields = self.seat.layout.unpack(observation)
        kappa, cycle = fields["kappa"].squeeze(1).double(), cycle_of(fields, self.seat)
        worth = kappa * fields["offer_gain"].amax(1)
        bids = self.seat.actions.legal_purchases(mask)[:, 0] & (self.seat.prices <= _shaded(worth, 1 / 12)[:, None])
        buys = (worth > 0) & bids.any(1)
        levels = torch.arange(len(self.seat.prices), device=self.seat.device)
        ask = torch.searchsorted(self.seat.prices, _shaded(kappa, 1 / 4))
        orders = Orders(
            train=cycle == 0,
            offer=torch.where(buys, 0, -1),
            bid=(bids * levels).amax(1),
            ask=torch.where(cycle == 1, ask, -1).unsqueeze(1),
        )
        return self.seat.actions.encode(orders)


def _shaded(worth: Tensor, least: float) -> Tensor:
    """The bid or ask of an agent to which a nat is worth that much."""
    return 2 / 3 * worth + least
