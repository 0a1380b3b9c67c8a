"""Pricing rules: which ask a seller posts, on what an agent sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from baselines.policies.plugins import FILE, from_file
from paramarket_env.economics.pricing import (
    bayesian_price,
    drift,
    survival,
    uniform_belief,
    uniform_survival,
    update_belief,
)
from paramarket_env.interface.actions import VerbActions
from paramarket_env.interface.policy import Seat
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import lookup, require

Fields = dict[str, Tensor]
"""The observation by field name, ``[B, size]`` each."""

VERB_POSTING_PERIOD = 8
"""In ``verb`` mode a posting costs a step, so an ask is thought over once in so many cycles."""


def cycle_of(fields: Fields, seat: Seat) -> Tensor:
    """The cycle that an observation is of, int64 ``[B]``."""
    return ((1 - fields["time_left"].squeeze(-1)) * seat.max_cycles).round().long()


class PricingRule(ABC):
    """Posts the level that :meth:`price` names, where it is not posted already; learns before it names one."""

    period: int | None = None
    """Cycles between postings; None: 1 in rounds, ``VERB_POSTING_PERIOD`` with one verb a step."""

    def __init__(self, seat: Seat) -> None:
        self.seat, self.slots, self.prices = seat, seat.actions.choices.ask_slots, seat.prices
        self.patience = self.period or (VERB_POSTING_PERIOD if isinstance(seat.actions, VerbActions) else 1)
        self.level_before = torch.zeros(len(seat.keys), self.slots, dtype=torch.int64, device=seat.keys.device)

    def ask(self, fields: Fields) -> Tensor:
        """The levels to post, or -1 to leave an ask as it is: int64 ``[B, S]``."""
        posted = self._posted(fields)
        self.learn(fields)
        self.level_before = posted
        wanted = self.price(fields)
        in_turn = (cycle_of(fields, self.seat) % self.patience == 0).unsqueeze(1)
        return torch.where(in_turn & (wanted != posted), wanted, -1)

    def learn(self, fields: Fields) -> None:  # noqa: B027  # a rule need not learn
        """Take in the last step, before which the levels ``level_before`` ``[B, S]`` were posted."""

    @abstractmethod
    def price(self, fields: Fields) -> Tensor:
        """The levels that are best now, int64 ``[B, S]``; the number of prices withholds."""

    def _posted(self, fields: Fields) -> Tensor:
        """The levels of the asks that stand, int64 ``[B, S]``; the number of prices while withheld."""
        level = (fields["ask"].unsqueeze(2) - self.prices).abs().argmin(dim=2)
        return torch.where(fields["selling"] > 0, level, len(self.prices))

    def _by_slot(self, of_buyers: Tensor) -> Tensor:
        """What is known of each buyer, ``[B, N-1]``, summed over those that an ask is for: ``[B, S]``."""
        return of_buyers if self.slots > 1 else of_buyers.sum(1, keepdim=True)

    def _level_of(self, price: Tensor) -> Tensor:
        """The lowest level of at least a price, ``[B]``, for all asks: ``[B, S]``; withheld if there is none."""
        level = torch.searchsorted(self.prices, price.double().contiguous())
        return level.unsqueeze(1).expand(-1, self.slots)


class Fixed(PricingRule):
    """Posts one level and keeps it: that of the number given, or the middle one."""

    period = 1

    def __init__(self, seat: Seat, level: int | None = None) -> None:
        super().__init__(seat)
        top = len(seat.prices) - 1
        require(level is None or 0 <= level <= top, "pricing", f"fixed:{level}", f"fixed:L with L from 0 to {top}")
        self.level = top // 2 if level is None else level

    def price(self, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        return torch.full_like(self.level_before, self.level)


class RandomPrice(PricingRule):
    """Draws a level uniformly each time."""

    def price(self, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        keys = stream(self.seat.keys, "random price", cycle_of(fields, self.seat))
        return (uniform(keys, self.slots) * len(self.prices)).long()


def rival_cost(fields: Fields, seat: Seat) -> Tensor:
    """What a sale costs the seller in reward, by rivalry, float64 ``[B]``.

    A buyer's gain costs rivalry / (N - 1) for each nat. What the buyer gains the seller does not see; its own largest
    quoted gain stands for it, as both are gains from mixing the same two networks.
    """
    gain = fields["offer_gain"].amax(1).clamp_min(0).double()
    return gain * seat.rivalry / fields["sold_now"].shape[1]


class CostPlus(PricingRule):
    """Asks what a training pass and the buyer's gain cost the seller, and half as much again."""

    markup = 0.5

    def price(self, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        return self._level_of((1 + self.markup) * (self.seat.train_cost + rival_cost(fields, self.seat)))


class Bayesian(PricingRule):
    """The paper's seller: filters a belief about each buyer's value from its sales and refusals.

    It posts the price that is optimal for the belief (Myerson 1981). The belief starts uniform over the levels; between
    steps the value drifts, since gains change as networks learn.
    """

    spread, jump = 0.5, 0.01
    attention = 0.7
    """The chance that a buyer who could gain buys: at other times it is busy, with another seller or with training."""
    counts_rivals = False
    """Whether a rival's gain is a cost of selling to it: the price at which the virtual value is that cost."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        buyers = seat.layout.slices["sold_now"]
        shape = (len(seat.keys), buyers.stop - buyers.start)
        self.prior = uniform_belief(shape, len(seat.prices), seat.keys.device)
        self.belief = self.prior

    def learn(self, fields: Fields) -> None:
        """See :meth:`PricingRule.learn`: each outcome is a censored observation of a value."""
        begins = (fields["time_left"] == 1).unsqueeze(2)
        learned = update_belief(self.belief, *self._outcomes(fields), self.attention)
        self.belief = torch.where(begins, self.prior, drift(learned, self.spread, self.jump))

    def _outcomes(self, fields: Fields) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, sales and refusals of the last step, for each buyer: ``[B, N-1, O]``."""
        sold, refused = fields["sold_now"].unsqueeze(2), fields["declined"].unsqueeze(2)
        return self._level_for_buyers().unsqueeze(2), sold, refused

    def _level_for_buyers(self) -> Tensor:
        """The level that was posted for each buyer, int64 ``[B, N-1]``."""
        return self.level_before.expand(-1, self.prior.shape[1])

    def survival(self, fields: Fields) -> Tensor:
        """The chance that each buyer values a purchase at each level or more, ``[B, N-1, L]``."""
        return survival(self.belief)

    def price(self, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`: one ask for all is for a buyer drawn among them."""
        chance = self.survival(fields)
        chance = chance if self.slots > 1 else chance.mean(1, keepdim=True)
        cost = rival_cost(fields, self.seat).unsqueeze(1) if self.counts_rivals else 0.0
        return bayesian_price(chance, self.prices, cost)


class RivalAware(Bayesian):
    """The Bayesian seller that counts the gain of its rivals as the cost of selling to them."""

    counts_rivals = True


class History(Bayesian):
    """The Bayesian seller that learns from everybody's sales and refusals, as they are public, not its own alone.

    Who bought from another seller is not told, so what it sold counts as a share of a sale to each buyer. What the seat
    bought itself tells nothing of them.
    """

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        _require_mechanism(seat, "history", "posted")
        _require_told(seat, "history", "trades_now", "transactions")
        self.asked_before = torch.zeros(self.prior.shape[:2], dtype=torch.int64, device=seat.keys.device)
        self.stood_before = torch.zeros_like(self.asked_before)

    def _outcomes(self, fields: Fields) -> tuple[Tensor, Tensor, Tensor]:
        own = super()._outcomes(fields)
        sales, third_parties = self._sales_to_third_parties(fields), self.prior.shape[1] - 1
        share = sales / max(third_parties, 1)
        refused = (1 - share) * self.stood_before * min(third_parties, 1)
        others = (self.asked_before, share, refused)
        self._remember(fields)
        level, sold, refused = (
            torch.cat([mine, theirs.unsqueeze(1).expand(-1, self.prior.shape[1], -1)], dim=2)
            for mine, theirs in zip(own, others, strict=True)
        )
        return level, sold, refused

    @staticmethod
    def _sales_to_third_parties(fields: Fields) -> Tensor:
        """What each other agent sold in the last step, but not to this one, ``[B, N-1]``.

        Where several sold, which of them this one bought from is not seen: a share of it counts for each.
        """
        sold = fields["trades_now"]
        sellers = (sold > 0).sum(1, keepdim=True).clamp_min(1)
        return sold - (sold > 0) * (fields["since_purchase"] == 0) / sellers

    def _remember(self, fields: Fields) -> None:
        """The others' asks, one for all that a seller sells, and whether they stand."""
        sellers = self.prior.shape[1]
        price, legal = (fields[name].unflatten(1, (sellers, -1)) for name in ("offer_price", "offer_legal"))
        self.asked_before = (price[..., :1] - self.prices).abs().argmin(dim=2)
        self.stood_before = (legal > 0).any(2).long()


class Bounds(Bayesian):
    """The Bayesian seller who is told bounds on each buyer's gain, and learns what a nat is worth to that buyer.

    A value is kappa times a gain that lies anywhere between the bounds. The belief is about kappa, a histogram over the
    range that values per nat can have; it starts uniform.
    """

    grid = 32
    jump = 0.02

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        _require_told(seat, "bounds", "gain_low", "bounds")
        self.kappa = torch.linspace(*seat.kappa_range, self.grid, dtype=torch.float64, device=seat.keys.device)
        self.prior = uniform_belief(tuple(self.prior.shape[:2]), self.grid - 1, seat.keys.device)
        self.belief = self.prior
        self.survival_before = self.prior.new_zeros(*self.prior.shape, len(self.prices))

    def learn(self, fields: Fields) -> None:
        """See :meth:`PricingRule.learn`: an outcome speaks for the kappa at which it was to be expected."""
        begins = (fields["time_left"] == 1).unsqueeze(2)
        level = self._level_for_buyers().clamp_max(len(self.prices) - 1)
        place = level[:, :, None, None].expand(-1, -1, self.grid, 1)
        taken = self.attention * self.survival_before.gather(3, place).squeeze(3)
        sold, declined = (fields[name].unsqueeze(2) > 0 for name in ("sold_now", "declined"))
        likely = self.belief * torch.where(sold, taken.clamp_min(1e-3), torch.where(declined, 1 - taken, 1.0))
        learned = drift(likely / likely.sum(2, keepdim=True), spread=0.0, jump=self.jump)
        self.belief = torch.where(begins, self.prior, learned)
        self.survival_before = self._survival_by_kappa(fields)

    def _survival_by_kappa(self, fields: Fields) -> Tensor:
        """The chance of a value of at least each level, if kappa is each of the grid's: ``[B, N-1, grid, L]``."""
        low, high = (_best_good(fields[name], fields).unsqueeze(2) for name in ("gain_low", "gain_high"))
        return uniform_survival(low * self.kappa, high * self.kappa, self.prices)

    def survival(self, fields: Fields) -> Tensor:
        """See :meth:`Bayesian.survival`."""
        return (self.belief.unsqueeze(3) * self.survival_before).sum(2)


class Omniscient(Bayesian):
    """The price that is optimal for the buyers' true values: the upper bound of what a seller can know."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        _require_told(seat, "omniscient", "buyer_value", "full")

    def survival(self, fields: Fields) -> Tensor:
        """See :meth:`Bayesian.survival`."""
        return (_best_good(fields["buyer_value"], fields).unsqueeze(2) >= self.prices).double()


class Thompson(PricingRule):
    """A bandit over the levels (Thompson sampling): posts the level whose sampled revenue is largest.

    The share of buyers that take a level has a Beta posterior, which is sampled from by its normal approximation. A
    sale is one at every lower level too, and a refusal one at every higher level.
    """

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self.taken = torch.ones(
            *self.level_before.shape, len(seat.prices), dtype=torch.float64, device=seat.keys.device
        )
        self.left = torch.ones_like(self.taken)

    def learn(self, fields: Fields) -> None:
        """See :meth:`PricingRule.learn`."""
        begins = (fields["time_left"] == 1).unsqueeze(2)
        levels, posted = torch.arange(len(self.prices), device=self.taken.device), self.level_before.unsqueeze(2)
        sold, declined = (self._by_slot(fields[name]).unsqueeze(2) for name in ("sold_now", "declined"))
        for counts, seen in ((self.taken, sold * (levels <= posted)), (self.left, declined * (levels >= posted))):
            counts.copy_(torch.where(begins, 1.0, counts + seen))

    def price(self, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        total = self.taken + self.left
        mean = self.taken / total
        deviation = (mean * (1 - mean) / (total + 1)).sqrt()
        keys = stream(self.seat.keys, "thompson", cycle_of(fields, self.seat))
        draws = torch.special.ndtri(uniform(keys, mean[0].numel()).clamp_min(1e-12)).view_as(mean)
        revenue: Tensor = self.prices * (mean + deviation * draws).clamp(0, 1)
        return revenue.argmax(2)


def _best_good(of_goods: Tensor, fields: Fields) -> Tensor:
    """What each other agent has of the best of the own parameter sets, at least 0: ``[B, N-1]``, float64."""
    by_buyer: Tensor = of_goods.unflatten(1, (fields["sold_now"].shape[1], -1))
    best: Tensor = by_buyer.amax(2).clamp_min(0).double()
    return best


def _require_told(seat: Seat, rule: str, field: str, disclosure: str) -> None:
    """Raise ``ValueError`` if the market does not disclose what a rule lives on."""
    if field not in seat.layout.slices:
        has = f"this market has disclosure={seat.disclosure!r}"
        raise ValueError(f"pricing={rule!r} cannot play here: it needs disclosure={disclosure!r}, {has}")


def _require_mechanism(seat: Seat, rule: str, mechanism: str) -> None:
    """Raise ``ValueError`` if a rule cannot play the market's mechanism."""
    if seat.mechanism != mechanism:
        has = f"this market has mechanism={seat.mechanism!r}"
        raise ValueError(f"pricing={rule!r} cannot play here: it needs mechanism={mechanism!r}, {has}")


PricingFactory = Callable[[Seat], PricingRule]

PRICING: dict[str, PricingFactory] = {
    "fixed": Fixed,
    "random": RandomPrice,
    "cost-plus": CostPlus,
    "bayesian": Bayesian,
    "rival-aware": RivalAware,
    "history": History,
    "bounds": Bounds,
    "thompson": Thompson,
    "omniscient": Omniscient,
}


def pricing_factory(name: str) -> PricingFactory:
    """The pricing rule of that name; ``fixed:L`` posts level L.

    ``file:PATH.py`` is what the function ``pricing(seat)`` of that file returns, which is executed: only name files
    that you trust.
    """
    if name.startswith(FILE):
        return from_file(name.removeprefix(FILE), "pricing")
    rule, colon, level = name.partition(":")
    factory: PricingFactory = lookup(PRICING, rule, "pricing rule")
    if not colon:
        return factory
    allowed = "a pricing rule's name, or fixed:L with the number L of a level"
    require(rule == "fixed" and level.isdecimal(), "pricing", name, allowed)
    return partial(Fixed, level=int(level))
