"""The broker, a trusted non-profit party with validation data.

It aligns networks, tries merges before a purchase, and quotes the gain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.config import BrokerConfig
from paramarket_env.learning.alignment.permutations import identity, inverse, permute
from paramarket_env.learning.bounds import LINE, gain_bounds, loss_gradients, measure_lines
from paramarket_env.learning.data.tasks import Tasks
from paramarket_env.learning.evaluation import groups_at_once
from paramarket_env.learning.heads import common_mask
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network, parameter_count, unit_dtype
from paramarket_env.learning.parameter_sets import parameter_sets
from paramarket_env.learning.statistics import own_samples, with_own_statistics
from paramarket_env.learning.trials import LOSS_MAX, Groups, Pairs, group, own_losses
from paramarket_env.market.meetings import Meetings, draw, everybody
from paramarket_env.market.state import MarketState, Quotes, tree_map

RESOLUTION = 1e-6
"""Nats. Losses are computed in float32, so a smaller difference is rounding error."""


class Broker:
    """Quotes offers and delivers the quoted networks, for M markets of N agents at once.

    Each agent is evaluated on its own task's validation data, and so are the merges that it is quoted. Where tasks
    differ, the heads are neither for sale nor aligned, since heads of different tasks have nothing in common.

    An offer to a buyer is a number from 0 to k * K - 1, which is the seller's slot * K + parameter set. The slots of a
    buyer are its k partners in order.
    """

    def __init__(
        self,
        config: BrokerConfig,
        network: Network,
        tasks: Tasks,
        agents: int,
        device: torch.device,
        *,
        measures_lines: bool,
    ) -> None:
        self.config, self.network, self.measures_lines = config, network, measures_lines
        self.tasks, self.dataset = tasks, tasks.dataset
        self.goods = parameter_sets(config.parameter_sets, network, device, head_for_sale=not tasks.differ)
        self.common = common_mask(network, device, tasks_differ=tasks.differ)
        """bool ``[P]``: the parameters that mean the same to all agents; see :func:`common_mask`."""
        self._all_common = bool(self.common.all())
        self.merge_weights = torch.tensor(config.merger.weights, dtype=torch.float32, device=device)
        self.agents, self.device = agents, device

    def meetings(self, seeds: Tensor, cycle: Tensor) -> Meetings:
        """The partners in these cycles of the markets with these seeds, int64 ``[M]`` each."""
        if self.config.partners is None:
            return everybody(len(seeds), self.agents, self.device)
        return draw(seeds, cycle, self.agents, self.config.partners)

    def meet(self, state: MarketState) -> None:
        """Let the agents meet their partners of the coming step. New partners void all quotes."""
        if self.config.partners is not None:
            state.meetings = self.meetings(state.seeds, state.cycle)
            state.quotes = self.no_quotes(len(state.seeds))
            state.changed = torch.ones_like(state.changed)

    def no_quotes(self, num_markets: int) -> Quotes:
        """The quotes of markets in which no merge has been tried yet."""
        shape = (num_markets, self.agents, self.config.partners or self.agents - 1, len(self.goods.names))
        return Quotes(
            loss=torch.full(shape, torch.inf, dtype=torch.float64, device=self.device),
            weight=torch.zeros(shape, dtype=torch.float32, device=self.device),
            permutations=identity(self.network, self.device).to(unit_dtype(self.network)).repeat(*shape[:3], 1),
            lines=torch.zeros(*shape, len(LINE) if self.measures_lines else 0, dtype=torch.float64, device=self.device),
        )

    def seller_of(self, state: MarketState, offers: Tensor) -> Tensor:
        """The seller of each agent's offer, int64 ``[M, N]``; -1 where the offer, int64 ``[M, N]``, is -1."""
        slot = offers.clamp_min(0) // len(self.goods.names)
        seller = state.meetings.partners.gather(2, slot.unsqueeze(-1)).squeeze(-1)
        return torch.where(offers >= 0, seller, -1)

    def evaluate_and_quote(self, state: MarketState, changed: Tensor, market_open: Tensor) -> Tensor:
        """Evaluate the networks in ``changed`` (bool ``[M, N]``), and update the quotes in place.

        Returns the validation loss of every agent, float64 ``[M, N]``. It is not finite if the network is not finite.
        The broker tries merges only in open markets (``market_open``, bool ``[M]``), and there only for couples in
        which a network has changed since the last try, or that meet anew. Terminated agents are not quoted.
        """
        state.changed |= changed
        pending = state.changed & market_open.unsqueeze(1)
        loss = state.loss.clone()
        tasks, validation = self.tasks, state.partition.validation
        chunk = max(1, groups_at_once(self.network, self.dataset, state.parameters, validation[:, 0]) // tasks.number)
        affected = (changed | pending).any(1).nonzero().squeeze(1)
        for markets in affected.split(chunk) if len(affected) else ():
            on_each = tasks.on_each(state.parameters[markets], validation[markets])
            groups = group(self.network, self.dataset, *on_each)
            own_groups = groups.alone(*tasks.own_groups(len(markets))) if tasks.differ else groups
            fresh = own_losses(self.network, own_groups).view(len(markets), -1)
            loss[markets] = torch.where(changed[markets], fresh, loss[markets])
            own = loss[markets].masked_fill(~state.alive[markets], torch.nan)
            self._quote(state, markets, groups, own, pending[markets])
        alive = state.alive & loss.isfinite()
        both_alive = alive.unsqueeze(2) & state.meetings.of_partners(alive)
        state.quotes.loss.masked_fill_(~both_alive.unsqueeze(-1), torch.inf)
        state.changed &= ~market_open.unsqueeze(1)
        return loss

    def _quote(self, state: MarketState, markets: Tensor, groups: Groups, own: Tensor, pending: Tensor) -> None:
        """Quote the couples of living agents in which at least one is ``pending`` (bool ``[m, N]``).

        ``groups`` holds m * T groups, the networks of each market on the data of each task. ``own`` float64 ``[m, N]``
        is the loss of each network; it is not finite if the agent is terminated.
        """
        alive = own.isfinite()
        meetings = tree_map(lambda tensor: tensor[markets], state.meetings)
        both_alive = alive.unsqueeze(2) & meetings.of_partners(alive)
        either_pending = pending.unsqueeze(2) | meetings.of_partners(pending)
        once = meetings.partners > torch.arange(self.agents, device=self.device).unsqueeze(1)
        couples = (both_alive & either_pending & once).nonzero()
        chunk = max(1, 2 * chunk_elements(alive.device) // parameter_count(self.network))
        for part in couples.split(chunk) if len(couples) else ():
            self._quote_couples(state, markets, groups, own, part)

    def _quote_couples(self, state: MarketState, markets: Tensor, groups: Groups, own: Tensor, couples: Tensor) -> None:
        """Align each couple, int64 ``[C, 3]`` (market, first, the second's slot), and try merges in both directions."""
        row, first, slot = couples.unbind(1)
        partners, mirror = state.meetings.partners, state.meetings.mirror
        second, slots = partners[markets[row], first, slot], partners.shape[2]
        order = state.quotes.permutations[markets[row], first, slot].long()
        buyers, sellers = (self._common(state.parameters[markets[row], agent]) for agent in (first, second))
        order = self.config.aligner(self.network, buyers, sellers, order)
        # The inverse permutation aligns the first network to the second.
        both_orders = torch.cat([order, inverse(self.network, order)])
        back = mirror[markets[row], first * slots + slot] % slots
        buyer, seller, slot = (torch.cat(both) for both in ((first, second), (second, first), (slot, back)))
        row = row.repeat(2)
        samples = own_samples(self.network, state.partition, markets[row], buyer)
        pairs = Pairs(row * self.tasks.number + self.tasks.of_agent[buyer], buyer, seller, both_orders, samples)
        loss = self.config.merger.losses(self.network, groups, pairs, self.goods)
        best = loss.masked_fill(~(loss <= LOSS_MAX), torch.inf).min(dim=-1)
        place = (markets[row], buyer, slot)
        state.quotes.loss[place] = best.values
        state.quotes.weight[place] = self.merge_weights[best.indices]
        state.quotes.permutations[place] = both_orders.to(state.quotes.permutations.dtype)
        if self.measures_lines:
            gains = own[row, buyer][:, None, None] - loss
            validation = state.partition.validation[markets].flatten(0, 1)
            state.quotes.lines[place] = self._measure(groups, pairs, validation, gains)

    def _common(self, networks: Tensor) -> Tensor:
        """The networks ``[Q, P]`` for an aligner, which compares parameters; 0 where they have nothing in common."""
        return networks if self._all_common else networks.masked_fill(~self.common, 0.0)

    def _measure(self, groups: Groups, pairs: Pairs, validation: Tensor, gains: Tensor) -> Tensor:
        """The lines between pairs, float64 ``[Q, K, 4]``.

        ``validation`` is int64 ``[m * T, V]``, ``gains`` float64 ``[Q, K, W]``.
        """
        agents = groups.parameters.shape[1]
        # A buyer has the same gradient for all its sellers.
        buyers, which = (pairs.group * agents + pairs.buyer).unique(return_inverse=True)
        mine = groups.parameters.flatten(0, 1)[buyers]
        gradient = loss_gradients(self.network, self.dataset, mine, validation[buyers // agents])
        theirs = permute(self.network, groups.parameters[pairs.group, pairs.seller], pairs.permutations)
        return measure_lines(gradient[which], theirs - mine[which], self.goods.masks, gains, self.merge_weights)

    def to_sellers(self, state: MarketState, values: Tensor) -> Tensor:
        """Reorder values of offers, ``[M, N, offers, ...]``, from buyers to sellers.

        In ``values`` the rows are buyers, and the offers are ordered by seller and parameter set. In the result, of the
        same shape, the rows are sellers, and the offers are ordered by buyer and parameter set.
        """
        return state.meetings.mirrored(values.unflatten(2, (-1, len(self.goods.names)))).flatten(2, 3)

    def bounds(self, state: MarketState) -> Tensor:
        """The lower and the upper bound on each buyer's quoted gains, in nats: float64 ``[M, N, offers, 2]``.

        A curvature that the configuration does not set is the extreme of all quoted lines in the market.
        """
        directional_derivative, squared, least, most = state.quotes.lines.unbind(-1)
        unquoted = ~state.quotes.loss.isfinite()
        smoothness = most.masked_fill(unquoted, -torch.inf).amax((1, 2, 3), keepdim=True)
        convexity = least.masked_fill(unquoted, torch.inf).amin((1, 2, 3), keepdim=True)
        if self.config.smoothness is not None:
            smoothness = torch.full_like(smoothness, self.config.smoothness)
        if self.config.convexity is not None:
            convexity = torch.full_like(convexity, self.config.convexity)
        # Between identical networks there is no curvature to measure, and no gain.
        smoothness, convexity = (curvature.where(curvature.isfinite(), 0.0) for curvature in (smoothness, convexity))
        bounds = gain_bounds(directional_derivative, squared, self.merge_weights.double(), smoothness, convexity)
        # The bounds of networks that are about to fail can overflow. They then exclude nothing.
        low, high = bounds.unbind(-1)
        return torch.stack([low.nan_to_num(-torch.inf), high.nan_to_num(torch.inf)], dim=-1).flatten(2, 3)

    def gains(self, state: MarketState) -> Tensor:
        """Each buyer's quoted gains in nats, float64 ``[M, N, offers]``; -inf where there is no quote.

        A gain smaller than ``RESOLUTION`` is quoted as 0, so identical networks have no gain from each other.
        """
        gains = (state.loss[:, :, None, None] - state.quotes.loss).flatten(2)
        return gains.masked_fill(gains.abs() < RESOLUTION, 0.0)

    def deliver(self, state: MarketState, market: Tensor, buyer: Tensor, offer: Tensor) -> Tensor:
        """The quoted networks, float32 ``[Q, P]``, of Q purchases (``market``, ``buyer``, ``offer``: int64 ``[Q]``)."""
        slot, good = offer // len(self.goods.names), offer % len(self.goods.names)
        sellers = state.parameters[market, state.meetings.partners[market, buyer, slot]]
        aligned = permute(self.network, sellers, state.quotes.permutations[market, buyer, slot].long())
        weight = state.quotes.weight[market, buyer, slot, good]
        merged = self.config.merger.merge(state.parameters[market, buyer], aligned, weight, self.goods.masks[good])
        return with_own_statistics(self.network, self.dataset, state.partition, merged, market, buyer)
