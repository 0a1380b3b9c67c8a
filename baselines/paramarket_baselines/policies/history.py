"""The memory of an episode: features that are appended to an agent's observation.

An observation says what happened in the last step. Against an unknown opponent an agent must also know what happened
before: at which prices each partner has bought or declined, what it asked, and how its offers have changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paramarket_env.interface.observations import ObservationLayout

Memory = dict[str, Tensor]


@dataclass(frozen=True)
class History:
    """The features of an episode so far, for markets with this layout of observations."""

    layout: ObservationLayout

    @property
    def size(self) -> int:
        """The number of features."""
        return sum(feature.shape[1] for feature in self.start(1, torch.device("cpu")).values()) - self.layout.size

    def start(self, rows: int, device: torch.device) -> Memory:
        """The memory at the start of episodes: the features, and the last observation."""
        partners, offers = self._size("alive"), self._size("offer_gain")
        sizes = {
            "bought_at": partners,
            "declined_at": partners,
            "sales": partners,
            "declines": partners,
            "gain_before": offers,
            "lowest_price": offers,
            "highest_price": offers,
            "loss_at_start": 1,
            "before": self.layout.size,
        }
        return {name: torch.zeros(rows, size, device=device) for name, size in sizes.items()}

    def after(self, memory: Memory, observation: Tensor) -> Memory:
        """The memory after one more observation, float32 ``[B, D]``, of an episode."""
        now, before = self.layout.unpack(observation), self.layout.unpack(memory["before"])
        begins = now["time_left"] >= 1
        partners = self._size("alive")
        asked = before["ask"].expand(-1, partners)
        sold, declined = now["sold_now"] > 0, now["declined"] > 0
        price = now.get("offer_price", torch.zeros_like(now["offer_gain"]))
        on_sale = now["offer_legal"] > 0
        lowest, highest = memory["lowest_price"], memory["highest_price"]
        first = highest == 0
        declined_at = memory["declined_at"]
        found = {
            "bought_at": torch.where(sold, torch.maximum(memory["bought_at"], asked), memory["bought_at"]),
            "declined_at": torch.where(
                declined, torch.where(declined_at > 0, torch.minimum(declined_at, asked), asked), declined_at
            ),
            "sales": memory["sales"] + now["sold_now"],
            "declines": memory["declines"] + now["declined"],
            "gain_before": before["offer_gain"],
            "lowest_price": torch.where(on_sale, torch.where(first, price, torch.minimum(lowest, price)), lowest),
            "highest_price": torch.where(on_sale, torch.maximum(highest, price), highest),
            "loss_at_start": torch.where(begins, now["loss"], memory["loss_at_start"]),
        }
        return {**found, "before": observation}

    def _size(self, field: str) -> int:
        return next(each.size for each in self.layout.fields if each.name == field)

    @staticmethod
    def features(memory: Memory) -> Tensor:
        """The features, float32 ``[B, size]``."""
        return torch.cat([feature for name, feature in memory.items() if name != "before"], dim=1)
