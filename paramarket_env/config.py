"""What a market is made of, as frozen dataclasses that refuse impossible values at construction.

Every setting of a market is here or a field of a plug-in that is named here. A plug-in is given itself, or by its
textual form (see ``paramarket_env.plugins``): ``EconomyConfig(mechanism=DoubleAuction(k=0.3))`` and
``EconomyConfig(mechanism="double-auction(k=0.3)")`` are equal. Importing this module registers the built-in plug-ins.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

import pydantic
import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.economics.clearing import MECHANISMS, Mechanism
from paramarket_env.economics.kappa import KAPPA_MAX, KappaDistribution
from paramarket_env.economics.mechanisms import Posted
from paramarket_env.economics.rewards import REWARD_TERMS, RewardTerm
from paramarket_env.learning.alignment.aligner import ALIGNERS, Aligner
from paramarket_env.learning.alignment.weight_matching import WeightMatching
from paramarket_env.learning.data.datasets import DATASETS, DatasetSource, Digits
from paramarket_env.learning.data.endowments import ENDOWMENTS, Complementary, Endowment, SplitProtocol, SplitSizes
from paramarket_env.learning.merging import MERGERS, Linear, Merger
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.network import ARCHITECTURES, Architecture
from paramarket_env.learning.parameter_sets import PARAMETER_SETS, ParameterSetRule, full
from paramarket_env.learning.training import OPTIMIZERS, SGD, Optimizer
from paramarket_env.validation import configuration, explain, require

ActionMode = Literal["verb", "round"]
Disclosure = Literal["none", "transactions", "bounds", "full"]

INT64_MAX = 2**63 - 1

Count = Annotated[int, Field(ge=1, le=INT64_MAX)]
Ticks = Annotated[int, Field(ge=0, le=INT64_MAX)]
Curvature = Annotated[float, Field(ge=-1e30, le=1e30)]
Kappa = Annotated[float, Field(ge=0, le=KAPPA_MAX)]


def _each(value: Any) -> tuple[Any, ...]:
    """The values of a setting that is one value or one for each agent."""
    return value if isinstance(value, tuple) else (value,)


@configuration
class DataConfig:
    """Which samples there are, and who holds them."""

    dataset: Annotated[DatasetSource, DATASETS] = Digits()
    """Where the samples come from."""
    train_samples: Count | None = 1000
    """Training samples, divided among the agents by ``endowment``; None: all that are left."""
    validation_samples: Count | None = 400
    """The broker's samples, for quotes and rewards (under ``authors`` they are the test set instead)."""
    test_samples: Count | None = 397
    """Samples of the reports, never seen by an agent; None: all of the test set."""
    protocol: SplitProtocol = "clean"
    """``clean``: three disjoint splits. ``authors``: validation *is* the test set, as in the authors' scripts."""
    endowment: Annotated[Endowment, ENDOWMENTS] = Complementary()
    """Who gets which training samples."""

    def __post_init__(self) -> None:
        sized = self.protocol == "authors" or self.validation_samples is not None
        require(sized, "data.validation_samples", None, "an integer >= 1 under protocol='clean'")

    @property
    def split_sizes(self) -> SplitSizes:
        """How many samples each split has."""
        return SplitSizes(self.train_samples, self.validation_samples, self.test_samples, self.protocol)


@configuration
class NetworkConfig:
    """The networks of a market: all agents have the same architecture, each its own parameters."""

    architecture: Annotated[Architecture, ARCHITECTURES] = MLP()
    """What a network is made of."""


@configuration
class TrainingConfig:
    """What the action *train* does."""

    optimizer: Annotated[Optimizer, OPTIMIZERS] = SGD()
    """How gradients change the parameters."""
    batch_size: Count = 32
    """Samples of a minibatch."""
    local_steps: Count | None = None
    """At most this many minibatches of a shuffled pass; None: the whole pass, its last short batch included."""


@configuration
class BrokerConfig:
    """How the broker aligns, tries and quotes, and when the market is open."""

    parameter_sets: Annotated[ParameterSetRule, PARAMETER_SETS] = full
    """What is sold as one good: the ``full`` network, its ``layers`` one by one, or ``prefixes`` of layers."""
    aligner: Annotated[Aligner, ALIGNERS] = WeightMatching()
    """How the seller's hidden units are brought into the buyer's order before merging; ``none`` leaves them."""
    merger: Annotated[Merger, MERGERS] = Linear()
    """Which merges are tried before a purchase."""
    opens_at: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    """First cycle at which purchases clear."""
    trade_every: Count = 1
    """From then on the market is open every so many cycles."""
    smoothness: Curvature | None = None
    """``disclosure="bounds"``: beta of the lower bounds on gains; None: the largest curvature met in the tries."""
    convexity: Curvature | None = None
    """``disclosure="bounds"``: mu of the upper bounds on gains; None: the smallest curvature met in the tries."""

    def __post_init__(self) -> None:
        beta, mu = self.smoothness, self.convexity
        require(beta is None or mu is None or mu <= beta, "broker.convexity", mu, f"at most smoothness, {beta}")


@configuration
class EconomyConfig:
    """Money, kappas, reward terms and the rules of trade. Amounts of money are integers of ticks."""

    mechanism: Annotated[Mechanism, MECHANISMS] = Posted()
    """How orders become trades."""
    disclosure: Disclosure = "transactions"
    """What sellers are told: ``none`` (their own sales and refusals), ``transactions`` (also all trade prices),
    ``bounds`` (also bounds on every buyer's gain), ``full`` (also what their parameters are worth to every buyer)."""
    ask_levels: Annotated[tuple[Ticks, ...], Field(min_length=1)] = (0,)
    """The prices that a seller can ask, and a buyer bid, in ticks, increasing. One more level withholds."""
    initial_ask: Annotated[int, Field(ge=0)] = 0
    """Index of the level posted at the start; ``len(ask_levels)``: withheld."""
    budget: Ticks | Annotated[tuple[Ticks, ...], Field(min_length=1)] = 1000
    """Balance at the start, in ticks: one number, or one for each agent."""
    tick: Annotated[float, Field(gt=0, le=1e6)] = 0.001
    """Units of reward for one tick."""
    broker_fee: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The broker's share of every price, rounded down to whole ticks; the seller gets the rest."""
    kappa_distribution: KappaDistribution = "fixed"
    """How kappa, the value of a nat of validation loss to an agent, is drawn for each agent and episode."""
    kappa: Kappa | Annotated[tuple[Kappa, ...], Field(min_length=1)] = 1.0
    """kappa if fixed, otherwise the lower end: one number, or one for each agent."""
    kappa_high: Kappa | Annotated[tuple[Kappa, ...], Field(min_length=1)] | None = None
    """The upper end of kappa: one number, or one for each agent; None if fixed."""
    reward_terms: tuple[Annotated[RewardTerm, REWARD_TERMS], ...] = ()
    """Terms of the reward besides kappa * gain and income."""

    def __post_init__(self) -> None:
        levels = self.ask_levels
        require(all(a < b for a, b in pairwise(levels)), "economy.ask_levels", levels, "increasing")
        posted = self.initial_ask <= len(levels)
        require(posted, "economy.initial_ask", self.initial_ask, f"a level from 0 to {len(levels)} (withheld)")
        kind, high = self.kappa_distribution, self.kappa_high
        fits = (high is None) == (kind == "fixed")
        require(fits, "economy.kappa_high", high, "None if kappa is fixed, and otherwise its upper end")
        for name in ("kappa", "kappa_high"):
            value = getattr(self, name)
            positive = kind != "log-uniform" or all(end > 0 for end in _each(value))
            require(positive, f"economy.{name}", value, "above 0 if kappa_distribution is 'log-uniform'")

    def in_reward(self, ticks: Tensor) -> Tensor:
        """Ticks in units of reward, float64: the one place where ``tick`` is applied to tensors."""
        # In float64: an int64 times a Python float would be rounded to float32, and whole ticks would be lost.
        return ticks.double() * self.tick

    @property
    def prices(self) -> Tensor:
        """The prices that can be asked, or bid, in units of reward: float64 ``[L]``."""
        return self.in_reward(torch.tensor(self.ask_levels))


@configuration
class MarketConfig:
    """One market: N agents, one broker, one ledger."""

    agents: Annotated[int, Field(ge=2, le=INT64_MAX)] = 2
    """N."""
    max_cycles: Count = 40
    """Steps of an episode, after which it is truncated."""
    action_mode: ActionMode = "verb"
    """``verb``: one of train, buy, ask or hold a step. ``round``: all of them in one step."""
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    broker: BrokerConfig = BrokerConfig()
    economy: EconomyConfig = EconomyConfig()

    def __post_init__(self) -> None:
        for name in ("kappa", "kappa_high", "budget"):
            value = getattr(self.economy, name)
            one_each = not isinstance(value, tuple) or len(value) == self.agents
            require(one_each, f"economy.{name}", value, f"one number, or one for each of the {self.agents} agents")
        ordered = all(low <= high for low, high in self.kappa_ranges)
        require(ordered, "economy.kappa_high", self.economy.kappa_high, "at least kappa")
        # All that an agent earns in an episode is counted, and the same money can come round in every cycle.
        money = sum(self.budgets) * self.max_cycles
        require(money <= INT64_MAX, "economy.budget", self.economy.budget, "at most 2**63 - 1 ticks, in all cycles")
        bounded, line = self.economy.disclosure == "bounds", isinstance(self.broker.merger, Linear)
        require(not bounded or line, "economy.disclosure", "bounds", "another, unless broker.merger is linear")

    @property
    def budgets(self) -> tuple[int, ...]:
        """The balance of each agent at the start, in ticks."""
        return self._for_each_agent(self.economy.budget)

    @property
    def kappa_ranges(self) -> tuple[tuple[float, float], ...]:
        """The lower and the upper end of each agent's kappa."""
        lows = self._for_each_agent(self.economy.kappa)
        highs = self.economy.kappa_high
        return tuple(zip(lows, lows if highs is None else self._for_each_agent(highs), strict=True))

    def _for_each_agent(self, value: Any) -> tuple[Any, ...]:
        return value if isinstance(value, tuple) else (value,) * self.agents

    # --- changes, and JSON -----------------------------------------------------------------------------------------

    def changed(self, **changes: Any) -> MarketConfig:
        """The market with other values for fields of its own or of its sections, such as ``agents`` or ``endowment``.

        Raises ``ValueError`` that lists the fields for a name that is none, and for values that are not allowed.
        """
        own = {field.name for field in fields(self)}
        values: dict[str, Any] = {name: changes[name] for name in changes if name in own}
        for section, names in SECTIONS.items():
            part = {name: changes[name] for name in changes if name in names}
            if part:
                values[section] = replace(values.get(section, getattr(self, section)), **part)
        known = own.union(*SECTIONS.values())
        for name in changes:
            require(name in known, "field", name, f"one of {', '.join(sorted(known))}")
        return replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """The market as JSON has it: plug-ins by their textual form."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> MarketConfig:
        """The market of :meth:`to_dict`. A field that is missing has its default; an unknown one is refused."""
        return cls.from_json(json.dumps(plain))

    @classmethod
    def from_json(cls, text: str) -> MarketConfig:
        """The market of a JSON text; raises ``ValueError`` for what is not allowed."""
        try:
            return _adapter().validate_json(text)
        except pydantic.ValidationError as error:
            raise ValueError(explain(error, "market")) from None


SECTIONS: dict[str, frozenset[str]] = {
    section: frozenset(field.name for field in fields(kind))
    for section, kind in (
        ("data", DataConfig),
        ("network", NetworkConfig),
        ("training", TrainingConfig),
        ("broker", BrokerConfig),
        ("economy", EconomyConfig),
    )
}
"""The fields of each section; no two sections have a field of one name."""


@cache
def _adapter() -> pydantic.TypeAdapter[MarketConfig]:
    return pydantic.TypeAdapter(MarketConfig)
