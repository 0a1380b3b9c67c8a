"""The broker, a trusted non-profit party with validation data.

It aligns networks, tries merges before a purchase, and quotes the gain.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from paramarket_env.config import BrokerConfig
from paramarket_env.learning.activations import SAMPLES
from paramarket_env.learning.alignment.permutations import identity, inverse, permute
from paramarket_env.learning.bounds import LINE, gain_bounds, loss_gradients, measure_lines
from paramarket_env.learning.data.tasks import Tasks
from paramarket_env.learning.evaluation import groups_at_once
from paramarket_env.learning.heads import common_mask
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.merging import MergeInputs
from paramarket_env.learning.networks.network import Network, parameter_count, unit_dtype
from paramarket_env.learning.parameter_sets import parameter_sets
from paramarket_env.learning.statistics import own_samples, with_own_statistics
from paramarket_env.learning.trials import LOSS_MAX, Groups, Pairs, group, own_losses
from paramarket_env.market.host import chunks, largest, to_host
from paramarket_env.market.meetings import Meetings, draw, everybody
from paramarket_env.market.state import MarketState, Quotes

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
        config.merger.require_serves(network)
        self.config, self.network, self.measures_lines = config, network, measures_lines
        self.tasks = tasks
        self.goods = parameter_sets(config.parameter_sets, network, device, head_for_sale=not tasks.differ)
        self.common = common_mask(network, device, tasks_differ=tasks.differ)
        """bool ``[P]``: the parameters that mean the same to all agents; see :func:`common_mask`."""
        self.merge_weights = torch.tensor(config.merger.weights, dtype=torch.float32, device=device)
        self.agents, self.device = agents, device
        self._agents = torch.arange(agents, device=device).unsqueeze(1)

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
            candidate=torch.zeros(shape, dtype=torch.int64, device=self.device),
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
        affected, couples = (changed | pending).any(1), self._couples(state, pending)
        on_host, counts = to_host(affected, couples.sum((1, 2)))
        loss = state.loss.clone()
        if not on_host.any():
            return loss
        markets, couples = largest(affected, int(on_host.sum())), largest(couples, int(counts.sum()))
        ends = [0, *np.cumsum(counts[on_host != 0]).tolist()]
        validation, tasks = state.partition.validation, self.tasks.number
        size = max(1, groups_at_once(self.network, self.tasks.dataset, state.parameters, validation[:, 0]) // tasks)
        for some in chunks(len(markets), size):
            groups = self._evaluate(state, markets[some], changed, loss)
            of_these = couples[ends[some.start] : ends[min(some.stop, len(markets))]]
            if len(of_these):
                self._quote(state, groups, loss, markets[some], of_these)
        alive = state.alive & loss.isfinite()
        both_alive = alive.unsqueeze(2) & state.meetings.of_partners(alive)
        state.quotes.loss.masked_fill_(~both_alive.unsqueeze(-1), torch.inf)
        state.changed &= ~market_open.unsqueeze(1)
        return loss

    def _couples(self, state: MarketState, pending: Tensor) -> Tensor:
        """The couples of living agents of which at least one is ``pending``: bool ``[M, N, k]``, each couple once."""
        meetings, alive = state.meetings, state.alive
        both_alive = alive.unsqueeze(2) & meetings.of_partners(alive)
        either_pending = pending.unsqueeze(2) | meetings.of_partners(pending)
        return both_alive & either_pending & (meetings.partners > self._agents)

    def _evaluate(self, state: MarketState, markets: Tensor, changed: Tensor, loss: Tensor) -> Groups:
        """The m * T groups of the networks of some ``markets`` ``[m]`` on the data of each task.

        Writes the losses of the networks in ``changed`` (bool ``[M, N]``) to ``loss`` (float64 ``[M, N]``).
        """
        tasks, validation = self.tasks, state.partition.validation[markets]
        start = state.start[markets].repeat_interleave(tasks.number, dim=0) if tasks.differ else state.start[markets]
        on_each = tasks.on_each(state.parameters[markets], validation)
        groups = group(self.network, self.tasks.dataset, *on_each, start)
        own_groups = groups.alone(*tasks.own_groups(len(markets))) if tasks.differ else groups
        fresh = own_losses(self.network, own_groups).view(len(markets), -1)
        loss[markets] = torch.where(changed[markets], fresh, loss[markets])
        return groups

    def _quote(self, state: MarketState, groups: Groups, loss: Tensor, markets: Tensor, couples: Tensor) -> None:
        """Quote couples of some ``markets`` ``[m]``. They are numbers of slots of all markets, int64 ``[C]``.

        ``groups`` holds the m * T groups of the markets' networks. ``loss``, float64 ``[M, N]``, is not finite for a
        network that has failed.
        """
        row = torch.zeros_like(state.seeds).index_copy_(0, markets, torch.arange(len(markets), device=self.device))
        gradients = self._gradients(state, markets) if self.measures_lines else None
        size = max(1, 2 * chunk_elements(self.device) // parameter_count(self.network))
        for some in couples.split(size):
            self._quote_couples(state, groups, loss, row, some, gradients)

    def _quote_couples(
        self,
        state: MarketState,
        groups: Groups,
        loss: Tensor,
        row: Tensor,
        couples: Tensor,
        gradients: Tensor | None,
    ) -> None:
        """Align each couple, and try merges in both directions; see :meth:`_quote`.

        ``row``, int64 ``[M]``, is the place of each market among those of the groups. ``gradients`` are those of the
        groups' networks ``[m * N, P]`` if lines are measured.
        """
        agents, slots = state.meetings.partners.shape[1:]
        market, place = couples // (agents * slots), couples % (agents * slots)
        back = state.meetings.mirror[market, place]
        first, second = place // slots, back // slots
        order = state.quotes.permutations[market, first, place % slots].long()
        buyers, sellers = (self._comparable(state, loss, market, agent) for agent in (first, second))
        order = self.config.aligner(self.network, buyers, sellers, order, partial(self._samples, state, market, first))
        # The inverse permutation aligns the first network to the second.
        both_orders = torch.cat([order, inverse(self.network, order)])
        buyer, seller, slot = (
            torch.cat(both) for both in ((first, second), (second, first), (place % slots, back % slots))
        )
        market = market.repeat(2)
        group_of = row[market] * self.tasks.number + self.tasks.of_agent[buyer]
        samples = own_samples(self.network, state.partition, market, buyer)
        pairs = Pairs(group_of, buyer, seller, both_orders, samples)
        losses = self.config.merger.losses(self.network, groups, pairs, self.goods)
        best = losses.masked_fill(~(losses <= LOSS_MAX), torch.inf).min(dim=-1)
        entry = (market, buyer, slot)
        state.quotes.loss[entry] = best.values
        state.quotes.candidate[entry] = best.indices
        state.quotes.permutations[entry] = both_orders.to(state.quotes.permutations.dtype)
        if gradients is not None:
            gains = loss[market, buyer][:, None, None] - losses
            of_buyers = gradients[row[market] * agents + buyer]
            state.quotes.lines[entry] = self._measure(groups, pairs, of_buyers, gains)

    def _comparable(self, state: MarketState, loss: Tensor, market: Tensor, agent: Tensor) -> Tensor:
        """The networks ``[Q, P]`` for an aligner, which compares parameters.

        A network that has failed is 0, since its parameters can be NaN, and so is what agents do not have in common.
        """
        sound = loss[market, agent].isfinite().unsqueeze(1)
        return torch.where(sound & self.common, state.parameters[market, agent], 0.0)

    def _samples(self, state: MarketState, market: Tensor, agent: Tensor) -> Tensor:
        """Some of the broker's samples of Q agents' tasks, float32 ``[Q, n, *features]``, for the aligner."""
        return self.tasks.dataset.take(state.partition.validation[market, self.tasks.of_agent[agent], :SAMPLES])

    def _gradients(self, state: MarketState, markets: Tensor) -> Tensor:
        """The gradients ``[m * N, P]`` of all networks of these markets, each on its task's validation data."""
        samples = state.partition.validation[markets][:, self.tasks.of_agent].flatten(0, 1)
        return loss_gradients(self.network, self.tasks.dataset, state.parameters[markets].flatten(0, 1), samples)

    def _measure(self, groups: Groups, pairs: Pairs, gradients: Tensor, gains: Tensor) -> Tensor:
        """The lines between pairs, float64 ``[Q, K, 4]``.

        ``gradients``, float32 ``[Q, P]``, are the buyers', and ``gains`` are float64 ``[Q, K, W]``.
        """
        mine, theirs = (groups.parameters[pairs.group, agent] for agent in (pairs.buyer, pairs.seller))
        difference = permute(self.network, theirs, pairs.permutations) - mine
        return measure_lines(gradients, difference, self.goods.masks, gains, self.merge_weights)

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
        return hardshrink(state.loss.unsqueeze(2) - state.quotes.loss.flatten(2), RESOLUTION)

    def weights(self, state: MarketState) -> Tensor:
        """The merge weight of each quoted network, float32 ``[M, N, k, K]``."""
        return self.merge_weights[state.quotes.candidate]

    def deliver(self, state: MarketState, market: Tensor, buyer: Tensor, offer: Tensor) -> Tensor:
        """The quoted networks, float32 ``[Q, P]``, of Q purchases (``market``, ``buyer``, ``offer``: int64 ``[Q]``)."""
        network, slot, good = self.network, offer // len(self.goods.names), offer % len(self.goods.names)
        sellers = state.parameters[market, state.meetings.partners[market, buyer, slot]]
        aligned = permute(network, sellers, state.quotes.permutations[market, buyer, slot])
        samples = state.partition.validation[market, self.tasks.of_agent[buyer]]
        inputs = MergeInputs(
            network,
            state.parameters[market, buyer],
            aligned,
            state.start[market],
            self.goods.masks[good],
            self.tasks.dataset,
            samples,
        )
        merged = self.config.merger.merge(inputs, state.quotes.candidate[market, buyer, slot, good])
        return with_own_statistics(network, self.tasks.dataset, state.partition, merged, market, buyer)
