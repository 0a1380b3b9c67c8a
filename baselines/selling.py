"""Pricing rules: which ask a seller posts."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.economics.pricing import bayesian_price, forget, survival, uniform_belief, update_belief
from paramarket_env.interface.actions import VerbActions
from paramarket_env.interface.policy import Seat

Fields = dict[str, Tensor]
"""The observation by field name, ``[B, size]`` each."""


class BayesianSeller:
    """The paper's seller: holds a belief about the buyers' value, and posts the price that is optimal for it.

    The belief starts uniform over the ask levels, learns from what sold and what did not, and forgets slowly, since
    gains fall as networks converge. The ask is posted anew only when the optimal price would earn noticeably more than
    the posted one: in ``verb`` mode a posting costs a step.
    """

    forget_rate = 0.02
    margin = 0.1
    """Share by which the expected revenue must rise for a new posting."""

    def __init__(self, seat: Seat) -> None:
        self.prices = seat.prices
        # In verb mode a buyer that could gain is often busy with training.
        self.attention = 0.25 if isinstance(seat.actions, VerbActions) else 0.9
        self.prior = uniform_belief(len(seat.keys), len(seat.prices), seat.keys.device)
        self.belief = self.prior
        self.open_before = torch.zeros_like(seat.keys)
        self.level_before = torch.zeros_like(seat.keys)

    def ask(self, fields: Fields) -> Tensor:
        """The level to post, or -1 to leave the ask as it is: int64 ``[B]``."""
        posted = self._posted_level(fields)
        self._learn(fields)
        self.open_before = fields["market_open"].squeeze(-1).long()
        self.level_before = posted
        best = bayesian_price(self.belief, self.prices)
        revenue = torch.cat([self.prices * survival(self.belief), torch.zeros_like(self.belief[:, :1])], dim=1)
        earns, would_earn = (revenue.gather(1, level.unsqueeze(1)).squeeze(1) for level in (posted, best))
        return torch.where(would_earn > earns * (1 + self.margin), best, -1)

    def _posted_level(self, fields: Fields) -> Tensor:
        """The level of the ask that stands; the number of prices while withheld."""
        level = (fields["ask"] - self.prices).abs().argmin(dim=1)
        return torch.where(fields["selling"].squeeze(-1) > 0, level, len(self.prices))

    def _learn(self, fields: Fields) -> None:
        """Take in the last step: what sold at the price that stood then, and who could have bought and did not."""
        begins = fields["time_left"] == 1
        sold = fields["sold_now"].squeeze(-1).long() * self.open_before
        buyers = fields["trade_price"].shape[1]
        refused = (buyers - sold) * self.open_before
        learned = update_belief(self.belief, self.level_before, sold, refused, self.attention)
        self.belief = torch.where(begins, self.prior, forget(learned, self.forget_rate))
