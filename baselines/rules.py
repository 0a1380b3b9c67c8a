"""Decision rules: when to train, when to buy, and, with a pricing rule, what to ask.

A rule says what it wants as orders; the encoding of the action mode says as much of it as fits into one action (in
``verb`` mode the purchase first, then the ask, then the training).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from baselines.selling import BayesianSeller, Fields
from paramarket_env.config import lookup, require
from paramarket_env.interface.policy import Policy, PolicyFactory, Seat
from paramarket_env.market.engine import Orders
from paramarket_env.seeding import stream, uniform


def best_offer(scores: Tensor, legal: Tensor) -> Tensor:
    """The legal offer with the highest score, if that is above 0, otherwise -1: int64 ``[B]`` of ``[B, offers]``."""
    best = scores.masked_fill(~legal, -torch.inf).max(dim=1)
    return torch.where(best.values > 0, best.indices, -1)


def surplus(fields: Fields) -> Tensor:
    """What each offer is worth above its price, in units of reward: kappa * gain - price, ``[B, offers]``."""
    return fields["value_per_nat"] * fields["offer_gain"] - fields["offer_price"]


class Rule:
    """A policy made of three decisions; by itself it takes none."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        fields = self.seat.layout.unpack(observation)
        offer = self.offer(fields, self.seat.actions.legal_offers(mask))
        return self.seat.actions.encode(Orders(self.train(fields), offer, self.ask(fields)))

    def train(self, fields: Fields) -> Tensor:
        """Whether to train, bool ``[B]``."""
        return torch.zeros_like(fields["loss"][:, 0], dtype=torch.bool)

    def offer(self, fields: Fields, legal: Tensor) -> Tensor:
        """The offer to buy or -1, int64 ``[B]``; ``legal`` bool ``[B, offers]``."""
        return torch.full_like(self.seat.keys, -1)

    def ask(self, fields: Fields) -> Tensor:
        """The level to post or -1, int64 ``[B]``."""
        return torch.full_like(self.seat.keys, -1)


class Hold(Rule):
    """Does nothing."""


class Train(Rule):
    """Trains at every step and never trades: out of the market."""

    def train(self, fields: Fields) -> Tensor:
        """See :meth:`Rule.train`."""
        return torch.ones_like(fields["loss"][:, 0], dtype=torch.bool)


class Greedy(Train):
    """Buys the offer with the largest quoted gain whenever there is one, whatever its price; otherwise trains."""

    def offer(self, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        return best_offer(fields["offer_gain"], legal)


class Paper(Train):
    """The paper's rule: buys if the gain's value exceeds the price, otherwise trains; sells at the Bayesian price."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self.seller = BayesianSeller(seat)

    def offer(self, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        return best_offer(surplus(fields), legal)

    def ask(self, fields: Fields) -> Tensor:
        """See :meth:`Rule.ask`."""
        return self.seller.ask(fields)


class Patient(Paper):
    """The paper's rule with patience: k steps of training between purchases, and a purchase at the very end."""

    def __init__(self, seat: Seat, patience: int) -> None:
        super().__init__(seat)
        self.patience = patience

    def offer(self, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        waited = (fields["since_purchase"] * self.seat.max_cycles).round() >= self.patience
        # At the last step there is nothing left to train for.
        last = (fields["time_left"] * self.seat.max_cycles).round() <= 1
        return super().offer(fields, legal & (waited | last))


class Random:
    """Draws uniformly among the legal actions."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        left = self.seat.layout.unpack(observation)["time_left"].squeeze(-1)
        cycle = ((1 - left) * self.seat.max_cycles).round().long()
        scores = uniform(stream(self.seat.keys, "random policy", cycle), mask.shape[1])
        return self.seat.actions.best(scores.masked_fill(~mask, -1.0))


DEFAULT_PATIENCE = 8
"""The middle of the best that `python -m benchmarks.patience` finds."""

POLICIES: dict[str, PolicyFactory] = {
    "hold": Hold,
    "train": Train,
    "random": Random,
    "greedy": Greedy,
    "paper": Paper,
    "patient": partial(Patient, patience=DEFAULT_PATIENCE),
}


def policy_factory(name: str) -> PolicyFactory:
    """The policy of that name; ``patient:K`` is the patient rule with K steps between purchases."""
    rule, colon, argument = name.partition(":")
    factory: PolicyFactory = lookup(POLICIES, rule, "policy")
    if not colon:
        return factory
    whole = argument.isdecimal()
    require(rule == "patient" and whole, "policy", name, "a policy's name, or patient:K with an integer K >= 0")
    return partial(Patient, patience=int(argument))


def build_policy(name: str, seat: Seat) -> Policy:
    """The policy of that name in that seat."""
    return policy_factory(name)(seat)
