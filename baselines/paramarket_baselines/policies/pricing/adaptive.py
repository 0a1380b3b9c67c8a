"""Pricing rules that answer what the other firms do, without a belief about them."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_baselines.policies.pricing.rule import PRICING, Fields, Memory, PricingRule, by_ask
from paramarket_env.interface.policy import Seat
from paramarket_env.validation import configuration


@PRICING.register
@configuration
class Ratchet(PricingRule):
    """Asks one level more after each step with a sale, and one less after each step in which a buyer declined."""

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`."""
        sold = by_ask(seat, now["sold_now"]) > 0
        declined = by_ask(seat, now["declined"]) > 0
        wanted = memory["level"] + sold.long() - (declined & ~sold).long()
        return {"level": wanted.clamp(0, len(seat.prices) - 1)}

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """See :meth:`PricingRule.memory`: the ``level``, int64 ``[b, S]``, which begins in the middle."""
        shape = len(keys), seat.actions.choices.ask_slots
        return {"level": torch.full(shape, (len(seat.prices) - 1) // 2, dtype=torch.int64, device=seat.device)}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        return memory["level"]


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
        return {"bought": torch.zeros(len(keys), 1, device=seat.device)}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """See :meth:`PricingRule.learn`."""
        return {"bought": memory["bought"] + (now["since_purchase"] == 0)}

    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """See :meth:`PricingRule.price`."""
        middle, withheld = (len(seat.prices) - 1) // 2, len(seat.prices)
        asked = torch.where(fields["sold"] > memory["bought"], withheld, middle)
        return asked.expand(-1, seat.actions.choices.ask_slots)
