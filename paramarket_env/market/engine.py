"""The engine, which advances M markets at once. A single environment is an engine with one market."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from paramarket_env.autograd import no_grad
from paramarket_env.config import MarketConfig
from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.economics.kappa import draw_kappas
from paramarket_env.economics.ledger import covered
from paramarket_env.economics.rewards import Outcome, step_reward
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.data.endowments import Partition
from paramarket_env.learning.data.tasks import load_tasks
from paramarket_env.learning.evaluation import accuracies, losses_and_confusions
from paramarket_env.learning.heads import require_biases, silence_unused
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network, has_statistics, initial_parameters, parameter_count
from paramarket_env.learning.statistics import with_own_statistics
from paramarket_env.learning.training import Training, fresh_state, shuffled, train
from paramarket_env.market.broker import Broker
from paramarket_env.market.capacity import networks_at_once, require_room
from paramarket_env.market.devices import device_for
from paramarket_env.market.exchange import Exchange
from paramarket_env.market.host import chunks, largest, to_host
from paramarket_env.market.orders import PURCHASE, Orders, StepRecord, blank_record
from paramarket_env.market.snapshot import snapshot
from paramarket_env.market.state import MarketState, tree_map, write_rows
from paramarket_env.market.view import MarketView
from paramarket_env.seeding import as_seeds, stream, uniform
from paramarket_env.validation import integer, require


def _require_fit(config: MarketConfig, network: Network) -> None:
    """Raise ``ValueError`` for settings that do not fit a network with running statistics."""
    if has_statistics(network):
        why = "since the network has batch normalisation"
        least = min(training.batch_size for training in config.trainings)
        require(least > 1, "training.batch_size", least, f"at least 2, {why}")
        allowed = f"another degree, {why}: bounds suppose that merged networks lie on a line"
        require(config.economy.disclosure != "bounds", "economy.disclosure", config.economy.disclosure, allowed)


class Engine:
    """M markets with one configuration, computed together on one device.

    The constructor raises ``ValueError`` for a configuration that cannot be satisfied (``MarketConfig`` checks the
    rest). Call :meth:`reset` before the first :meth:`step`.
    """

    state: MarketState

    @no_grad
    def __init__(self, config: MarketConfig, num_markets: int = 1, device: str | torch.device = "auto") -> None:
        require(isinstance(config, MarketConfig), "config", config, "a MarketConfig")
        self.config, self.num_markets = config, integer("num_markets", num_markets, 1)
        self.device = device_for(config, self.num_markets, device)
        self.tasks = load_tasks(config.datasets, self.device)
        self.network = config.network.architecture(self.dataset.features, self.dataset.classes)
        require_biases(self.network, self.dataset.classes, self.tasks.classes)
        _require_fit(config, self.network)
        # Refuse what does not fit into memory before anything is allocated.
        require_room(self.num_markets, config, self.network, self.tasks)
        bounded = config.economy.disclosure == "bounds"
        self.broker = Broker(
            config.broker, self.network, self.tasks, config.agents, self.device, measures_lines=bounded
        )
        self.offers = config.num_partners * len(self.broker.goods.names)
        self.exchange = Exchange(config, self.broker, self.device)
        # Refuse an impossible endowment now and not in a later episode.
        self._split_sizes = config.data.split_sizes(self.tasks.number)
        self.tasks.require_minibatches(self._split_sizes, config.data.endowment, config.training.largest_batch)
        self._trainings = self._distinct_trainings()
        self._networks_at_once = networks_at_once(config, self.network, self.tasks)
        self._start_size = parameter_count(self.network) if config.broker.merger.needs_common_start else 0
        self.one = self._fresh(as_seeds([0], 1, self.device))
        """The state of one market, which gives the shapes."""
        self._blank = blank_record(self.one.balance.new_zeros(self.num_markets, config.agents))

    @property
    def dataset(self) -> Dataset:
        """The samples of all tasks."""
        return self.tasks.dataset

    # --- the current state -----------------------------------------------------------------------------------------

    @property
    def view(self) -> MarketView:
        """A new view of the current state. Use one view for several quantities, as it computes each only once."""
        return MarketView(self.config, self.broker, self.exchange, self.state)

    @property
    def asks(self) -> Tensor:
        """See :attr:`MarketView.asks`."""
        return self.view.asks

    @property
    def market_open(self) -> Tensor:
        """See :attr:`MarketView.market_open`."""
        return self.view.market_open

    @property
    def gains(self) -> Tensor:
        """See :attr:`MarketView.gains`."""
        return self.view.gains

    @property
    def values(self) -> Tensor:
        """See :attr:`MarketView.values`."""
        return self.view.values

    @property
    def offer_prices(self) -> Tensor:
        """See :attr:`MarketView.offer_prices`."""
        return self.view.offer_prices

    @property
    def legal_purchases(self) -> Tensor:
        """See :attr:`MarketView.legal_purchases`."""
        return self.view.legal_purchases

    # --- reset and step --------------------------------------------------------------------------------------------

    def _fresh(self, seeds: Tensor) -> MarketState:
        """Markets at cycle 0, before evaluation and quotes."""
        config, shape = self.config, (len(seeds), self.config.agents)
        agents = torch.arange(config.agents, device=self.device)
        partition = self._partition(seeds)
        parameters = self._start(seeds)
        self._estimate_statistics(parameters, partition, torch.ones(shape, dtype=torch.bool, device=self.device))
        shares = uniform(stream(seeds[:, None], "value", agents), 1).squeeze(-1)
        partners = config.num_partners

        def zeros(*extra: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(*shape, *extra, dtype=dtype, device=self.device)

        return MarketState(
            seeds=seeds,
            cycle=torch.zeros_like(seeds),
            partition=partition,
            start=parameters[:, 0, : self._start_size].clone(),
            parameters=parameters,
            optimizer=fresh_state(config.training.optimizers, parameters),
            passes=zeros(),
            balance=torch.tensor([config.budgets] * len(seeds), device=self.device),
            fees=torch.zeros_like(seeds),
            kappa=draw_kappas(config.economy.kappa_distribution, config.kappa_ranges, shares),
            ask=zeros(self.exchange.ask_slots) + config.economy.initial_ask,
            alive=~zeros(dtype=torch.bool),
            loss=zeros(dtype=torch.float64),
            gain=zeros(dtype=torch.float64),
            bought=zeros(),
            sold=zeros(),
            earned=zeros(),
            sales=zeros(partners, dtype=torch.bool),
            declined=zeros(partners, dtype=torch.bool),
            last_price=zeros(),
            since_purchase=zeros(),
            refusals=zeros(len(REFUSALS)),
            meetings=self.broker.meetings(seeds, torch.zeros_like(seeds)),
            quotes=self.broker.no_quotes(len(seeds)),
            changed=~zeros(dtype=torch.bool),
        )

    def _partition(self, seeds: Tensor) -> Partition:
        data, fewest = self.config.data, self.config.training.largest_batch
        return self.tasks.partition(self._split_sizes, data.endowment, seeds, fewest)

    def _start(self, seeds: Tensor) -> Tensor:
        """The networks at the beginning of an episode, float32 ``[M, N, P]``."""
        settings, agents = self.config.network, torch.arange(self.config.agents, device=self.device)
        keys = torch.zeros_like(agents) if settings.common_start else agents
        parameters = initial_parameters(self.network, stream(seeds[:, None], "network", keys))
        if self.tasks.differ:  # otherwise all logits are used, and the last parameters need not be biases
            silence_unused(parameters, self.dataset.classes, self.tasks.classes)
        if settings.pretraining_passes:
            first = parameters[:, 0].clone()
            for part in torch.arange(len(seeds), device=self.device).split(self._networks_at_once):
                first[part] = self._pretrained(first[part], seeds[part])
            # The head is no use to agents with another task.
            taken = self.broker.common | (self.tasks.of_agent == self.tasks.of_agent[0]).unsqueeze(1)
            parameters = torch.where(taken, first.unsqueeze(1), parameters)
        return parameters

    def _pretrained(self, parameters: Tensor, seeds: Tensor) -> Tensor:
        """The networks ``[m, P]``, trained as the first agent trains on a share of its task's samples."""
        settings, training = self.config.network, replace(self.config.trainings[0], local_steps=None)
        samples = self.tasks.share_of_first(self._split_sizes, seeds, settings.pretraining_share)
        sizes, state = np.full(len(seeds), samples.shape[1]), training.optimizer.fresh(parameters)
        for number in range(settings.pretraining_passes):
            keys = stream(seeds, "pretraining", number)
            order = shuffled(samples, samples.shape[1], keys)
            train(self.network, training, self.dataset, parameters, state, order, sizes, keys)
        return parameters

    def _estimate_statistics(self, parameters: Tensor, partition: Partition, changed: Tensor) -> None:
        """Give the ``changed`` networks (bool ``[m, N]``) the running statistics of their owners' data, in place."""
        rows = changed.nonzero()
        if not has_statistics(self.network) or len(rows) == 0:
            return
        for part in rows.split(self._networks_at_once):
            where = part.unbind(1)
            parameters[where] = with_own_statistics(self.network, self.dataset, partition, parameters[where], *where)

    @no_grad
    def reset(self, seeds: Tensor, markets: Tensor | None = None) -> None:
        """Begin new episodes in ``markets`` (int64 ``[m]``; None: all) with these ``seeds`` (int64 ``[m]``)."""
        rows = torch.arange(self.num_markets, device=self.device) if markets is None else markets
        require(len(seeds) == len(rows), "seeds", seeds.tolist(), f"one for each of the {len(rows)} markets")
        # Keep the old state until the new state is complete.
        state = self._empty_state() if markets is None else snapshot(self.state)
        for part in torch.arange(len(rows), device=self.device).split(self._partitions_at_once):
            write_rows(state, rows[part], self._fresh(seeds[part]))
        changed = torch.zeros_like(state.alive).index_fill(0, rows, True)
        self.state = state
        state.loss = self.broker.evaluate_and_quote(state, changed, self.market_open)

    def _empty_state(self) -> MarketState:
        """The uninitialised state of all markets."""
        return tree_map(lambda tensor: tensor.new_empty(self.num_markets, *tensor.shape[1:]), self.one)

    @no_grad
    def step(self, orders: Orders) -> StepRecord:
        """Clear, merge, train, post asks, meet, evaluate and quote. Updates the state in place.

        Illegal orders are refused and counted. Orders of terminated agents are ignored. Raises ``ValueError``, before
        anything changes, if the mechanism demands a payment that the buyer cannot make.
        """
        state, partners = self.state, self.config.broker.partners
        alive, market_open = state.alive.clone(), self.market_open
        trained, asked = orders.train & alive, (orders.ask >= 0) & alive.unsqueeze(2)
        # What the host must know is copied from the device at once, as each copy waits for the device.
        wants, trains, sizes, waits = to_host(
            (orders.offer >= 0) & alive, trained, state.partition.sizes, state.changed
        )
        somebody_buys, somebody_trains = wants.any(), trains.any()
        purchases = self._trade(orders, market_open) if somebody_buys else self._no_trade(market_open)
        if somebody_trains:
            self._train(trained, np.where(trains, sizes, 0))
        state.ask = torch.where(asked, orders.ask, state.ask)
        state.cycle += 1
        if somebody_buys or somebody_trains or waits.any() or partners is not None:
            self.broker.meet(state)
            terminated = self._evaluate((purchases["seller"] >= 0) | trained)
        else:
            state.gain, terminated = torch.zeros_like(state.gain), self._blank.terminated
        income = self._income(purchases) if somebody_buys else self._blank.reward
        reward = step_reward(Outcome(state.kappa, state.gain, income, trained), self.config.economy.reward_terms)
        return StepRecord(
            trained=trained,
            asked=asked.any(2),
            **purchases,
            gain=state.gain,
            reward=torch.where(alive, reward, 0.0),
            terminated=terminated,
            truncated=state.cycle >= self.config.max_cycles,
        )

    def _no_trade(self, market_open: Tensor) -> dict[str, Tensor]:
        """The record's columns on purchases in a step in which nobody orders one."""
        self.exchange.settle_nothing(self.state, market_open)
        return {name: getattr(self._blank, name) for name in PURCHASE}

    def _trade(self, orders: Orders, market_open: Tensor) -> dict[str, Tensor]:
        """Clear the orders, deliver what is bought and pay for it. Returns the record's columns on purchases."""
        state, gains = self.state, self.broker.gains(self.state)
        trades = self.exchange.clear(state, orders, gains, market_open)
        bought = trades.seller >= 0
        buys, pays = to_host(bought, covered(state.balance, trades.seller, trades.price))
        if not pays.all():
            raise ValueError(f"the mechanism {self.exchange.mechanism!r} demands more than the balance before the step")
        purchases = {
            "offer": torch.where(bought, orders.offer, -1),
            "seller": trades.seller,
            "bid": torch.where(bought, self.exchange.bids(orders), 0),
            "weight": self._of_purchase(self.broker.weights(state).flatten(2), orders.offer, bought),
            "quoted": self._of_purchase(gains, orders.offer, bought),
            "paid": trades.price,
            "refusal": trades.refusal,
        }
        if buys.any():
            self._merge(orders.offer, bought, int(buys.sum()))
        return purchases | {"received": self.exchange.settle(state, trades, market_open)}

    def _income(self, purchases: dict[str, Tensor]) -> Tensor:
        """Receipts minus payments in units of reward, float64 ``[M, N]``."""
        return self.config.economy.in_reward(purchases["received"] - purchases["paid"])

    @staticmethod
    def _of_purchase(values: Tensor, offer: Tensor, bought: Tensor) -> Tensor:
        """The entry of ``values`` (``[M, N, offers]``) for each agent's purchase, ``[M, N]``; 0 without a purchase."""
        return torch.where(bought, values.gather(2, offer.clamp_min(0).unsqueeze(2)).squeeze(2), 0)

    def _merge(self, offer: Tensor, bought: Tensor, number: int) -> None:
        """Give each of the ``number`` buyers the network that it was quoted, and a fresh optimizer."""
        state = self.state
        market, buyer = self._market_and_agent(largest(bought, number))
        # All merges use the networks from before the step, so write them to a copy.
        merged = state.parameters.clone()
        for some in chunks(number, self._networks_at_once):
            where = (market[some], buyer[some])
            merged[where] = self.broker.deliver(state, *where, offer[where])
        state.parameters = merged
        for tensor in state.optimizer.values():
            tensor[market, buyer] = 0

    def _market_and_agent(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The market and the agent of networks that are numbered from market to market."""
        return numbers // self.config.agents, numbers % self.config.agents

    def _distinct_trainings(self) -> list[tuple[Training, Tensor, np.ndarray]]:
        """The training settings that differ, each with the agents that have it: bool ``[N]``, here and on the host."""
        each = self.config.trainings
        distinct = [training for number, training in enumerate(each) if each.index(training) == number]
        members = [np.array([training == other for other in each]) for training in distinct]
        return [
            (training, torch.from_numpy(who).to(self.device), who)
            for training, who in zip(distinct, members, strict=True)
        ]

    def _train(self, trained: Tensor, sizes: np.ndarray) -> None:
        """Train the agents in ``trained``, bool ``[M, N]``, which have these ``sizes`` on the host; 0: no training."""
        for training, members, on_host in self._trainings:
            if (sizes * on_host).any():
                for _ in range(training.passes):
                    self._train_pass(training, trained & members, sizes * on_host)

    def _train_pass(self, training: Training, trained: Tensor, sizes: np.ndarray) -> None:
        state = self.state
        # train() requires the largest endowments first.
        largest_first = -np.sort(-sizes[sizes > 0])
        order = largest(torch.where(trained, state.partition.sizes, 0), len(largest_first))
        market, agent = self._market_and_agent(order)
        for some in chunks(len(largest_first), self._networks_at_once):
            self._train_chunk(training, market[some], agent[some], largest_first[some])
        state.passes += trained

    def _train_chunk(self, training: Training, market: Tensor, agent: Tensor, sizes: np.ndarray) -> None:
        """Train a chunk of networks, which stays in the processor's cache, for one pass."""
        state = self.state
        keys = stream(state.seeds[market], "shuffle", agent, state.passes[market, agent])
        samples = shuffled(state.partition.endowments[market, agent], int(sizes[0]), keys)
        parameters = state.parameters[market, agent]
        kept = training.optimizer.fresh(parameters[:0])
        optimizer = {name: state.optimizer[name][market, agent] for name in kept}
        train(self.network, training, self.dataset, parameters, optimizer, samples, sizes, keys)
        state.parameters[market, agent] = with_own_statistics(
            self.network, self.dataset, state.partition, parameters, market, agent
        )
        for name, tensor in optimizer.items():
            state.optimizer[name][market, agent] = tensor

    @property
    def _partitions_at_once(self) -> int:
        largest = max(len(self.dataset.labels), self.config.agents * parameter_count(self.network))
        return max(1, chunk_elements(self.device) // largest)

    def _evaluate(self, changed: Tensor) -> Tensor:
        """Evaluate the changed networks, and update the quotes, losses and gains.

        Returns the terminated agents, bool ``[M, N]``. A network that is not finite gets the loss of a uniform guess in
        its task, or its last loss if that was higher. So the reward stays finite.
        """
        state, before = self.state, self.state.loss
        loss = self.broker.evaluate_and_quote(state, changed, self.market_open)
        terminated = ~loss.isfinite()
        state.loss = torch.where(terminated, torch.maximum(before, self.tasks.chance), loss)
        state.alive &= ~terminated
        state.ask = torch.where(state.alive.unsqueeze(2), state.ask, len(self.config.economy.ask_levels))
        state.gain = before - state.loss
        return terminated

    # --- access from outside the market ----------------------------------------------------------------------------

    @no_grad
    def test_confusions(self) -> tuple[Tensor, Tensor]:
        """Loss, float64 ``[M, N]``, and confusion matrix on the test data of each agent's task.

        The matrices are int64 ``[M, N, classes, classes]``; see :func:`losses_and_confusions`. They are for reports;
        agents never see them.
        """
        parameters = self.state.parameters
        on_own = self.tasks.on_own(parameters, self.state.partition.test)
        loss, confusions = losses_and_confusions(self.network, self.dataset, *on_own)
        return loss.view(parameters.shape[:2]), confusions.view(*parameters.shape[:2], *confusions.shape[2:])

    def test_metrics(self) -> tuple[Tensor, Tensor]:
        """Loss and accuracy on the test data of each agent's task, float64 ``[M, N]`` each, for reports."""
        loss, confusions = self.test_confusions()
        return loss, accuracies(confusions)

    @no_grad
    def overwrite(self, parameters: Tensor) -> Tensor:
        """Replace the networks of living agents by ``parameters`` (float32 ``[M, N, P]``), with fresh optimizers.

        Their running statistics are estimated anew. Returns each agent's gain from the replacement, in nats: float64
        ``[M, N]``.
        """
        alive = self.state.alive.clone()
        self.state.parameters = torch.where(alive.unsqueeze(2), parameters, self.state.parameters)
        self._estimate_statistics(self.state.parameters, self.state.partition, alive)
        self.state.optimizer = fresh_state(self.config.training.optimizers, self.state.parameters)
        self._evaluate(alive)
        return self.state.gain
