"""The part that all adapters have in common."""

from __future__ import annotations

from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import ObservationLayout


class Face:
    """A market as an RL library sees it. Every adapter names the observations and the offers in the same way."""

    market_batch: MarketBatch

    @property
    def layout(self) -> ObservationLayout:
        """The layout of an observation."""
        return self.market_batch.layout

    def offers(self, agent: str) -> list[tuple[str, str]]:
        """The offers of an agent, such as ``trader_0``, in their order; see ``MarketBatch.offers``."""
        return self.market_batch.offers(agent)
