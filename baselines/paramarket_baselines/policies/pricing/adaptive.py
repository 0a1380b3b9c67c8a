"""Pricing rules that answer what the other firms do, without a belief about them."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_baselines.policies.pricing.rule import PRICING, Fields, Memory, PricingRule, about_the_next, by_ask
from paramarket_env.interface.policy import Seat
from paramarket_env.validation import configuration


@PRICING.register
@configuration
class Ratchet(PricingRule):
    """Begins in the middle, and asks one level more for each sale and one less for each time that a buyer declined."""

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: each buyer's ``steps`` upwards, float32 ``[b, k]``."""
        return {"steps": torch.zeros(len(keys), seat.num_partners, dtype=torch.float32, device=seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`."""
        return {"steps": about_the_next(seat, memory["steps"] + now["sold_now"] - now["declined"])}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        top = len(seat.prices) - 1
        steps = by_ask(seat, memory["steps"] * fields["alive"])
        return (top // 2 + steps.round().long()).clamp(0, top)


@PRICING.register
@configuration
class Mirror(PricingRule):
    """Asks what it is asked: the lowest price of the others, or withholds while none of them sells."""

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        offered = fields["offer_legal"] > 0
        price = fields.get("offer_price", torch.zeros_like(fields["offer_gain"]))
        lowest = price.masked_fill(~offered, torch.inf).amin(1, keepdim=True)
        level = (lowest.unsqueeze(2) - seat.prices).abs().argmin(dim=2)
        asked = torch.where(offered.any(1, keepdim=True), level, len(seat.prices))
        return asked.expand(-1, seat.actions.choices.ask_slots)


@PRICING.register
@configuration
class Reciprocal(PricingRule):
    """Withholds while more parameters have been bought of it than it has bought; otherwise it asks the middle level."""

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: the number of purchases so far, ``bought``, float32 ``[b, 1]``."""
        return {"bought": torch.zeros(len(keys), 1, dtype=torch.float32, device=seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`."""
        return {"bought": memory["bought"] + (now["since_purchase"] == 0)}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        middle, withheld = (len(seat.prices) - 1) // 2, len(seat.prices)
        asked = torch.where(fields["sold"] > memory["bought"], withheld, middle)
        return asked.expand(-1, seat.actions.choices.ask_slots)
