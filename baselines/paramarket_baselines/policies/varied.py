"""A policy that plays another rule in every episode, drawn from a broad family: the opponents of a league.

An agent that learns against a few rules is good against these few. Against opponents that are drawn anew for every
episode it must be good on average, and must find out during the episode whom it meets (domain randomisation; Tobin et
al. 2017). ``OPPONENTS`` lists what is drawn. Populations that are held out have rules and parameters outside of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from paramarket_baselines.policies.decisions import best_offer, highest_bid, value
from paramarket_baselines.policies.pricing import Bayesian, Fields, PricingRule, Seller, cycle_of, posted_levels
from paramarket_env.interface.policy import Policy, Seat
from paramarket_env.market.orders import Orders
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import configuration


@dataclass(frozen=True)
class Family:
    """A family of rules. Each parameter is drawn uniformly from its values, for each episode and seat."""

    prices: tuple[str, ...]
    """``none`` keeps the ask of the start, ``fixed`` posts a random level, ``withheld`` does not sell, ``random`` and
    ``bayesian`` are the pricing rules, and ``ramp`` goes in equal steps from one random level to another."""
    patience: tuple[float, ...]
    """The wait between purchases, as a share of the episode."""
    margin: tuple[float, ...] = (1,)
    """The least ratio of value to price of a purchase; 0 pays any price."""
    first_purchase: tuple[float, ...] = (0,)
    """The cycle of the first purchase, as a share of the episode; 1 never buys."""
    closes: tuple[float, ...] = (1,)
    """Whether the patience ends in the last cycle."""
    spending: tuple[float, ...] = (1,)
    """The largest price of a purchase, as a share of the balance."""
    reserve: tuple[float, ...] = (1,)
    """The highest level of a price that it pays, as a share of the highest of all levels."""
    diligence: tuple[float, ...] = (1,)
    """The probability of training when there is nothing to buy or to ask."""
    noise: tuple[float, ...] = (0,)
    """The probability of a random legal action."""

    def draw(self, keys: Tensor) -> dict[str, Tensor]:
        """The parameters of the episodes with these keys, float64 ``[b]`` each."""
        drawn = uniform(stream(keys, "varied"), len(BUYER))
        values = {name: torch.tensor(getattr(self, name), dtype=torch.float64, device=keys.device) for name in BUYER}
        chosen = {name: (drawn[:, place] * len(values[name])).long() for place, name in enumerate(BUYER)}
        return {name: values[name][chosen[name]] for name in BUYER}


BUYER = ("patience", "margin", "first_purchase", "closes", "spending", "reserve", "diligence", "noise")
"""The parameters of a buyer."""

OPPONENTS = Family(
    prices=("none", "fixed", "fixed", "withheld", "random", "bayesian", "ramp", "ramp"),
    patience=(0, 0, 0.08, 0.17, 0.25, 0.42, 0.5, 0.58, 0.67, 0.75, 0.92),
    # Most opponents have one peculiarity or none. The best price against them is then one that sensible buyers pay.
    margin=(0, 0.8, *(1,) * 14, 1.2, 1.5),
    first_purchase=(*(0,) * 9, 0.25, 0.5, 1),
    closes=(1, 1, 0),
    spending=(*(1,) * 7, 0.5),
    reserve=(*(1,) * 14, 0.7, 0.4),
    diligence=(*(1,) * 13, 0.7, 0.7, 0),
    noise=(*(0,) * 8, 0.1, 0.5),
)
"""The opponents of a league."""

RAMP_PERIOD = 3
"""The cycles between two postings of a rule that changes its asks."""


@configuration
class Varied:
    """Plays another rule in each episode, drawn from a broad family: the opponents of `train --league`."""

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return VariedPolicy(seat, OPPONENTS)


@dataclass(frozen=True)
class VariedPrice(PricingRule):
    """A pricing rule that is another one in each episode; see :class:`Family`."""

    family: Family
    bayesian: Bayesian = field(default_factory=Bayesian)

    def posting_period(self, seat: Seat) -> int:
        """Always 1, since each row has its own turns."""
        return 1

    def memory(self, seat: Seat, keys: Tensor) -> dict[str, Tensor]:
        """See :meth:`PricingRule.memory`: ``kind``, and the levels ``begin`` and ``end``, ``[b]`` each."""
        drawn = uniform(stream(keys, "varied price"), 3)
        levels = len(seat.prices)
        return {
            **self.bayesian.memory(seat, keys),
            "keys": keys,
            "kind": (drawn[:, 0] * len(self.family.prices)).long(),
            "begin": (drawn[:, 1] * levels).long(),
            "end": (drawn[:, 2] * levels).long(),
        }

    def learn(self, seat: Seat, memory: dict[str, Tensor], before: Fields, now: Fields) -> dict[str, Tensor]:
        """See :meth:`PricingRule.learn`."""
        return memory | self.bayesian.learn(seat, memory, before, now)

    def price(self, seat: Seat, memory: dict[str, Tensor], fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        posted, cycle, levels = posted_levels(seat, fields), cycle_of(fields, seat), len(seat.prices)
        begin, end = memory["begin"], memory["end"]
        share = (cycle // RAMP_PERIOD * RAMP_PERIOD) / max(seat.max_cycles - 1, 1)
        random = (uniform(stream(memory["keys"], "random price", cycle), 1).squeeze(1) * levels).long()
        wanted = {
            "fixed": begin,
            "withheld": torch.full_like(begin, levels),
            "random": random,
            "ramp": (begin + share * (end - begin)).round().long(),
        }
        asks = posted
        for name, level in wanted.items():
            asks = torch.where(self._is(memory, name), level.unsqueeze(1), asks)
        asks = torch.where(self._is(memory, "bayesian"), self.bayesian.price(seat, memory, fields), asks)
        changes = self._is(memory, "random") | self._is(memory, "bayesian")
        waits = changes & (cycle % self.bayesian.posting_period(seat) != 0).unsqueeze(1)
        return torch.where(waits, posted, asks)

    def _is(self, memory: dict[str, Tensor], name: str) -> Tensor:
        """Whether each row has a kind of pricing, bool ``[B, 1]``."""
        places = [place for place, kind in enumerate(self.family.prices) if kind == name]
        kinds = torch.tensor(places, dtype=torch.int64, device=memory["kind"].device)
        return torch.isin(memory["kind"], kinds).unsqueeze(1)


class VariedPolicy(Policy):
    """Another rule of the family in each row and episode."""

    def __init__(self, seat: Seat, family: Family) -> None:
        self.seat, self.family, self.seller = seat, family, Seller(seat, VariedPrice(family))
        self.keys = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)
        self.drawn = family.draw(self.keys)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        self.seller.reset(rows, keys)
        self.keys = self.keys.index_copy(0, rows, keys)
        fresh = self.family.draw(keys)
        self.drawn = {name: kept.index_copy(0, rows, fresh[name]) for name, kept in self.drawn.items()}

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        seat, fields = self.seat, self.seat.layout.unpack(observation)
        cycle = cycle_of(fields, seat)
        chance = uniform(stream(self.keys, "varied policy", cycle), 2 + mask.shape[1])
        bids = seat.actions.legal_purchases(mask) & self._acceptable(fields)
        offer = torch.where(self._buys(fields, cycle), best_offer(self._surplus(fields), bids.any(2)), -1)
        orders = Orders(
            chance[:, 0] < self.drawn["diligence"], offer, highest_bid(bids, offer), self.seller.ask(fields)
        )
        at_random = seat.actions.best(chance[:, 2:].masked_fill(~mask, -1.0))
        noisy, chosen = chance[:, 1] < self.drawn["noise"], seat.actions.encode(orders)
        return torch.where(noisy.view(-1, *(1,) * (chosen.dim() - 1)), at_random, chosen)

    def _buys(self, fields: Fields, cycle: Tensor) -> Tensor:
        """Whether the rule buys in this cycle, bool ``[B]``."""
        cycles, drawn = self.seat.max_cycles, self.drawn
        begun = cycle >= drawn["first_purchase"] * cycles
        waited = (fields["since_purchase"].squeeze(1) * cycles).round() >= (drawn["patience"] * cycles).round()
        return begun & (waited | ((cycle == cycles - 1) & (drawn["closes"] > 0)))

    def _surplus(self, fields: Fields) -> Tensor:
        """The value less the price that the rule counts, ``[B, offers]``; 0 for a price above its limits."""
        price = fields.get("offer_price", torch.zeros_like(fields["offer_gain"]))
        affordable = price <= self.drawn["spending"].unsqueeze(1) * fields["balance"]
        low = price <= self._reserve().unsqueeze(1).to(price.dtype)
        return torch.where(affordable & low, value(fields) - self.drawn["margin"].unsqueeze(1) * price, 0.0)

    def _reserve(self) -> Tensor:
        """The highest price that the rule pays, ``[B]``."""
        prices = self.seat.prices
        return prices[(self.drawn["reserve"] * (len(prices) - 1)).round().long()]

    def _acceptable(self, fields: Fields) -> Tensor:
        """The bids that the rule makes, bool ``[B, offers, bids]``."""
        seat = self.seat
        if seat.actions.choices.bids == 1:
            return torch.ones((), dtype=torch.bool, device=seat.device)
        low = seat.prices <= self._reserve().view(-1, 1, 1)
        return low & (self.drawn["margin"].view(-1, 1, 1) * seat.prices <= value(fields).unsqueeze(2))
