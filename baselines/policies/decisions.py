"""Decision rules: when to train, when to buy, and, with a pricing rule, what to ask.

A rule says what it wants as orders; the encoding of the action mode says as much of it as fits into one action (in
``verb`` mode the purchase first, then the ask, then the training).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from baselines.policies.learned import Learned
from baselines.policies.plugins import FILE, from_file
from baselines.policies.pricing import Fields, PricingRule, cycle_of, pricing_factory
from paramarket_env.interface.policy import Policy, PolicyFactory, Seat
from paramarket_env.market.orders import Orders
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import lookup, require


def best_offer(scores: Tensor, legal: Tensor) -> Tensor:
    """The legal offer with the highest score, if that is above 0, otherwise -1: int64 ``[B]`` of ``[B, offers]``."""
    best = scores.masked_fill(~legal, -torch.inf).max(dim=1)
    return torch.where(best.values > 0, best.indices, -1)


def value(fields: Fields) -> Tensor:
    """What each offer is worth, in units of reward: kappa * gain, ``[B, offers]``."""
    return fields["kappa"] * fields["offer_gain"]


class Rule:
    """A policy made of decisions; by itself it takes none, but for the asks of its pricing rule, if it has one."""

    def __init__(self, seat: Seat, pricing: PricingRule | None = None) -> None:
        self.seat, self.pricing = seat, pricing

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        fields = self.seat.layout.unpack(observation)
        bids = self.seat.actions.legal_purchases(mask) & self.bids(fields)
        offer = self.offer(fields, bids.any(2))
        return self.seat.actions.encode(Orders(self.train(fields), offer, _highest_bid(bids, offer), self.asks(fields)))

    def train(self, fields: Fields) -> Tensor:
        """Whether to train, bool ``[B]``."""
        return torch.zeros_like(fields["loss"][:, 0], dtype=torch.bool)

    def offer(self, fields: Fields, legal: Tensor) -> Tensor:
        """The offer to buy or -1, int64 ``[B]``; ``legal`` bool ``[B, offers]``: there is a bid to make for it."""
        return torch.full_like(self.seat.keys, -1)

    def bids(self, fields: Fields) -> Tensor:
        """The bids to make for each offer, bool ``[B, offers, bids]``; where several are legal the highest is made."""
        return torch.ones((), dtype=torch.bool, device=self.seat.keys.device)

    def asks(self, fields: Fields) -> Tensor:
        """The levels to post or -1, int64 ``[B, S]``."""
        if self.pricing is not None:
            return self.pricing.ask(fields)
        return torch.full((len(self.seat.keys), self.seat.actions.choices.ask_slots), -1, device=self.seat.keys.device)


def _highest_bid(bids: Tensor, offer: Tensor) -> Tensor:
    """The highest bid of an offer that may be made: int64 ``[B]`` of bool ``[B, offers, bids]`` and ``[B]``."""
    place = offer.clamp_min(0)[:, None, None].expand(-1, 1, bids.shape[2])
    levels = torch.arange(bids.shape[2], device=bids.device)
    return (bids.gather(1, place).squeeze(1) * levels).amax(1)


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
    """The paper's rule: buys if the gain's value exceeds the price, otherwise trains.

    Where the mechanism takes bids, it bids the value: the dominant strategy of a second-price auction.
    """

    def offer(self, fields: Fields, legal: Tensor) -> Tensor:
        """See :meth:`Rule.offer`."""
        # A sealed ask is not seen.
        price = fields.get("offer_price", torch.zeros_like(fields["offer_gain"]))
        return best_offer(value(fields) - price, legal)

    def bids(self, fields: Fields) -> Tensor:
        """See :meth:`Rule.bids`."""
        if self.seat.actions.choices.bids == 1:
            return super().bids(fields)
        return self.seat.prices <= value(fields).unsqueeze(2)


class Patient(Paper):
    """The paper's rule with patience: k steps of training between purchases, and a purchase at the very end."""

    def __init__(self, seat: Seat, pricing: PricingRule | None = None, *, patience: int) -> None:
        super().__init__(seat, pricing)
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
        cycle = cycle_of(self.seat.layout.unpack(observation), self.seat)
        scores = uniform(stream(self.seat.keys, "random policy", cycle), mask.shape[1])
        return self.seat.actions.best(scores.masked_fill(~mask, -1.0))


DEFAULT_PATIENCE = 8
"""The middle of the best that `python -m benchmarks.patience` finds."""

POLICIES: dict[str, Callable[..., Policy]] = {
    "hold": Hold,
    "train": Train,
    "random": Random,
    "greedy": Greedy,
    "paper": Paper,
    "patient": partial(Patient, patience=DEFAULT_PATIENCE),
}

DEFAULT_PRICING = {"paper": "bayesian", "patient": "bayesian"}
"""The pricing rules of those that have one without being told."""


def policy_factory(name: str) -> PolicyFactory:
    """The policy of that name, such as ``paper``, ``patient:K`` or ``paper+fixed:3``.

    ``patient:K`` waits K steps between purchases. Behind a ``+`` comes a pricing rule (``selling.PRICING``).
    ``learned:FOLDER`` is a policy that ``paramarket train`` has kept there. ``file:PATH.py`` is what the function
    ``policy(seat)`` of that file returns, which is executed: only name files that you trust.
    """
    if name.startswith(FILE):
        return from_file(name.removeprefix(FILE), "policy")
    if name.startswith("learned:"):
        return partial(Learned, folder=name.removeprefix("learned:"))
    decisions, plus, pricing = name.partition("+")
    rule, colon, argument = decisions.partition(":")
    factory: Callable[..., Policy] = lookup(POLICIES, rule, "policy")
    if colon:
        whole = rule == "patient" and argument.isdecimal()
        require(whole, "policy", name, "a policy's name, or patient:K with an integer K >= 0")
        factory = partial(Patient, patience=int(argument))
    pricing = pricing if plus else DEFAULT_PRICING.get(rule, "")
    if not plus and not pricing:
        return factory
    require(rule != "random", "policy", name, "'random' by itself: it draws its asks too")
    seller = pricing_factory(pricing)
    return lambda seat: factory(seat, seller(seat))


def build_policy(policy: str | PolicyFactory, seat: Seat) -> Policy:
    """The policy in that seat: of that name, or the factory's."""
    factory = policy_factory(policy) if isinstance(policy, str) else policy
    return factory(seat)
