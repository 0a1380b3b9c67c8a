"""Decision rules: when to train, when to buy, and, with a pricing rule, what to ask.

A rule gives orders. The action mode encodes as many of them as fit into one action: in ``verb`` mode a purchase comes
before an ask, and an ask before training.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_baselines.policies.pricing import PRICING, Bayesian, Fields, LinearAsk, PricingRule, Seller, cycle_of
from paramarket_env.interface.policy import POLICIES, Policy, Seat
from paramarket_env.market.orders import Orders
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import INT64_MAX, configuration

Pricing = Annotated[PricingRule, PRICING] | None


@configuration
class Rule:
    """A decision rule. This base class neither trains nor buys; it posts the asks of its pricing rule, if any."""

    pricing: Pricing = field(default=None, kw_only=True)

    def __call__(self, seat: Seat) -> Policy:
        """See :class:`PolicyFactory`."""
        return RulePolicy(seat, self)

    def train(self, seat: Seat, fields: Fields) -> Tensor:
        """Whether to train, bool ``[B]``."""
        return torch.zeros_like(fields["loss"][:, 0], dtype=torch.bool)

    def offer(self, seat: Seat, fields: Fields, legal: Tensor) -> Tensor:
        """The offer to buy or -1, int64 ``[B]``; ``legal``, bool ``[B, offers]``, marks offers with a legal bid."""
        return legal.new_full(legal.shape[:1], -1, dtype=torch.int64)

    def bids(self, seat: Seat, fields: Fields) -> Tensor:
        """The acceptable bids for each offer, bool ``[B, offers, bids]``. The policy makes the highest legal one."""
        return torch.ones((), dtype=torch.bool, device=seat.device)


class RulePolicy(Policy):
    """A rule in a seat, with the memory of its pricing rule."""

    def __init__(self, seat: Seat, rule: Rule) -> None:
        self.seat, self.rule = seat, rule
        self.seller = None if rule.pricing is None else Seller(seat, rule.pricing)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        if self.seller is not None:
            self.seller.reset(rows, keys)

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        seat, rule, fields = self.seat, self.rule, self.seat.layout.unpack(observation)
        bids = seat.actions.legal_purchases(mask) & rule.bids(seat, fields)
        offer = rule.offer(seat, fields, bids.any(2))
        return seat.actions.encode(
            Orders(rule.train(seat, fields), offer, highest_bid(bids, offer), self._asks(fields))
        )

    def _asks(self, fields: Fields) -> Tensor:
        """The levels to post or -1, int64 ``[B, S]``."""
        if self.seller is not None:
            return self.seller.ask(fields)
        return torch.full_like(fields["ask"], -1, dtype=torch.int64)


def highest_bid(bids: Tensor, offer: Tensor) -> Tensor:
    """The highest of the ``bids``, bool ``[B, offers, bids]``, for the ``offer``, int64 ``[B]``: int64 ``[B]``."""
    place = offer.clamp_min(0)[:, None, None].expand(-1, 1, bids.shape[2])
    levels = torch.arange(bids.shape[2], device=bids.device)
    return (bids.gather(1, place).squeeze(1) * levels).amax(1)


def best_offer(scores: Tensor, legal: Tensor) -> Tensor:
    """The legal offer with the highest score if that is above 0, otherwise -1: ``[B, offers]`` to int64 ``[B]``."""
    best = scores.masked_fill(~legal, -torch.inf).max(dim=1)
    return torch.where(best.values > 0, best.indices, -1)


def value(fields: Fields) -> Tensor:
    """The value of each offer, kappa * gain in units of reward, ``[B, offers]``."""
    return fields["kappa"] * fields["offer_gain"]


# --- the rules ------------------------------------------------------------------------------------------------------


@POLICIES.register
@configuration
class Hold(Rule):
    """Does nothing."""


@POLICIES.register
@configuration
class Train(Rule):
    """Trains in every step and never trades: out of the market."""

    def train(self, seat: Seat, fields: Fields) -> Tensor:
        """See :meth:`Rule.train`."""
        return torch.ones_like(fields["loss"][:, 0], dtype=torch.bool)


@POLICIES.register
@configuration
class Random:
    """Draws uniformly among the legal actions."""

    def __call__(self, seat: Seat) -> Policy:
        """See :class:`PolicyFactory`."""
        return RandomPolicy(seat)


class RandomPolicy(Policy):
    """Random actions in a seat. Each episode has its own stream of random numbers."""

    def __init__(self, seat: Seat) -> None:
        self.seat, self.keys = seat, torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        self.keys = self.keys.index_copy(0, rows, keys)

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        cycle = cycle_of(self.seat.layout.unpack(observation), self.seat)
        scores = uniform(stream(self.keys, "random policy", cycle), mask.shape[1])
        return self.seat.actions.best(scores.masked_fill(~mask, -1.0))


@POLICIES.register
@configuration
class Greedy(Train):
    """Buys the offer with the largest positive quoted gain at any price; trains if there is none."""

    def offer(self, seat: Seat, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        return best_offer(fields["offer_gain"], legal)


@POLICIES.register
@configuration
class Paper(Train):
    """The paper's rule: buys the best offer if its value exceeds its price, otherwise trains.

    If the mechanism takes bids, the rule bids the value, which is the dominant strategy in a second-price auction.
    """

    pricing: Pricing = field(default=Bayesian(), kw_only=True)

    def offer(self, seat: Seat, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        # Sealed asks are not observed and count as 0.
        price = fields.get("offer_price", torch.zeros_like(fields["offer_gain"]))
        return best_offer(value(fields) - price, legal)

    def bids(self, seat: Seat, fields: Fields) -> Tensor:
        """See :meth:`Rule.bids`."""
        if seat.actions.choices.bids == 1:
            return super().bids(seat, fields)
        return seat.prices <= value(fields).unsqueeze(2)


@POLICIES.register
@configuration
class Patient(Paper):
    """The paper's rule with patience: waits between purchases, except in the last step."""

    patience: Annotated[int, Field(ge=0, le=INT64_MAX)] = 8
    """Steps to wait between purchases. ``python -m benchmarks.patience`` finds the best range; 8 is in its middle."""

    def offer(self, seat: Seat, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        waited = (fields["since_purchase"] * seat.max_cycles).round() >= self.patience
        # In the last step there is no later training to wait for.
        last = (fields["time_left"] * seat.max_cycles).round() <= 1
        return super().offer(seat, fields, legal & (waited | last))


@POLICIES.register
@configuration
class Choosy(Paper):
    """The paper's rule that buys only what brings at least ``gain`` nats."""

    gain: Annotated[float, Field(ge=0, le=1e6)] = 0.3

    def offer(self, seat: Seat, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        return super().offer(seat, fields, legal & (fields["offer_gain"] >= self.gain))


@POLICIES.register
@configuration
class Early(Paper):
    """The paper's rule that buys only in the first ``share`` of the episode."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.5

    def offer(self, seat: Seat, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        return super().offer(seat, fields, legal & (1 - fields["time_left"] < self.share))


@POLICIES.register
@configuration
class LinearEquilibrium(Paper):
    """The paper's rule that bids 2/3 of its value + 1/12: the buyer of the scenario `known-double-auction`.

    With ``linear-ask`` it plays the equilibrium for values and costs that are uniform on [0, 1] (Chatterjee and
    Samuelson, *Bargaining under incomplete information*, 1983).
    """

    pricing: Pricing = field(default=LinearAsk(), kw_only=True)

    def bids(self, seat: Seat, fields: Fields) -> Tensor:
        """See :meth:`Rule.bids`."""
        if seat.actions.choices.bids == 1:
            return super().bids(seat, fields)
        return seat.prices <= (2 / 3 * value(fields) + 1 / 12).unsqueeze(2)


RULES = ("hold", "train", "random", "greedy", "paper", "patient", "choosy", "early")
"""The names of the rules, which need no training."""
