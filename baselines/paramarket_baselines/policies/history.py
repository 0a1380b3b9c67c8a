"""The memory of an episode: features that are appended to an agent's observation.

An observation says what happened in the last step. Against an unknown opponent an agent must also know what happened
before: at which prices each partner has bought or declined, what it asked, and how its offers have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paramarket_env.interface.observations import ObservationLayout

Memory = dict[str, Tensor]
"""The features by name, and ``before``, the last observation: float32 ``[B, size]`` each."""

PRICES = ("bought_at", "declined_at", "lowest_price", "highest_price")
"""The features that are prices, in units of reward."""

NONE = -1.0
"""The price of what has not happened yet."""


def feature_sizes(fields: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the features by name, given those of the fields of an observation."""
    partners, offers = fields["alive"], fields["offer_gain"]
    by_partner = dict.fromkeys(("bought_at", "declined_at", "sales", "declines"), partners)
    by_offer = dict.fromkeys(("gain_before", "lowest_price", "highest_price"), offers)
    return {**by_partner, **by_offer, "loss_at_start": 1}


@dataclass(frozen=True)
class History:
    """The features of an episode so far, in markets whose observations have this layout."""

    layout: ObservationLayout

    @property
    def size(self) -> int:
        """F, the number of features."""
        return sum(self._sizes.values())

    @property
    def _sizes(self) -> dict[str, int]:
        return feature_sizes({field.name: field.size for field in self.layout.fields})

    def start(self, rows: int, device: torch.device) -> Memory:
        """The memory before the first observation of an episode."""
        sizes = {**self._sizes, "before": self.layout.size}
        start = {name: NONE if name in PRICES else 0.0 for name in sizes}
        return {
            name: torch.full((rows, size), start[name], dtype=torch.float32, device=device)
            for name, size in sizes.items()
        }

    def observe(self, memory: Memory, observation: Tensor) -> Memory:
        """The memory after one more observation of the episode, float32 ``[B, D]``."""
        now, before = self.layout.unpack(observation), self.layout.unpack(memory["before"])
        asked = before["ask"].expand_as(now["sold_now"])
        sold, declined = now["sold_now"] > 0, now["declined"] > 0
        price = now.get("offer_price", torch.zeros_like(now["offer_gain"]))
        offered = now["offer_legal"] > 0
        return {
            "bought_at": _extreme(torch.maximum, memory["bought_at"], asked, sold),
            "declined_at": _extreme(torch.minimum, memory["declined_at"], asked, declined),
            "sales": memory["sales"] + now["sold_now"],
            "declines": memory["declines"] + now["declined"],
            "gain_before": before["offer_gain"].clone(),
            "lowest_price": _extreme(torch.minimum, memory["lowest_price"], price, offered),
            "highest_price": _extreme(torch.maximum, memory["highest_price"], price, offered),
            "loss_at_start": torch.where(now["time_left"] >= 1, now["loss"], memory["loss_at_start"]),
            "before": observation.clone(),
        }

    @staticmethod
    def append(memory: Memory, observation: Tensor) -> Tensor:
        """The observation with the features behind it, float32 ``[B, D + F]``."""
        return torch.cat([observation, *(kept for name, kept in memory.items() if name != "before")], dim=1)


def _extreme(choose: Callable[[Tensor, Tensor], Tensor], kept: Tensor, seen: Tensor, where: Tensor) -> Tensor:
    """The lowest or highest price so far, ``NONE`` before the first one."""
    return torch.where(where, torch.where(kept == NONE, seen, choose(kept, seen)), kept)
