"""What a market is made of, as frozen dataclasses that refuse impossible values at construction.

Every number that a market depends on is here, grouped by who reads it. Names of plug-ins (datasets,
networks, endowments, optimizers, parameter sets) are plain strings, looked up where the plug-ins live.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal

ActionMode = Literal["verb", "round"]
Protocol = Literal["clean", "authors"]
KappaDistribution = Literal["fixed", "uniform", "log-uniform"]
Disclosure = Literal["none", "transactions", "bounds", "full"]

INT64_MAX = 2**63 - 1

KAPPA_MAX = 100.0
"""Upper end of values per nat: one for all, so that the bound of an observation tells nothing of another's value."""


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Raise a ``ValueError`` that names the field, the value and what is allowed, unless ``ok``."""
    if not ok:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")


def lookup(table: dict[str, Any], name: str, what: str) -> Any:
    """The entry ``name`` of a table of plug-ins, or a ``ValueError`` that lists those that exist."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(sorted(table))}")
    return table[name]


def _is_int(value: Any, low: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low


def _is_real(value: Any, low: float, high: float = math.inf) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high


def _each(value: Any) -> tuple[Any, ...]:
    """The values of a setting that is one value or one for each agent."""
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class DataConfig:
    """Which samples there are, and who holds them."""

    dataset: str = "digits"
    """What ``paramarket list`` shows as a dataset."""
    data_dir: str | None = None
    """Folder with the files of the dataset (the digits need none); None: torchvision's download."""
    train_samples: int | None = 1000
    """Training samples, divided among the agents by ``endowment``; None: all that are left."""
    validation_samples: int | None = 400
    """The broker's samples, for quotes and rewards (under ``authors`` they are the test set instead)."""
    test_samples: int | None = 397
    """Samples of the reports, never seen by an agent; None: all of the test set."""
    protocol: Protocol = "clean"
    """``clean``: three disjoint splits. ``authors``: validation *is* the test set, as in the authors' scripts."""
    endowment: str = "complementary"
    """Who gets which training samples: ``complementary``, ``dirichlet`` or ``iid``."""
    scarcity: float = 0.1
    """``complementary``: the share that an agent keeps of the classes it is short of."""
    concentration: float = 0.5
    """``dirichlet``: the parameter alpha; small is uneven."""

    def __post_init__(self) -> None:
        for name in ("train_samples", "validation_samples", "test_samples"):
            value = getattr(self, name)
            require(value is None or _is_int(value, 1), f"data.{name}", value, "an integer >= 1, or None for all")
        require(self.protocol in ("clean", "authors"), "data.protocol", self.protocol, "'clean' or 'authors'")
        require(_is_real(self.scarcity, 0.0, 1.0), "data.scarcity", self.scarcity, "within [0, 1]")
        require(_is_real(self.concentration, 0.01, 1e6), "data.concentration", self.concentration, "within [0.01, 1e6]")
        clean_splits_are_sized = self.protocol == "authors" or self.validation_samples is not None
        require(clean_splits_are_sized, "data.validation_samples", None, "an integer >= 1 under protocol='clean'")


@dataclass(frozen=True)
class NetworkConfig:
    """The networks of a market: all agents have the same architecture, each its own parameters."""

    architecture: str = "mlp"
    """What ``paramarket list`` shows as a network architecture."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        widths = isinstance(self.hidden, tuple) and all(_is_int(width, 1) for width in self.hidden)
        require(widths, "network.hidden", self.hidden, "a tuple of integers >= 1")


@dataclass(frozen=True)
class TrainingConfig:
    """What the action *train* does."""

    optimizer: str = "sgd"
    """``sgd`` or ``adam``."""
    lr: float = 0.05
    """Learning rate."""
    momentum: float = 0.0
    """SGD's momentum; Adam has its own."""
    batch_size: int = 32
    """Samples of a minibatch."""
    local_steps: int | None = None
    """At most this many minibatches of a shuffled pass; None: the whole pass, its last short batch included."""

    def __post_init__(self) -> None:
        require(_is_real(self.lr, 0.0, 1e30) and self.lr > 0, "training.lr", self.lr, "a number > 0 and at most 1e30")
        in_range = _is_real(self.momentum, 0.0, 1.0) and self.momentum < 1
        require(in_range, "training.momentum", self.momentum, "within [0, 1)")
        require(_is_int(self.batch_size, 1), "training.batch_size", self.batch_size, "an integer >= 1")
        steps = self.local_steps
        require(steps is None or _is_int(steps, 1), "training.local_steps", steps, "an integer >= 1, or None")


@dataclass(frozen=True)
class BrokerConfig:
    """How the broker aligns, tries and quotes, and when the market is open."""

    parameter_sets: str = "full"
    """What is sold as one good: the ``full`` network, its ``layers`` one by one, or ``prefixes`` of layers."""
    align: bool = True
    """Permute the seller's hidden units into the buyer's order before merging."""
    merge_grid: tuple[float, ...] = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
    """Merge weights tried before a purchase."""
    opens_at: int = 0
    """First cycle at which purchases clear."""
    trade_every: int = 1
    """From then on the market is open every so many cycles."""
    smoothness: float | None = None
    """``disclosure="bounds"``: beta of the lower bounds on gains; None: the largest curvature met in the tries."""
    convexity: float | None = None
    """``disclosure="bounds"``: mu of the upper bounds on gains; None: the smallest curvature met in the tries."""

    def __post_init__(self) -> None:
        grid = self.merge_grid
        require(isinstance(grid, tuple), "broker.merge_grid", grid, "a tuple")
        inside = all(_is_real(weight, 0.0, 1.0) and weight > 0 for weight in grid)
        increasing = all(a < b for a, b in pairwise(grid))
        require(
            len(grid) > 0 and inside and increasing,
            "broker.merge_grid",
            grid,
            "increasing weights within (0, 1], at least one",
        )
        require(_is_int(self.opens_at, 0), "broker.opens_at", self.opens_at, "an integer >= 0")
        require(_is_int(self.trade_every, 1), "broker.trade_every", self.trade_every, "an integer >= 1")
        for name in ("smoothness", "convexity"):
            value = getattr(self, name)
            allowed = value is None or _is_real(value, -1e30, 1e30)
            require(allowed, f"broker.{name}", value, "a number within [-1e30, 1e30], or None to measure it")
        beta, mu = self.smoothness, self.convexity
        require(beta is None or mu is None or mu <= beta, "broker.convexity", mu, f"at most smoothness, {beta}")


@dataclass(frozen=True)
class EconomyConfig:
    """Money, values, costs and the rules of trade. Amounts are integers of ticks; ``tick`` turns them into reward."""

    mechanism: str = "posted"
    """How orders become trades: what ``paramarket list`` shows as a mechanism."""
    disclosure: Disclosure = "transactions"
    """What sellers are told: ``none`` (their own sales and refusals), ``transactions`` (also all trade prices),
    ``bounds`` (also bounds on every buyer's gain), ``full`` (also what their parameters are worth to every buyer)."""
    ask_levels: tuple[int, ...] = (0,)
    """The prices that a seller can ask, and a buyer bid, in ticks, increasing. One more level withholds."""
    initial_ask: int = 0
    """Index of the level posted at the start; ``len(ask_levels)``: withheld."""
    budget: int | tuple[int, ...] = 1000
    """Balance at the start, in ticks: one number, or one for each agent."""
    tick: float = 0.001
    """Units of reward for one tick."""
    broker_fee: float = 0.0
    """The broker's share of every price, rounded down to whole ticks; the seller gets the rest."""
    auction_k: float = 0.5
    """``double-auction``: where between the ask (0) and the bid (1) the price lies."""
    copies: int = 1
    """``second-price``: how many copies of each good are for sale in a step."""
    kappa_distribution: KappaDistribution = "fixed"
    """How kappa, what a nat of validation loss is worth, is drawn for each agent and episode."""
    kappa: float | tuple[float, ...] = 1.0
    """kappa if fixed, otherwise the lower end: one number, or one for each agent."""
    kappa_high: float | tuple[float, ...] | None = None
    """The upper end of kappa: one number, or one for each agent; None if fixed."""
    train_cost: float = 0.0
    """Reward lost by a training pass."""
    rivalry: float = 0.0
    """Reward lost for each nat that the other agents gained on average."""

    def __post_init__(self) -> None:
        self._check_prices()
        self._check_values()
        shown = self.disclosure in ("none", "transactions", "bounds", "full")
        require(shown, "economy.disclosure", self.disclosure, "'none', 'transactions', 'bounds' or 'full'")
        require(_is_int(self.copies, 1), "economy.copies", self.copies, "an integer >= 1")
        require(_is_real(self.auction_k, 0.0, 1.0), "economy.auction_k", self.auction_k, "within [0, 1]")
        fee = self.broker_fee
        require(_is_real(fee, 0.0, 1.0) and fee < 1, "economy.broker_fee", fee, "within [0, 1)")
        tick = self.tick
        require(_is_real(tick, 0.0, 1e6) and tick > 0, "economy.tick", tick, "a number > 0 and at most 1e6")
        for name in ("train_cost", "rivalry"):
            value = getattr(self, name)
            finite = _is_real(value, 0.0) and math.isfinite(value)
            require(finite, f"economy.{name}", value, "a finite number >= 0")

    def _check_prices(self) -> None:
        levels = self.ask_levels
        require(isinstance(levels, tuple), "economy.ask_levels", levels, "a tuple")
        whole = all(_is_int(level, 0) and level <= INT64_MAX for level in levels)
        increasing = all(a < b for a, b in pairwise(levels))
        allowed = "increasing integers >= 0 that fit into int64, at least one"
        require(len(levels) > 0 and whole and increasing, "economy.ask_levels", levels, allowed)
        posted = _is_int(self.initial_ask, 0) and self.initial_ask <= len(levels)
        require(posted, "economy.initial_ask", self.initial_ask, f"a level from 0 to {len(levels)} (withheld)")
        budgets = _each(self.budget)
        whole = len(budgets) > 0 and all(_is_int(budget, 0) for budget in budgets)
        require(whole, "economy.budget", self.budget, "an integer >= 0, or a tuple of such integers")

    def _check_values(self) -> None:
        kind, high = self.kappa_distribution, self.kappa_high
        known = kind in ("fixed", "uniform", "log-uniform")
        require(known, "economy.kappa_distribution", kind, "'fixed', 'uniform' or 'log-uniform'")
        fits = (high is None) == (kind == "fixed")
        require(fits, "economy.kappa_high", high, "None if the values are fixed, and otherwise their upper end")
        lowest = "a number > 0" if kind == "log-uniform" else "a number >= 0"
        allowed = f"{lowest} and at most {KAPPA_MAX:g}, or a tuple of such numbers"
        for name in ("kappa", "kappa_high"):
            values = _each(getattr(self, name))
            in_range = len(values) > 0 and all(_is_real(value, 0.0, KAPPA_MAX) for value in values)
            positive = kind != "log-uniform" or all(value > 0 for value in values)
            absent = name == "kappa_high" and high is None
            require(absent or (in_range and positive), f"economy.{name}", getattr(self, name), allowed)


@dataclass(frozen=True)
class MarketConfig:
    """One market: N agents, one broker, one ledger."""

    agents: int = 2
    """N."""
    max_cycles: int = 40
    """Steps of an episode, after which it is truncated."""
    action_mode: ActionMode = "verb"
    """``verb``: one of train, buy, ask or hold a step. ``round``: all of them in one step."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    economy: EconomyConfig = field(default_factory=EconomyConfig)

    def __post_init__(self) -> None:
        require(_is_int(self.agents, 2), "agents", self.agents, "an integer >= 2")
        require(_is_int(self.max_cycles, 1), "max_cycles", self.max_cycles, "an integer >= 1")
        require(self.action_mode in ("verb", "round"), "action_mode", self.action_mode, "'verb' or 'round'")
        for name in ("kappa", "kappa_high", "budget"):
            value = getattr(self.economy, name)
            one_each = not isinstance(value, tuple) or len(value) == self.agents
            require(one_each, f"economy.{name}", value, f"one number, or one for each of the {self.agents} agents")
        ordered = all(low <= high for low, high in self.kappa_ranges)
        require(ordered, "economy.kappa_high", self.economy.kappa_high, "at least kappa")
        # All that an agent earns in an episode is counted, and the same money can come round in every cycle.
        money = sum(self.budgets) * self.max_cycles
        require(money <= INT64_MAX, "economy.budget", self.economy.budget, "at most 2**63 - 1 ticks, in all cycles")

    @property
    def budgets(self) -> tuple[int, ...]:
        """The balance of every agent at the start, in ticks."""
        return self._for_each_agent(self.economy.budget)

    @property
    def kappa_ranges(self) -> tuple[tuple[float, float], ...]:
        """The lower and the upper end of every agent's kappa."""
        lows = self._for_each_agent(self.economy.kappa)
        highs = self.economy.kappa_high
        return tuple(zip(lows, lows if highs is None else self._for_each_agent(highs), strict=True))

    def _for_each_agent(self, value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value,) * self.agents
