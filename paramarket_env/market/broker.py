"""The broker: trusted, non-profit, in possession of validation data. It aligns, tries before purchase, and quotes."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.config import BrokerConfig
from paramarket_env.learning.alignment import identity, permute, weight_matching
from paramarket_env.learning.data import Dataset
from paramarket_env.learning.evaluation import CHUNK_ELEMENTS, losses
from paramarket_env.learning.merging import merge, parameter_sets
from paramarket_env.learning.networks import Network, parameter_count, permutation_sizes
from paramarket_env.market.state import MarketState, Quotes


class Broker:
    """Quotes offers and delivers what was quoted, for M markets of N agents at once.

    An offer of buyer i is a number from 0 to (N - 1) * K - 1: seller slot * K + parameter set; the slots are the other
    agents in order.
    """

    def __init__(
        self, config: BrokerConfig, network: Network, dataset: Dataset, agents: int, device: torch.device
    ) -> None:
        self.config, self.network, self.dataset = config, network, dataset
        goods = parameter_sets(config.parameter_sets, network)
        self.set_names = tuple(goods)
        self.masks = torch.stack(list(goods.values())).to(device)
        """bool ``[K, P]``."""
        self.merge_weights = torch.tensor(config.merge_grid, dtype=torch.float32, device=device)
        slots = torch.arange(agents - 1, device=device)
        self.sellers = slots + (slots >= torch.arange(agents, device=device).unsqueeze(1))
        """int64 ``[N, N-1]``: the agent in each slot of each buyer."""

    def no_quotes(self, markets: int) -> Quotes:
        """Quotes of markets in which nothing has been tried."""
        shape = (markets, *self.sellers.shape, len(self.masks))
        hidden = sum(permutation_sizes(self.network).values())
        return Quotes(
            loss=torch.full(shape, torch.inf, dtype=torch.float64, device=self.masks.device),
            weight=torch.zeros(shape, dtype=torch.float32, device=self.masks.device),
            permutations=torch.zeros((*shape[:3], hidden), dtype=torch.int64, device=self.masks.device),
        )

    def seller_of(self, offers: Tensor) -> Tensor:
        """The seller of each agent's offer: int64 ``[M, N]`` -> ``[M, N]``, -1 where the offer is -1."""
        slot = offers.clamp_min(0) // len(self.masks)
        seller = self.sellers.expand(len(offers), -1, -1).gather(2, slot.unsqueeze(-1)).squeeze(-1)
        return torch.where(offers >= 0, seller, -1)

    def quote(self, state: MarketState, market_open: Tensor) -> None:
        """Bring the quotes of the markets in ``market_open`` (bool ``[M]``) up to date, in place.

        Only pairs of which one network has changed are tried again. An agent that is gone is not quoted.
        """
        both_alive = state.alive.unsqueeze(2) & state.alive[:, self.sellers]
        either_changed = state.changed.unsqueeze(2) | state.changed[:, self.sellers]
        state.quotes.loss.masked_fill_(~both_alive.unsqueeze(-1), torch.inf)
        stale = (both_alive & either_changed & market_open[:, None, None]).nonzero()
        per_pair = len(self.masks) * len(self.merge_weights) * parameter_count(self.network)
        for pairs in stale.split(max(1, CHUNK_ELEMENTS // per_pair)) if len(stale) else ():
            self._quote_pairs(state, pairs)
        state.changed &= ~market_open.unsqueeze(1)

    def _quote_pairs(self, state: MarketState, pairs: Tensor) -> None:
        """Align and try ``pairs``, int64 ``[Q, 3]`` (market, buyer, slot), and write their quotes."""
        market, buyer, slot = pairs.unbind(1)
        buyers = state.parameters[market, buyer]
        sellers = state.parameters[market, self.sellers[buyer, slot]]
        if self.config.align:
            permutations = weight_matching(self.network, buyers, sellers)
        else:
            permutations = identity(self.network, len(pairs), buyers.device)
        aligned = permute(self.network, sellers, permutations)
        tried = self.merge_weights[:, None] * self.masks[:, None]
        merged = merge(buyers[:, None], aligned[:, None], tried.flatten(0, 1))
        loss = losses(self.network, self.dataset, merged, state.deal.validation[market])
        loss = loss.masked_fill(~loss.isfinite(), torch.inf).view(len(pairs), *tried.shape[:2])
        best = loss.min(dim=-1)
        state.quotes.loss[market, buyer, slot] = best.values
        state.quotes.weight[market, buyer, slot] = self.merge_weights[best.indices]
        state.quotes.permutations[market, buyer, slot] = permutations

    def gains(self, state: MarketState) -> Tensor:
        """The quoted fall of each buyer's validation loss, float64 ``[M, N, offers]``; -inf where nothing is quoted."""
        return (state.loss[:, :, None, None] - state.quotes.loss).flatten(2)

    def deliver(self, state: MarketState, market: Tensor, buyer: Tensor, offer: Tensor) -> Tensor:
        """The networks that were quoted, float32 ``[B, P]``, for B purchases (int64 ``[B]`` each)."""
        slot, good = offer // len(self.masks), offer % len(self.masks)
        sellers = state.parameters[market, self.sellers[buyer, slot]]
        aligned = permute(self.network, sellers, state.quotes.permutations[market, buyer, slot])
        weight = state.quotes.weight[market, buyer, slot, good]
        return merge(state.parameters[market, buyer], aligned, weight.unsqueeze(1) * self.masks[good])
