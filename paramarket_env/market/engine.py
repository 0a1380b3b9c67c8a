"""The engine: one step of M markets at once. There is no other; a single environment is its M = 1 face."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cache
from numbers import Integral

import torch
from torch import Tensor

from paramarket_env.config import MarketConfig, require
from paramarket_env.economics.clearing import REFUSALS, WITHHELD, Trades, posted_price
from paramarket_env.economics.ledger import open_accounts, receipts, settle
from paramarket_env.learning.data import load_dataset
from paramarket_env.learning.endowments import Deal, deal, require_minibatches
from paramarket_env.learning.evaluation import losses_and_accuracies
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks import build_network, initial_parameters, parameter_count
from paramarket_env.learning.training import build_optimizer, shuffled, train
from paramarket_env.market.broker import Broker
from paramarket_env.market.capacity import require_room
from paramarket_env.market.snapshot import snapshot
from paramarket_env.market.state import MarketState, tree_map, write_rows
from paramarket_env.seeding import as_seeds, stream


@dataclass(frozen=True)
class Orders:
    """What every agent wants in one step, ``[M, N]`` each."""

    train: Tensor
    """bool."""
    offer: Tensor
    """int64: the offer to buy, or -1."""
    ask: Tensor
    """int64: the ask level to post (the number of levels withholds), or -1 to leave it."""


@dataclass(frozen=True)
class StepRecord:
    """What happened in one step, ``[M, N]`` each, ``truncated`` ``[M]``."""

    trained: Tensor
    """bool."""
    asked: Tensor
    """bool: posted an ask."""
    offer: Tensor
    """int64: the offer bought, or -1."""
    seller: Tensor
    """int64: the agent bought from, or -1."""
    weight: Tensor
    """float32: the merge weight of the purchase, 0 where none."""
    quoted: Tensor
    """float64: the gain that was quoted for the purchase, in nats, 0 where none."""
    paid: Tensor
    """int64, ticks."""
    received: Tensor
    """int64, ticks."""
    refusal: Tensor
    """int64: index into ``REFUSALS``, or -1."""
    gain: Tensor
    """float64: fall of the validation loss in the step, by purchase and training, in nats."""
    reward: Tensor
    """float64."""
    terminated: Tensor
    """bool: the agent's loss, or a parameter, stopped being finite in this step."""
    truncated: Tensor
    """bool ``[M]``: the episode has reached ``max_cycles``."""


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of a name; ``auto`` is the GPU where there is one, otherwise the CPU, which it says once."""
    if device == "auto":
        return torch.device("cuda") if torch.cuda.is_available() else _fallback()
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not allowed: it must be 'auto', 'cpu' or 'cuda'") from error
    require(resolved.type in ("cpu", "cuda"), "device", str(device), "'auto', 'cpu' or 'cuda'")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(device)!r} is not available: torch sees {torch.cuda.device_count()} GPUs")
    return resolved


@cache
def _fallback() -> torch.device:
    logging.getLogger(__name__).warning("there is no GPU: device='auto' is the CPU")
    return torch.device("cpu")


class Engine:
    """M markets of one configuration, side by side on one device.

    Raises ``ValueError`` at construction for whatever the configuration asks that cannot be (see also
    ``MarketConfig``). :meth:`reset` comes before the first :meth:`step`.
    """

    state: MarketState

    def __init__(self, config: MarketConfig, markets: int = 1, device: str | torch.device = "auto") -> None:
        require(isinstance(markets, Integral) and markets >= 1, "markets", markets, "an integer >= 1")
        self.config, self.markets, self.device = config, markets, resolve_device(device)
        self.dataset = load_dataset(config.data.dataset, config.data.data_dir).to(self.device)
        self.network = build_network(config.network, self.dataset.features, self.dataset.classes)
        self.optimizer = build_optimizer(config.training)
        self.broker = Broker(config.broker, self.network, self.dataset, config.agents, self.device)
        self.offers = (config.agents - 1) * len(self.broker.masks)
        self._prices = torch.tensor([*config.economy.ask_levels, WITHHELD], device=self.device)
        self.values = torch.tensor(config.values_per_nat, dtype=torch.float64, device=self.device)
        # An endowment that cannot be is refused now, not at some later episode, and so are too many markets.
        self.one = self._fresh(as_seeds(0, 1, self.device))
        """The state of one market, for its shapes."""
        require_minibatches(self.one.deal, config.training.batch_size)
        require_room(markets, self.one, self.network, self.dataset)

    # --- what a step acts on ---------------------------------------------------------------------------------------

    @property
    def asks(self) -> Tensor:
        """Posted prices in ticks, int64 ``[M, N]``; ``WITHHELD`` where there is none."""
        return self._prices[self.state.ask]

    @property
    def market_open(self) -> Tensor:
        """bool ``[M]``: purchases clear in the coming step."""
        return self._open_at(self.state.cycle)

    def _open_at(self, cycle: Tensor) -> Tensor:
        since = cycle - self.config.broker.opens_at
        in_episode = cycle < self.config.max_cycles
        return in_episode & (since >= 0) & (since % self.config.broker.trade_every == 0)

    @property
    def gains(self) -> Tensor:
        """Quoted gains in nats, float64 ``[M, N, offers]``; -inf where nothing is quoted or the market is closed."""
        return self.broker.gains(self.state).masked_fill(~self.market_open[:, None, None], -torch.inf)

    @property
    def offer_prices(self) -> Tensor:
        """The seller's ask for each offer in ticks, int64 ``[M, N, offers]``; ``WITHHELD`` where there is none."""
        return self.asks[:, self.broker.sellers].repeat_interleave(len(self.broker.masks), dim=2)

    @property
    def legal_offers(self) -> Tensor:
        """bool ``[M, N, offers]``: the purchases that would clear in the coming step."""
        prices = self.offer_prices
        affordable = (prices != WITHHELD) & (prices <= self.state.balance.unsqueeze(2))
        return affordable & self.gains.isfinite()

    # --- life of a market ------------------------------------------------------------------------------------------

    def _deal(self, seeds: Tensor) -> Deal:
        config = self.config
        return deal(config.data, self.dataset, config.agents, seeds, config.training.batch_size)

    def _fresh(self, seeds: Tensor) -> MarketState:
        """Markets at cycle 0, not yet evaluated nor quoted."""
        config, shape = self.config, (len(seeds), self.config.agents)
        agents = torch.arange(config.agents, device=self.device)
        parameters = initial_parameters(self.network, stream(seeds[:, None], "network", agents))

        def zeros(*extra: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(*shape, *extra, dtype=dtype, device=self.device)

        return MarketState(
            seeds=seeds,
            cycle=torch.zeros_like(seeds),
            deal=self._deal(seeds),
            parameters=parameters,
            optimizer=self.optimizer.fresh(parameters),
            passes=zeros(),
            balance=open_accounts(*shape, config.economy.budget, self.device),
            ask=zeros() + config.economy.initial_ask,
            alive=~zeros(dtype=torch.bool),
            loss=zeros(dtype=torch.float64),
            gain=zeros(dtype=torch.float64),
            bought=zeros(),
            sold=zeros(),
            earned=zeros(),
            sold_now=zeros(),
            last_price=zeros(),
            since_purchase=zeros(),
            refusals=zeros(len(REFUSALS)),
            quotes=self.broker.no_quotes(len(seeds)),
            changed=~zeros(dtype=torch.bool),
        )

    @torch.no_grad()
    def reset(self, seeds: Tensor, markets: Tensor | None = None) -> None:
        """Begin new episodes, each with its own seed (int64 ``[m]``), in these markets (int64 ``[m]``; None: all)."""
        rows = torch.arange(self.markets, device=self.device) if markets is None else markets
        require(len(seeds) == len(rows), "seeds", seeds.tolist(), f"one for each of the {len(rows)} markets")
        # The old state stays as it is until all that is new is there.
        state = self._room() if markets is None else snapshot(self.state)
        for some in torch.arange(len(rows), device=self.device).split(self._deals_at_once):
            write_rows(state, rows[some], self._fresh(seeds[some]))
        changed = torch.zeros_like(state.alive).index_fill(0, rows, True)
        self.state = state
        state.loss = self.broker.examine(state, changed, self.market_open)

    def _room(self) -> MarketState:
        """A state of all markets, not yet written."""
        return tree_map(lambda tensor: tensor.new_empty(self.markets, *tensor.shape[1:]), self.one)

    @torch.no_grad()
    def step(self, orders: Orders) -> StepRecord:
        """Clear, merge, train, post, evaluate and quote; state is updated in place.

        Orders that are not legal are refused and counted; those of terminated agents are ignored.
        """
        state = self.state
        alive = state.alive.clone()
        trades = self._clear(orders, alive)
        bought = trades.seller >= 0
        quoted = self._of_offers(self.broker.gains(state), orders.offer, bought)
        weight = self._of_offers(state.quotes.weight.flatten(2), orders.offer, bought)
        self._merge(orders.offer, bought)
        received = self._settle(trades)
        trained = orders.train & alive
        self._train(trained)
        asked = (orders.ask >= 0) & alive
        state.ask = torch.where(asked, orders.ask, state.ask)
        state.cycle += 1
        gain, terminated = self._evaluate(bought | trained)
        return StepRecord(
            trained=trained,
            asked=asked,
            offer=torch.where(bought, orders.offer, -1),
            seller=trades.seller,
            weight=weight,
            quoted=quoted,
            paid=trades.price,
            received=received,
            refusal=trades.refusal,
            gain=gain,
            reward=self._reward(gain, received - trades.price, trained, alive),
            terminated=terminated,
            truncated=state.cycle >= self.config.max_cycles,
        )

    def _clear(self, orders: Orders, alive: Tensor) -> Trades:
        offer = torch.where(alive, orders.offer, -1)
        quoted = self.broker.gains(self.state).gather(2, offer.clamp_min(0).unsqueeze(2)).squeeze(2).isfinite()
        wanted = self.broker.seller_of(offer)
        trades = posted_price(wanted, quoted, self.asks, self.state.balance, self.market_open)
        causes = torch.arange(len(REFUSALS), device=self.device)
        self.state.refusals += trades.refusal.unsqueeze(2) == causes
        return trades

    @staticmethod
    def _of_offers(values: Tensor, offer: Tensor, bought: Tensor) -> Tensor:
        """The value ``[M, N, offers]`` of each offer ``[M, N]`` that was bought, 0 elsewhere."""
        return torch.where(bought, values.gather(2, offer.clamp_min(0).unsqueeze(2)).squeeze(2), 0.0)

    def _merge(self, offer: Tensor, bought: Tensor) -> None:
        """Give the buyers the networks they were quoted, with fresh optimizers."""
        state = self.state
        market, buyer = bought.nonzero().unbind(1)
        if len(market) == 0:
            return
        # All merges are of the networks before the step: none is replaced until all are made.
        merged = state.parameters.clone()
        for some in torch.arange(len(market), device=self.device).split(self._networks_at_once):
            where = (market[some], buyer[some])
            merged[where] = self.broker.deliver(state, *where, offer[where])
        state.parameters = merged
        for tensor in state.optimizer.values():
            tensor[market, buyer] = 0

    def _settle(self, trades: Trades) -> Tensor:
        """Move the money and book the sales; what each agent received, int64 ``[M, N]``."""
        state = self.state
        bought = (trades.seller >= 0).long()
        state.balance = settle(state.balance, trades.seller, trades.price)
        received = receipts(trades.seller, trades.price)
        state.sold_now = receipts(trades.seller, bought)
        state.last_price = torch.where(state.sold_now > 0, self.asks, state.last_price)
        state.sold += state.sold_now
        state.earned += received
        state.bought += bought
        state.since_purchase = torch.where(bought > 0, 0, state.since_purchase + 1)
        return received

    def _train(self, trained: Tensor) -> None:
        state = self.state
        market, agent = trained.nonzero().unbind(1)
        # Largest endowments first, as train() wants its rows.
        by_size = state.deal.sizes[market, agent].argsort(descending=True, stable=True)
        for some in by_size.split(self._networks_at_once) if len(by_size) else ():
            self._train_some(market[some], agent[some])
        state.passes += trained

    def _train_some(self, market: Tensor, agent: Tensor) -> None:
        """One pass of as many networks as stay in a processor's cache all through it."""
        state = self.state
        sizes = state.deal.sizes[market, agent]
        keys = stream(state.seeds[market], "shuffle", agent, state.passes[market, agent])
        samples = shuffled(state.deal.endowments[market, agent], sizes, keys)
        parameters = state.parameters[market, agent]
        optimizer = {name: tensor[market, agent] for name, tensor in state.optimizer.items()}
        train(self.network, self.optimizer, self.config.training, self.dataset, parameters, optimizer, samples, sizes)
        state.parameters[market, agent] = parameters
        for name, tensor in optimizer.items():
            state.optimizer[name][market, agent] = tensor

    @property
    def _networks_at_once(self) -> int:
        batch = self.config.training.batch_size * self.dataset.size
        largest = max(parameter_count(self.network), batch, self.one.deal.endowments.shape[2])
        # A batched product of at least as many networks as threads gives each thread a product of its own.
        return max(torch.get_num_threads(), chunk_elements(self.device) // largest)

    @property
    def _deals_at_once(self) -> int:
        largest = max(len(self.dataset.labels), self.config.agents * parameter_count(self.network))
        return max(1, chunk_elements(self.device) // largest)

    def _evaluate(self, changed: Tensor) -> tuple[Tensor, Tensor]:
        """Measure the networks that changed and quote anew: every agent's gain, and who is terminated.

        A network that is not finite is worth no more than chance: it counts with the loss of a uniform guess, or with
        its last loss where that was worse, so that the reward of the step stays finite.
        """
        state, before = self.state, self.state.loss
        loss = self.broker.examine(state, changed, self.market_open)
        terminated = ~loss.isfinite()
        state.loss = torch.where(terminated, before.clamp_min(math.log(self.dataset.classes)), loss)
        state.alive &= ~terminated
        state.ask = torch.where(state.alive, state.ask, len(self.config.economy.ask_levels))
        state.gain = before - state.loss
        return state.gain, terminated

    def _reward(self, gain: Tensor, income: Tensor, trained: Tensor, alive: Tensor) -> Tensor:
        economy = self.config.economy
        rivals_gain = (gain.sum(1, keepdim=True) - gain) / (self.config.agents - 1)
        # In float64: an int64 times a Python float would be rounded to float32, and whole ticks would be lost.
        reward = self.values * gain + income.double() * economy.tick
        reward = reward - trained.double() * economy.train_cost - rivals_gain * economy.rivalry
        return torch.where(alive, reward, 0.0)

    # --- reports ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test_metrics(self) -> tuple[Tensor, Tensor]:
        """Loss and accuracy on the test data, float64 ``[M, N]`` each. For reports: no agent ever sees them."""
        return losses_and_accuracies(self.network, self.dataset, self.state.parameters, self.state.deal.test)

    @torch.no_grad()
    def overwrite(self, parameters: Tensor) -> Tensor:
        """Replace the networks (float32 ``[M, N, P]``) of living agents from outside the market, optimizers fresh.

        Returns the fall of each agent's validation loss by that, in nats: float64 ``[M, N]``.
        """
        alive = self.state.alive.clone()
        self.state.parameters = torch.where(alive.unsqueeze(2), parameters, self.state.parameters)
        self.state.optimizer = self.optimizer.fresh(self.state.parameters)
        gain, _ = self._evaluate(alive)
        return gain
