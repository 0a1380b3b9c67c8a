"""Pricing rules without a belief about the buyers' values."""

from __future__ import annotations

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
    cycle_of,
    posted_levels,
    rival_cost,
)
from paramarket_env.interface.policy import Seat
from paramarket_env.seeding import stream, uniform
from paramarket_env.validation import INT64_MAX, configuration, require


@PRICING.register
@configuration
class Fixed(PricingRule):
    """Posts one level and keeps it: ``level``, or the middle one if that is None."""

    level: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None

    def require_playable(self, seat: Seat) -> None:
        """See :meth:`PricingRule.require_playable`."""
        top = len(seat.prices) - 1
        require(self.level is None or self.level <= top, "fixed.level", self.level, f"from 0 to {top} in this market")

    def posting_period(self, seat: Seat) -> int:
        """Always 1, since the rule posts only once."""
        return 1

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        level = (len(seat.prices) - 1) // 2 if self.level is None else self.level
        return torch.full_like(fields["ask"], level, dtype=torch.int64)


@configuration
class RandomPrice(PricingRule):
    """Draws a level uniformly at each posting."""

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`."""
        return {"keys": keys}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        keys = stream(memory["keys"], "random price", cycle_of(fields, seat))
        return (uniform(keys, seat.actions.choices.ask_slots) * len(seat.prices)).long()


PRICING.register(RandomPrice, "random")


@PRICING.register
@configuration
class CostPlus(PricingRule):
    """Asks the cost of a sale to the seller (a training pass, and the buyer's gain through rivalry) plus a markup."""

    markup: Annotated[float, Field(ge=0, le=1e6)] = 0.5

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`: the lowest level that covers cost and markup, or withheld."""
        price = (1 + self.markup) * (seat.train_cost + rival_cost(seat, fields))
        level = torch.searchsorted(seat.prices, price.double().contiguous())
        return level.unsqueeze(1).expand(-1, seat.actions.choices.ask_slots)


@PRICING.register
@configuration
class LinearAsk(PricingRule):
    """Asks 2/3 of its cost + 1/4, if the cost of a sale is its own kappa: the seller of `known-double-auction`.

    Source: Chatterjee and Samuelson, *Bargaining under incomplete information*, 1983.
    """

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`: the lowest level that is at least this ask, or withheld."""
        level = torch.searchsorted(seat.prices, 2 / 3 * fields["kappa"].double() + 1 / 4)
        return level.expand(-1, seat.actions.choices.ask_slots)


@PRICING.register
@configuration
class Thompson(PricingRule):
    """A bandit over the levels (Thompson sampling): posts the level with the largest sampled revenue.

    The share of buyers that accept a level has a Beta posterior, which is sampled by its normal approximation. A sale
    counts as one at every lower level too, and a refusal as one at every higher level. Only living buyers count.
    """

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: ``taken`` and ``left``, ``[b, k, L]``, count each buyer's answers."""
        shape = len(keys), seat.num_partners, len(seat.prices)
        counts = torch.zeros(shape, dtype=torch.float64, device=seat.device)
        return {"keys": keys, "taken": counts, "left": counts}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`."""
        levels = torch.arange(len(seat.prices), device=seat.device)
        posted = posted_levels(seat, before).unsqueeze(2)
        sold, declined = (now[name].unsqueeze(2) for name in ("sold_now", "declined"))
        taken = memory["taken"] + sold * (levels <= posted)
        left = memory["left"] + declined * (levels >= posted)
        return memory | {"taken": about_the_next(seat, taken), "left": about_the_next(seat, left)}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        alive = fields["alive"].unsqueeze(2)
        taken, left = (1 + by_ask(seat, memory[name] * alive) for name in ("taken", "left"))
        total = taken + left
        mean = taken / total
        deviation = (mean * (1 - mean) / (total + 1)).sqrt()
        keys = stream(memory["keys"], "thompson", cycle_of(fields, seat))
        draws = torch.special.ndtri(uniform(keys, mean[0].numel()).clamp_min(1e-12)).view_as(mean)
        revenue: Tensor = seat.prices * (mean + deviation * draws).clamp(0, 1)
        return revenue.argmax(2)
