"""The interface of pricing rules, and the class that plays a rule in a seat."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from paramarket_env.interface.actions import VerbActions
from paramarket_env.interface.policy import Seat
from paramarket_env.plugins import Registry

Fields = dict[str, Tensor]
"""An observation by field name, ``[B, size]`` each."""

Memory = dict[str, Tensor]
"""The memory of a pricing rule: tensors by name, ``[B, ...]`` each."""

VERB_POSTING_PERIOD = 8
"""The posting period in ``verb`` mode, in cycles. A posting takes a step there, so it is infrequent."""


class PricingRule(ABC):
    """A rule for the asks of a seller. The rule is a frozen configuration; what it learns is in a memory outside of it.

    A rule plays B markets at once. A seller meets k buyers in a step. It has S asks, one for all buyers or one for
    each, and chooses among L prices. A *level* is the index of a price; level L withholds.
    """

    def require_playable(self, seat: Seat) -> None:  # noqa: B027  # most rules play every market
        """Raise ``ValueError`` if the rule cannot play in this seat's market."""

    def posting_period(self, seat: Seat) -> int:
        """The cycles between two postings: 1 in ``round`` mode, ``VERB_POSTING_PERIOD`` in ``verb`` mode."""
        return VERB_POSTING_PERIOD if isinstance(seat.actions, VerbActions) else 1

    def memory(self, seat: Seat, keys: Tensor) -> Memory:
        """The memory at the start of b episodes, ``[b, ...]`` each.

        ``keys``, int64 ``[b]``, are the episodes' streams of random numbers. Rules that draw keep them in the memory.
        """
        return {}

    def learn(self, seat: Seat, memory: Memory, before: Fields, now: Fields) -> Memory:
        """The memory after a step, given the observations ``before`` the step and ``now``."""
        return memory

    @abstractmethod
    def price(self, seat: Seat, memory: Memory, fields: Fields) -> Tensor:
        """The levels that the seller should ask now, int64 ``[B, S]``."""


PRICING: Registry[PricingRule] = Registry("pricing rule", PricingRule, attribute="pricing")
"""The pricing rules by name."""


class Seller:
    """A pricing rule in a seat. It learns in every step, and posts levels that differ from the current ones."""

    def __init__(self, seat: Seat, rule: PricingRule) -> None:
        rule.require_playable(seat)
        self.seat, self.rule = seat, rule
        rows = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)
        self.memory = rule.memory(seat, rows)
        self._before = seat.layout.unpack(
            torch.zeros(seat.num_markets, seat.layout.size, dtype=torch.float32, device=seat.device)
        )
        self._begins = torch.ones_like(rows, dtype=torch.bool)

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        fresh = self.rule.memory(self.seat, keys)
        self.memory = {name: kept.index_copy(0, rows, fresh[name]) for name, kept in self.memory.items()}
        self._begins = self._begins.index_fill(0, rows, True)

    def ask(self, fields: Fields) -> Tensor:
        """The levels to post, or -1 to leave an ask unchanged: int64 ``[B, S]``.

        An ask stays as it is once all its buyers have failed.
        """
        self._learn(fields)
        posted, wanted = posted_levels(self.seat, fields), self.rule.price(self.seat, self.memory, fields)
        in_turn = (cycle_of(fields, self.seat) % self.rule.posting_period(self.seat) == 0).unsqueeze(1)
        has_buyers = by_ask(self.seat, fields["alive"]) > 0
        return torch.where(in_turn & has_buyers & (wanted != posted), wanted, -1)

    def _learn(self, fields: Fields) -> None:
        """Learn from the last step, except in rows whose episodes begin now: they have no last step."""
        learned = self.rule.learn(self.seat, self.memory, self._before, fields)
        self.memory = {name: _choose(self._begins, kept, learned[name]) for name, kept in self.memory.items()}
        self._before, self._begins = fields, torch.zeros_like(self._begins)


def _choose(rows: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
    """The tensor ``there``, ``[B, ...]``, in the ``rows``, bool ``[B]``, and ``elsewhere`` in the others."""
    return torch.where(rows.view(-1, *(1,) * (there.dim() - 1)), there, elsewhere)


# --- helpers: computations on observations ---------------------------------------------------------------------------


def cycle_of(fields: Fields, seat: Seat) -> Tensor:
    """The cycle of an observation, int64 ``[B]``."""
    return ((1 - fields["time_left"].squeeze(-1)) * seat.max_cycles).round().long()


def posted_levels(seat: Seat, fields: Fields) -> Tensor:
    """The levels of the current asks, int64 ``[B, S]``; L for a withheld one."""
    level = (fields["ask"].unsqueeze(2) - seat.prices).abs().argmin(dim=2)
    return torch.where(fields["selling"] > 0, level, len(seat.prices))


def by_ask(seat: Seat, figures: Tensor) -> Tensor:
    """Figures of each buyer, ``[B, k, ...]``, summed over the buyers of each ask: ``[B, S, ...]``."""
    return figures if seat.actions.choices.ask_slots > 1 else figures.sum(1, keepdim=True)


def about_the_next(seat: Seat, learned: Tensor) -> Tensor:
    """The knowledge about the next buyers, ``[B, k, ...]``, from that about the last ones.

    If partners change, the next buyers are others. The best guess about each of them is then the mean over the last
    ones: the predictive recursion for the distribution of all buyers (Newton 2002).
    """
    return learned if seat.meets_everybody else learned.mean(1, keepdim=True).expand_as(learned)


def rival_cost(seat: Seat, fields: Fields) -> Tensor:
    """The cost of a sale to the seller through rivalry, in units of reward, float64 ``[B]``.

    Each nat that the buyer gains costs rivalry / (N - 1). The seller does not observe that gain. It uses its own
    largest quoted gain instead, since both are gains from merging the same two networks.
    """
    gain = fields["offer_gain"].amax(1).clamp_min(0).double()
    return gain * seat.rivalry / (seat.num_agents - 1)
