"""The interface of pricing rules, and how a rule plays a seat."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from paramarket_env.interface.actions import VerbActions
from paramarket_env.interface.policy import Seat
from paramarket_env.plugins import Registry

Fields = dict[str, Tensor]
"""The observation by field name, ``[B, size]`` each."""

Memory = dict[str, Tensor]
"""What a pricing rule remembers, by name, ``[B, ...]`` each."""

VERB_POSTING_PERIOD = 8
"""In ``verb`` mode a posting takes a step, so an ask is reconsidered only once in so many cycles."""


class PricingRule(ABC):
    """A rule for the asks of a seller. A rule is a frozen configuration: what it learns is in a memory outside of it.

    A rule plays B markets at once. A seller has S asks, one for all buyers or one for each of the N - 1, and L prices
    to choose from. A *level* is the index of a price; level L withholds.
    """

    def require_playable(self, seat: Seat) -> None:  # noqa: B027  # most rules play every market
        """Raise ``ValueError`` if the rule cannot play in this seat's market."""

    def posting_period(self, seat: Seat) -> int:
        """The cycles from one posting to the next: 1 in rounds, ``VERB_POSTING_PERIOD`` with one verb a step."""
        return VERB_POSTING_PERIOD if isinstance(seat.actions, VerbActions) else 1

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """The memory at the beginning of b episodes, ``[b, ...]`` each.

        ``keys`` int64 ``[b]`` are their streams of random numbers; a rule that draws keeps them in its memory.
        """
        return {}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """The memory after a step, of what was observed ``before`` it and is observed ``now``."""
        return memory

    @abstractmethod
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """The best levels now, int64 ``[B, S]``."""


PRICING: Registry[PricingRule] = Registry("pricing rule", PricingRule, attribute="pricing")
"""The pricing rules by name."""


class Seller:
    """A pricing rule in a seat: it learns in every step, and posts levels that differ from those that stand."""

    def __init__(self, seat: Seat, rule: PricingRule) -> None:
        rule.require_playable(seat)
        self.seat, self.rule = seat, rule
        rows = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)
        self.memory = rule.memory(seat, rows)
        self._before = seat.layout.unpack(torch.zeros(seat.num_markets, seat.layout.size, device=seat.device))
        self._begins = torch.ones_like(rows, dtype=torch.bool)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        fresh = self.rule.memory(self.seat, keys)
        self.memory = {name: kept.index_copy(0, rows, fresh[name]) for name, kept in self.memory.items()}
        self._begins = self._begins.index_fill(0, rows, True)

    def ask(self, fields: Fields) -> Tensor:
        """The levels to post, or -1 to leave an ask as it is: int64 ``[B, S]``."""
        self._learn(fields)
        posted, wanted = posted_levels(self.seat, fields), self.rule.price(self.seat, self.memory, fields)
        in_turn = (cycle_of(fields, self.seat) % self.rule.posting_period(self.seat) == 0).unsqueeze(1)
        return torch.where(in_turn & (wanted != posted), wanted, -1)

    def _learn(self, fields: Fields) -> None:
        """Learn from the last step, but in the rows whose episodes begin: they have had none."""
        learned = self.rule.learn(self.seat, self.memory, self._before, fields)
        self.memory = {name: _choose(self._begins, kept, learned[name]) for name, kept in self.memory.items()}
        self._before, self._begins = fields, torch.zeros_like(self._begins)


def _choose(rows: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
    """The one tensor ``[B, ...]`` in the rows, bool ``[B]``, and the other in the rest."""
    return torch.where(rows.view(-1, *(1,) * (there.dim() - 1)), there, elsewhere)


# --- what rules compute from an observation --------------------------------------------------------------------------


def cycle_of(fields: Fields, seat: Seat) -> Tensor:
    """The cycle that an observation is of, int64 ``[B]``."""
    return ((1 - fields["time_left"].squeeze(-1)) * seat.max_cycles).round().long()


def posted_levels(seat: Seat, fields: Fields) -> Tensor:
    """The levels of the asks that stand, int64 ``[B, S]``; L for one that is withheld."""
    level = (fields["ask"].unsqueeze(2) - seat.prices).abs().argmin(dim=2)
    return torch.where(fields["selling"] > 0, level, len(seat.prices))


def by_ask(seat: Seat, of_buyers: Tensor) -> Tensor:
    """A figure of each buyer, ``[B, N-1]``, summed over the buyers that an ask is for: ``[B, S]``."""
    return of_buyers if seat.actions.choices.ask_slots > 1 else of_buyers.sum(1, keepdim=True)


def rival_cost(seat: Seat, fields: Fields) -> Tensor:
    """The reward that a sale costs the seller by rivalry, float64 ``[B]``.

    A buyer's gain costs rivalry / (N - 1) for each nat. The seller does not see that gain. Its own largest quoted gain
    stands for it, as both are gains from mixing the same two networks.
    """
    gain = fields["offer_gain"].amax(1).clamp_min(0).double()
    return gain * seat.rivalry / (seat.num_agents - 1)
