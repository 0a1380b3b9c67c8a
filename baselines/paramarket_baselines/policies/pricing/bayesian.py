"""Bayesian sellers: pricing rules that post the optimal price for a belief about the buyers' values."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from paramarket_baselines.policies.pricing.rule import (
    PRICING,
    Fields,
    Memory,
    PricingRule,
    about_the_next,
    by_ask,
    posted_levels,
    rival_cost,
)
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
    """Posts the optimal price for what the seller knows about the buyers' values (Myerson 1981)."""

    @abstractmethod
    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """The probability that each buyer's value is at least each price, float64 ``[B, k, L]``."""

    def cost(self, seat: Seat, fields: Fields) -> Tensor | float:
        """The cost of a sale to the seller in units of reward, a number or ``[B, 1]``."""
        return 0.0

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`. An ask for all buyers is optimal for the expected sales to those alive."""
        sales = self.survival(seat, memory, fields) * fields["alive"].unsqueeze(2)
        return bayesian_price(by_ask(seat, sales), seat.prices, self.cost(seat, fields))


@PRICING.register
@configuration
class Bayesian(OptimalPrice):
    """The paper's seller: filters a belief about each buyer's value from its sales and refusals.

    The belief starts uniform over the levels. Between steps the values drift, since gains change as networks learn.
    """

    spread: Probability = 0.5
    """The probability that a value has moved to a neighbouring level since the last step."""
    jump: Probability = 0.01
    """The probability that a value has jumped to any level since the last step."""
    attention: Probability = 0.7
    """The probability that a buyer buys if its value is at least the price. Otherwise it trains or buys elsewhere."""

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: the ``belief``, float64 ``[b, k, L+1]``."""
        return {"belief": uniform_belief((len(keys), seat.num_partners), len(seat.prices), seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`: each outcome is a censored observation of a value."""
        learned = update_belief(memory["belief"], *self.outcomes(seat, before, now), self.attention)
        return {"belief": drift(about_the_next(seat, learned), self.spread, self.jump)}

    def outcomes(self, seat: Seat, before: Fields, now: Fields) -> tuple[Tensor, Tensor, Tensor]:
        """Levels, sales and refusals of the last step for each buyer, ``[B, k, O]`` each."""
        sold, refused = now["sold_now"].unsqueeze(2), now["declined"].unsqueeze(2)
        return _levels_for_buyers(seat, before).unsqueeze(2), sold, refused

    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`OptimalPrice.survival`."""
        return survival(memory["belief"])


@PRICING.register
@configuration
class RivalAware(Bayesian):
    """The Bayesian seller that counts its rivals' gains as the cost of selling to them."""

    def cost(self, seat: Seat, fields: Fields) -> Tensor | float:
        """See :meth:`OptimalPrice.cost`."""
        return rival_cost(seat, fields).unsqueeze(1)


@PRICING.register
@configuration
class History(Bayesian):
    """The Bayesian seller that also learns from the other sellers' sales and refusals, which are public.

    The market does not disclose the buyers of other sellers, so each of their sales counts as a share of a sale to each
    buyer. The seat's own purchases carry no information about the buyers. If partners change, the seller meets the
    others only after their sales, and takes the asks that it sees then for those of the last step.
    """

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        posted = isinstance(seat.mechanism, Posted) and not seat.mechanism.personal
        _require("history", "mechanism", seat.mechanism, "posted", met=posted)
        _require_disclosure("history", seat, "trades_now", "transactions")

    def outcomes(self, seat: Seat, before: Fields, now: Fields) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Bayesian.outcomes`: the seller's own outcome, and one for each other seller."""
        level, sold, refused = (
            torch.cat([mine, theirs.unsqueeze(1).expand(-1, mine.shape[1], -1)], dim=2)
            for mine, theirs in zip(
                super().outcomes(seat, before, now), _outcomes_of_others(seat, before, now), strict=True
            )
        )
        return level, sold, refused


@PRICING.register
@configuration
class Bounds(OptimalPrice):
    """The Bayesian seller that observes bounds on each buyer's gain, and learns that buyer's kappa.

    A value is kappa times a gain that is uniform between the bounds. The belief is a histogram over the range of kappa;
    it starts uniform.
    """

    grid: Annotated[int, Field(ge=2, le=1000)] = 32
    """The number of bins of the histogram."""
    jump: Probability = 0.02
    """The probability that kappa has jumped to any bin since the last step."""
    attention: Probability = 0.7
    """See :class:`Bayesian`."""

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        _require_disclosure("bounds", seat, "gain_low", "bounds")

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: the ``belief``, float64 ``[b, k, grid]``."""
        return {"belief": uniform_belief((len(keys), seat.num_partners), self.grid - 1, seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`: an outcome makes those kappas more probable under which it was likely."""
        posted = seat.prices[_levels_for_buyers(seat, before).clamp_max(len(seat.prices) - 1)]
        taken = self.attention * self._survival(seat, before, posted[:, :, None, None]).squeeze(3)
        sold, declined = (now[name].unsqueeze(2) > 0 for name in ("sold_now", "declined"))
        likelihood = torch.where(sold, taken.clamp_min(1e-3), torch.where(declined, 1 - taken, 1.0))
        likely = memory["belief"] * likelihood
        learned = about_the_next(seat, likely / likely.sum(2, keepdim=True))
        return {"belief": drift(learned, spread=0.0, jump=self.jump)}

    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`OptimalPrice.survival`."""
        return (memory["belief"].unsqueeze(3) * self._survival(seat, fields, seat.prices)).sum(2)

    def kappas(self, seat: Seat) -> Tensor:
        """The kappa of each bin, float64 ``[grid]``."""
        return torch.linspace(*seat.kappa_range, self.grid, dtype=torch.float64, device=seat.device)

    def _survival(self, seat: Seat, fields: Fields, prices: Tensor) -> Tensor:
        """The probability that a value is at least each price, given the kappa of each bin: ``[B, k, grid, L]``.

        ``prices`` is ``[L]``, or ``[B, k, 1, 1]`` for one price per buyer; the result's last axis is then 1.
        """
        low, high = (_best_over_goods(fields[name], seat).unsqueeze(2) for name in ("gain_low", "gain_high"))
        kappas = self.kappas(seat)
        return uniform_survival(low * kappas, high * kappas, prices)


@PRICING.register
@configuration
class Omniscient(OptimalPrice):
    """Posts the optimal price for the buyers' true values: an upper bound on what a seller can know."""

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        _require_disclosure("omniscient", seat, "buyer_value", "full")

    def survival(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`OptimalPrice.survival`."""
        return (_best_over_goods(fields["buyer_value"], seat).unsqueeze(2) >= seat.prices).double()


# --- helpers: computations on observations, and requirements on the market -------------------------------------------


def _outcomes_of_others(seat: Seat, before: Fields, now: Fields) -> tuple[Tensor, Tensor, Tensor]:
    """The level of each other seller in the last step, and its sales and refusals per buyer: ``[B, k]`` each."""
    if seat.meets_everybody:
        asked, stood = _asks_of_others(seat, before)
        sales, buyers = sales_to_third_parties(now), _third_parties(before)
    else:
        asked, stood = _asks_of_others(seat, now)
        stood, sales = stood * before["market_open"], now["trades_now"]
        buyers = torch.full_like(sales, seat.num_partners)
    share = sales / buyers.clamp_min(1)
    return asked, share, (1 - share) * stood * (buyers > 0)


def sales_to_third_parties(fields: Fields) -> Tensor:
    """The sales of each other agent to agents other than this one in the last step, ``[B, k]``.

    If several agents sold, this one does not see from which it bought, so its purchase counts in equal shares for each.
    """
    sold = fields["trades_now"]
    sellers = (sold > 0).sum(1, keepdim=True).clamp_min(1)
    return sold - (sold > 0) * (fields["since_purchase"] == 0) / sellers


def _third_parties(fields: Fields) -> Tensor:
    """The number of living agents besides this one that can buy of each other agent, ``[B, k]``."""
    alive = fields["alive"]
    return alive.sum(1, keepdim=True) - alive


def _levels_for_buyers(seat: Seat, fields: Fields) -> Tensor:
    """The level of the current ask for each buyer, int64 ``[B, k]``."""
    return posted_levels(seat, fields).expand(-1, seat.num_partners)


def _asks_of_others(seat: Seat, fields: Fields) -> tuple[Tensor, Tensor]:
    """The level of each other seller, one for all its goods, and whether it sells now: int64 ``[B, k]`` each."""
    price, legal = (fields[name].unflatten(1, (seat.num_partners, -1)) for name in ("offer_price", "offer_legal"))
    return (price[..., :1] - seat.prices).abs().argmin(dim=2), (legal > 0).any(2).long()


def _best_over_goods(figures: Tensor, seat: Seat) -> Tensor:
    """The maximum over the seller's parameter sets for each buyer, at least 0: float64 ``[B, k]``."""
    best: Tensor = figures.unflatten(1, (seat.num_partners, -1)).amax(2).clamp_min(0).double()
    return best


def _require_disclosure(rule: str, seat: Seat, field: str, disclosure: str) -> None:
    """Raise ``ValueError`` if the market does not disclose a field that a rule needs."""
    _require(rule, "disclosure", seat.disclosure, disclosure, met=field in seat.layout.slices)


def _require(rule: str, setting: str, value: object, needed: str, *, met: bool) -> None:
    if not met:
        has = f"this market has {setting}={value!r}"
        raise ValueError(f"pricing={rule!r} cannot play here: it needs {setting}={needed!r}, {has}")
