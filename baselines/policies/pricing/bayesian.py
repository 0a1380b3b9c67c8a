"""Bayesian sellers: pricing rules that post the price that is optimal for a belief about the buyers' values."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from baselines.policies.pricing.rule import PRICING, Fields, Memory, PricingRule, posted_levels, rival_cost
from paramarket_env.economics.mechanisms import Posted
from paramarket_env.economics.pricing import (
    bayesian_price,
    drift,
    survival,
    uniform_belief,
    uniform_survival,
    update_belief,
)
from paramarket_env.interface.policy import Seat
from paramarket_env.validation import configuration

Probability = Annotated[float, Field(ge=0, le=1)]


class OptimalPrice(PricingRule):
    """Posts the price that is optimal for the buyers' values as the seller knows them (Myerson 1981)."""

    @abstractmethod
    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """The chance that each buyer values a purchase at each level or more, float64 ``[B, N-1, L]``."""

    def cost(self, seat: Seat, fields: Fields) -> Tensor | float:
        """The reward that a sale costs the seller, a number or ``[B, 1]``."""
        return 0.0

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`: one ask for all is for a buyer drawn among them."""
        chance = self.survival(seat, memory, fields)
        one_for_all = seat.actions.choices.ask_slots == 1
        chance = chance.mean(1, keepdim=True) if one_for_all else chance
        return bayesian_price(chance, seat.prices, self.cost(seat, fields))


@PRICING.register
@configuration
class Bayesian(OptimalPrice):
    """The paper's seller: filters a belief about each buyer's value from its sales and refusals.

    The belief starts uniform over the levels. Between steps the value drifts, since gains change as networks learn.
    """

    spread: Probability = 0.5
    """The chance that a value has moved to a neighbouring level since the last step."""
    jump: Probability = 0.01
    """The chance that it is anywhere."""
    attention: Probability = 0.7
    """The chance that a buyer who could gain buys: at other times it is busy, with another seller or with training."""

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: the ``belief``, float64 ``[b, N-1, L+1]``."""
        return {"belief": uniform_belief((len(keys), seat.num_agents - 1), len(seat.prices), seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`: each outcome is a censored observation of a value."""
        learned = update_belief(memory["belief"], *self.outcomes(seat, before, now), self.attention)
        return {"belief": drift(learned, self.spread, self.jump)}

    def outcomes(self, seat: Seat, before: Fields, now: Fields) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, sales and refusals of the last step, for each buyer: ``[B, N-1, O]``."""
        sold, refused = now["sold_now"].unsqueeze(2), now["declined"].unsqueeze(2)
        return _levels_for_buyers(seat, before).unsqueeze(2), sold, refused

    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`OptimalPrice.survival`."""
        return survival(memory["belief"])


@PRICING.register
@configuration
class RivalAware(Bayesian):
    """The Bayesian seller that counts the gain of its rivals as the cost of selling to them."""

    def cost(self, seat: Seat, fields: Fields) -> Tensor | float:
        """See :meth:`OptimalPrice.cost`."""
        return rival_cost(seat, fields).unsqueeze(1)


@PRICING.register
@configuration
class History(Bayesian):
    """The Bayesian seller that learns from everybody's sales and refusals, as they are public, not its own alone.

    The buyer of another seller is not told, so the other's sales count as a share of a sale to each buyer. The seat's
    own purchases tell nothing of the buyers.
    """

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        posted = isinstance(seat.mechanism, Posted) and not seat.mechanism.personal
        _require("history", "mechanism", seat.mechanism, "posted", met=posted)
        _require_disclosure("history", seat, "trades_now", "transactions")

    def outcomes(self, seat: Seat, before: Fields, now: Fields) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Bayesian.outcomes`: its own outcome, and one of each other seller."""
        asked, stood = _asks_of_others(seat, before)
        third_parties = seat.num_agents - 2
        share = sales_to_third_parties(now) / max(third_parties, 1)
        others = asked, share, (1 - share) * stood * min(third_parties, 1)
        level, sold, refused = (
            torch.cat([mine, theirs.unsqueeze(1).expand(-1, mine.shape[1], -1)], dim=2)
            for mine, theirs in zip(super().outcomes(seat, before, now), others, strict=True)
        )
        return level, sold, refused


@PRICING.register
@configuration
class Bounds(OptimalPrice):
    """The Bayesian seller that is told bounds on each buyer's gain, and learns what a nat is worth to that buyer.

    A value is kappa times a gain that lies anywhere between the bounds. The belief is about kappa, a histogram over the
    range that kappa can have; it starts uniform.
    """

    grid: Annotated[int, Field(ge=2)] = 32
    """The number of bins of the histogram."""
    jump: Probability = 0.02
    """The chance that kappa is anywhere."""
    attention: Probability = 0.7
    """See :class:`Bayesian`."""

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        _require_disclosure("bounds", seat, "gain_low", "bounds")

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: the ``belief``, float64 ``[b, N-1, grid]``."""
        return {"belief": uniform_belief((len(keys), seat.num_agents - 1), self.grid - 1, seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`: an outcome speaks for the kappa at which it was to be expected."""
        posted = seat.prices[_levels_for_buyers(seat, before).clamp_max(len(seat.prices) - 1)]
        taken = self.attention * self._survival(seat, before, posted[:, :, None, None]).squeeze(3)
        sold, declined = (now[name].unsqueeze(2) > 0 for name in ("sold_now", "declined"))
        likelihood = torch.where(sold, taken.clamp_min(1e-3), torch.where(declined, 1 - taken, 1.0))
        likely = memory["belief"] * likelihood
        return {"belief": drift(likely / likely.sum(2, keepdim=True), spread=0.0, jump=self.jump)}

    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`OptimalPrice.survival`."""
        return (memory["belief"].unsqueeze(3) * self._survival(seat, fields, seat.prices)).sum(2)

    def kappas(self, seat: Seat) -> Tensor:
        """The kappa of each bin, float64 ``[grid]``."""
        return torch.linspace(*seat.kappa_range, self.grid, dtype=torch.float64, device=seat.device)

    def _survival(self, seat: Seat, fields: Fields, prices: Tensor) -> Tensor:
        """The chance that a value is at least each price, given the kappa of each bin: ``[B, N-1, grid, P]``.

        ``prices`` ``[P]``, or ``[B, N-1, 1, P]``: other ones for each buyer.
        """
        low, high = (_of_best_good(fields[name], seat).unsqueeze(2) for name in ("gain_low", "gain_high"))
        kappas = self.kappas(seat)
        return uniform_survival(low * kappas, high * kappas, prices)


@PRICING.register
@configuration
class Omniscient(OptimalPrice):
    """Posts the price that is optimal for the buyers' true values: the upper bound of what a seller can know."""

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        _require_disclosure("omniscient", seat, "buyer_value", "full")

    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`OptimalPrice.survival`."""
        return (_of_best_good(fields["buyer_value"], seat).unsqueeze(2) >= seat.prices).double()


# --- what they compute from an observation, and require of a market --------------------------------------------------


def sales_to_third_parties(fields: Fields) -> Tensor:
    """The sales of each other agent in the last step, but for those to this one, ``[B, N-1]``.

    Where several sold, this one does not see which of them it bought from: a share of its purchase counts for each.
    """
    sold = fields["trades_now"]
    sellers = (sold > 0).sum(1, keepdim=True).clamp_min(1)
    return sold - (sold > 0) * (fields["since_purchase"] == 0) / sellers


def _levels_for_buyers(seat: Seat, fields: Fields) -> Tensor:
    """The level that stands for each buyer, int64 ``[B, N-1]``."""
    return posted_levels(seat, fields).expand(-1, seat.num_agents - 1)


def _asks_of_others(seat: Seat, fields: Fields) -> tuple[Tensor, Tensor]:
    """The others' levels, one for all that a seller sells, and whether they stand: int64 ``[B, N-1]`` each."""
    price, legal = (fields[name].unflatten(1, (seat.num_agents - 1, -1)) for name in ("offer_price", "offer_legal"))
    return (price[..., :1] - seat.prices).abs().argmin(dim=2), (legal > 0).any(2).long()


def _of_best_good(of_goods: Tensor, seat: Seat) -> Tensor:
    """Each buyer's figure for the best of the seller's parameter sets, at least 0: float64 ``[B, N-1]``."""
    best: Tensor = of_goods.unflatten(1, (seat.num_agents - 1, -1)).amax(2).clamp_min(0).double()
    return best


def _require_disclosure(rule: str, seat: Seat, field: str, disclosure: str) -> None:
    """Raise ``ValueError`` if the market does not disclose a field that a rule needs."""
    _require(rule, "disclosure", seat.disclosure, disclosure, met=field in seat.layout.slices)


def _require(rule: str, setting: str, value: object, needed: str, *, met: bool) -> None:
    if not met:
        has = f"this market has {setting}={value!r}"
        raise ValueError(f"pricing={rule!r} cannot play here: it needs {setting}={needed!r}, {has}")
