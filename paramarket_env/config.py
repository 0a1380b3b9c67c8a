"""The configuration of a market: frozen dataclasses that refuse invalid values at construction.

Every setting of a market is a field here, or a field of a plug-in that is chosen here. A plug-in is given as an object
or in its textual form (see ``paramarket_env.plugins``): ``EconomyConfig(mechanism=DoubleAuction(k=0.3))`` and
``EconomyConfig(mechanism="double-auction(k=0.3)")`` are equal. Importing this module registers the built-in plug-ins.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, overload

import numpy as np
import pydantic
import pydantic_core
import torch
from pydantic import AfterValidator, Discriminator, Field, Tag
from torch import Tensor

from paramarket_env.economics.clearing import MECHANISMS, Mechanism
from paramarket_env.economics.kappa import KAPPA_MAX, KAPPA_MIN, KappaDistribution
from paramarket_env.economics.mechanisms import Posted
from paramarket_env.economics.rewards import REWARD_TERMS, RewardTerm
from paramarket_env.learning import stubs  # noqa: F401  # registered by name
from paramarket_env.learning.alignment import activation_matching, frank_wolfe, restarts  # noqa: F401  # by name
from paramarket_env.learning.alignment.aligner import ALIGNERS, Aligner
from paramarket_env.learning.alignment.weight_matching import WeightMatching
from paramarket_env.learning.data import images  # noqa: F401  # registered by name
from paramarket_env.learning.data.datasets import DATASETS, DatasetSource, Digits
from paramarket_env.learning.data.endowments import ENDOWMENTS, Complementary, Endowment, SplitProtocol, SplitSizes
from paramarket_env.learning.mergers import best_of, fisher, pleas, regmean, spherical, task_vectors  # noqa: F401  # by name
from paramarket_env.learning.merging import MERGERS, Linear, Merger
from paramarket_env.learning.networks import convolutional, transformer  # noqa: F401  # registered by name
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.network import ARCHITECTURES, Architecture
from paramarket_env.learning.parameter_sets import PARAMETER_SETS, ParameterSetRule, full
from paramarket_env.learning.training import OPTIMIZERS, SGD, Optimizer, Training
from paramarket_env.validation import INT64_MAX, Count, configuration, explain, plain, require, shown

ActionMode = Literal["verb", "round"]
Disclosure = Literal["none", "transactions", "bounds", "full"]

AGENTS_MAX = 10_000
"""The largest number of agents. Where everybody meets everybody, quotes and observations grow with its square."""

CYCLES_MAX = 1_000_000
"""The largest number of cycles. A float32 observation tells so many cycles apart."""


PASSES_MAX = 100
"""The largest number of passes in which a network is trained at a time. No single step then takes forever."""


def _observable(kappa: float) -> float:
    if 0 < kappa < KAPPA_MIN:
        raise ValueError(f"kappa={kappa!r} is not allowed: it must be 0 or at least {KAPPA_MIN}")
    return kappa


Passes = Annotated[int, Field(ge=1, le=PASSES_MAX)]
Ticks = Annotated[int, Field(ge=0, le=INT64_MAX)]
Curvature = Annotated[float, Field(ge=-1e30, le=1e30)]
Kappa = Annotated[float, Field(ge=0, le=KAPPA_MAX), AfterValidator(_observable)]


ONE_OR_EACH = Discriminator(lambda value: "each" if isinstance(value, tuple | list) else "one")
"""A setting is one value, or one for each agent. The discriminator lets an error name only the form that was given."""

DatasetSetting = Annotated[
    Annotated[DatasetSource, DATASETS, Tag("one")]
    | Annotated[tuple[Annotated[DatasetSource, DATASETS], ...], Field(min_length=1), Tag("each")],
    ONE_OR_EACH,
]

OptimizerSetting = Annotated[
    Annotated[Optimizer, OPTIMIZERS, Tag("one")]
    | Annotated[tuple[Annotated[Optimizer, OPTIMIZERS], ...], Field(min_length=1), Tag("each")],
    ONE_OR_EACH,
]

CountSetting = Count | Annotated[tuple[Count, ...], Field(min_length=1)]


def _each(value: Any) -> tuple[Any, ...]:
    """The values of a setting that is one value, or one for each agent."""
    return value if isinstance(value, tuple) else (value,)


@configuration
class DataConfig:
    """The samples of a market, and their division into splits and endowments."""

    dataset: DatasetSetting = Digits()
    """The source of the samples: one for all agents, or one for each. Agents with the same source have the same task,
    and agents with different tasks trade parts of their trunks, but never their heads."""
    train_samples: CountSetting | None = 1000
    """Number of training samples of a task, which ``endowment`` divides among its agents: one number, or one for each
    task in the order of the agents. None: all that are left."""
    validation_samples: Count | None = 400
    """Number of the broker's samples of a task, for quotes and rewards. Under ``authors`` they are the test set."""
    test_samples: Count | None = 397
    """Number of the reports' samples of a task, which no agent sees. None: the whole test set."""
    protocol: SplitProtocol = "clean"
    """``clean``: three disjoint splits. ``authors``: the test set also serves for validation, as in their scripts."""
    endowment: Annotated[Endowment, ENDOWMENTS] = Complementary()
    """The rule that divides the training samples among the agents."""

    def __post_init__(self) -> None:
        sized = self.protocol == "authors" or self.validation_samples is not None
        require(sized, "data.validation_samples", None, "an integer >= 1 under protocol='clean'")

    def split_sizes(self, tasks: int = 1) -> tuple[SplitSizes, ...]:
        """The number of samples of each split, for each of so many tasks."""
        train = self.train_samples if isinstance(self.train_samples, tuple) else (self.train_samples,) * tasks
        return tuple(SplitSizes(size, self.validation_samples, self.test_samples, self.protocol) for size in train)


@configuration
class NetworkConfig:
    """The networks of a market. All agents have the same architecture, and each has its own parameters."""

    architecture: Annotated[Architecture, ARCHITECTURES] = MLP()
    """The architecture of the networks."""
    common_start: bool = False
    """Whether all agents begin with the same parameters. Otherwise each draws its own."""
    pretraining_passes: Annotated[int, Field(ge=0, le=PASSES_MAX)] = 0
    """Number of whole passes in which the common start is trained before the episode, with the optimizer and the batch
    size of the first agent, and samples of its task."""
    pretraining_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The share of the first task's training samples on which the common start is trained. Agents may hold them too."""

    def __post_init__(self) -> None:
        common = self.common_start or not self.pretraining_passes
        require(common, "network.pretraining_passes", self.pretraining_passes, "0 unless common_start=True")


@configuration
class TrainingConfig:
    """The effect of the action *train*. Each setting is one for all agents, or one for each."""

    optimizer: OptimizerSetting = SGD()
    """The rule by which gradients update the parameters."""
    batch_size: CountSetting = 32
    """Number of samples of a minibatch. Every agent holds at least as many samples as the largest minibatch has."""
    passes: Passes | Annotated[tuple[Passes, ...], Field(min_length=1)] = 1
    """Number of shuffled passes over the endowment."""
    local_steps: CountSetting | None = None
    """Largest number of minibatches of a pass. None: the whole pass, including a short last minibatch."""

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers of all agents, or the one that all have."""
        return _each(self.optimizer)

    @property
    def largest_batch(self) -> int:
        """The largest number of samples of a minibatch."""
        sizes: tuple[int, ...] = _each(self.batch_size)
        return max(sizes)


@configuration
class BrokerConfig:
    """The goods for sale, the broker's alignment and merging, and the cycles in which the market is open."""

    parameter_sets: Annotated[ParameterSetRule, PARAMETER_SETS] = full
    """The parts sold as one good: the ``full`` network, its ``layers`` one by one, ``prefixes`` or a ``span``."""
    aligner: Annotated[Aligner, ALIGNERS] = WeightMatching()
    """The method that brings the seller's hidden units into the buyer's order before a merge, or ``none``."""
    merger: Annotated[Merger, MERGERS] = Linear()
    """The method that merges networks, with the candidates tried before a purchase."""
    opens_at: Annotated[int, Field(ge=0, le=INT64_MAX)] = 0
    """First cycle in which purchases clear."""
    trade_every: Count = 1
    """Number of cycles from one opening of the market to the next."""
    partners: Count | None = None
    """k, the number of other agents that an agent meets in a step, drawn anew for each step. It trades only with these.
    None: everybody meets everybody."""
    smoothness: Curvature | None = None
    """beta of the lower bounds on gains (``disclosure="bounds"``). None: the largest curvature of the merges tried."""
    convexity: Curvature | None = None
    """mu of the upper bounds on gains (``disclosure="bounds"``). None: the smallest curvature of the merges tried."""

    def __post_init__(self) -> None:
        beta, mu = self.smoothness, self.convexity
        require(beta is None or mu is None or mu <= beta, "broker.convexity", mu, f"at most smoothness={beta}")


@configuration
class EconomyConfig:
    """Money, kappas, reward terms and the rules of trade. Amounts of money are integer numbers of ticks."""

    mechanism: Annotated[Mechanism, MECHANISMS] = Posted()
    """The rule by which orders become trades."""
    disclosure: Disclosure = "transactions"
    """The information that sellers observe: ``none`` (their own sales and refusals), ``transactions`` (also all trade
    prices), ``bounds`` (also bounds on every buyer's gain), ``full`` (also the value of their goods to every buyer)."""
    ask_levels: Annotated[tuple[Ticks, ...], Field(min_length=1)] = (0,)
    """The prices that sellers can ask and buyers can bid, in ticks, increasing. One more ask level withholds.
    They differ by at least the resolution of a float32, so that observations tell them apart."""
    initial_ask: Ticks = 0
    """Index of the level posted at the start. ``len(ask_levels)``: withheld."""
    budget: Ticks | Annotated[tuple[Ticks, ...], Field(min_length=1)] = 1000
    """Initial balance in ticks: one number, or one for each agent."""
    tick: Annotated[float, Field(ge=1e-9, le=1e6)] = 0.001
    """Units of reward per tick."""
    broker_fee: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The broker's share of every price, rounded down to whole ticks. The seller gets the rest."""
    kappa_distribution: KappaDistribution = "fixed"
    """The distribution from which each agent's kappa, its reward per nat of gain, is drawn for each episode."""
    kappa: Kappa | Annotated[tuple[Kappa, ...], Field(min_length=1)] = 1.0
    """kappa if it is fixed, otherwise its lower end: one number, or one for each agent."""
    kappa_high: Kappa | Annotated[tuple[Kappa, ...], Field(min_length=1)] | None = None
    """The upper end of kappa: one number, or one for each agent. None if it is fixed."""
    reward_terms: tuple[Annotated[RewardTerm, REWARD_TERMS], ...] = ()
    """Terms that are added to kappa * gain and income."""

    def __post_init__(self) -> None:
        levels = self.ask_levels
        require(all(a < b for a, b in pairwise(levels)), "economy.ask_levels", levels, "increasing")
        observed = np.array([self.in_reward(level) for level in levels], dtype=np.float32)
        apart = bool((observed[:-1] < observed[1:]).all())
        require(apart, "economy.ask_levels", levels, "prices that differ as float32, in which they are observed")
        posted = self.initial_ask <= len(levels)
        require(posted, "economy.initial_ask", self.initial_ask, f"a level from 0 to {len(levels)} (withheld)")
        kind, high = self.kappa_distribution, self.kappa_high
        fits = (high is None) == (kind == "fixed")
        require(fits, "economy.kappa_high", high, "None if kappa is fixed, otherwise its upper end")
        for name in ("kappa", "kappa_high"):
            value = getattr(self, name)
            positive = kind != "log-uniform" or all(end > 0 for end in _each(value))
            require(positive, f"economy.{name}", value, "above 0 if kappa_distribution is 'log-uniform'")

    @overload
    def in_reward(self, ticks: Tensor) -> Tensor: ...
    @overload
    def in_reward(self, ticks: float) -> float: ...
    def in_reward(self, ticks: Tensor | float) -> Tensor | float:
        """Convert ticks to units of reward, a tensor to float64. ``tick`` is applied only here."""
        # Without the cast, an int64 times a Python float would be rounded to float32, which loses whole ticks.
        return (ticks.double() if isinstance(ticks, Tensor) else ticks) * self.tick

    @property
    def prices(self) -> Tensor:
        """The prices that can be asked or bid, in units of reward: float64 ``[L]``."""
        return self.in_reward(torch.tensor(self.ask_levels, device="cpu"))


@configuration
class MarketConfig:
    """One market: N agents, one broker, one ledger."""

    agents: Annotated[int, Field(ge=2, le=AGENTS_MAX)] = 2
    """Number of agents, N."""
    max_cycles: Annotated[int, Field(ge=1, le=CYCLES_MAX)] = 40
    """Number of steps after which an episode is truncated."""
    action_mode: ActionMode = "verb"
    """``verb``: one of train, buy, ask or hold in a step. ``round``: train, buy and ask in one step."""
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    broker: BrokerConfig = BrokerConfig()
    economy: EconomyConfig = EconomyConfig()

    def __post_init__(self) -> None:
        settings = {f"economy.{name}": getattr(self.economy, name) for name in ("kappa", "kappa_high", "budget")}
        settings |= {f"training.{field.name}": getattr(self.training, field.name) for field in fields(self.training)}
        for name, value in ({"data.dataset": self.data.dataset} | settings).items():
            one_each = not isinstance(value, tuple) or len(value) == self.agents
            require(one_each, name, value, f"one value, or one for each of the {self.agents} agents")
        train, tasks = self.data.train_samples, len(set(self.datasets))
        one_each = not isinstance(train, tuple) or len(train) == tasks
        require(one_each, "data.train_samples", train, f"one number, or one for each task, of which there are {tasks}")
        ordered = all(low <= high for low, high in self.kappa_ranges)
        require(ordered, "economy.kappa_high", self.economy.kappa_high, "at least kappa")
        # The earnings of an episode are summed, and an agent can earn the same money again in every cycle.
        money = sum(self.budgets) * self.max_cycles
        allowed = "at most 2**63 - 1 ticks, summed over agents and cycles"
        require(money <= INT64_MAX, "economy.budget", self.economy.budget, allowed)
        bounded, line = self.economy.disclosure == "bounds", isinstance(self.broker.merger, Linear)
        require(not bounded or line, "economy.disclosure", "bounds", "another one unless broker.merger is linear")
        started = self.network.common_start or not self.broker.merger.needs_common_start
        require(started, "broker.merger", self.broker.merger, "another one unless network.common_start=True")
        self._require_partners(self.broker.partners)

    def _require_partners(self, partners: int | None) -> None:
        if partners is None:
            return
        allowed = f"None, or below agents={self.agents}, since no agent meets itself"
        require(partners < self.agents, "broker.partners", partners, allowed)
        allowed = f"an even number with agents={self.agents}, since each meeting is of two agents"
        require(partners * self.agents % 2 == 0, "broker.partners", partners, allowed)
        mechanism = self.economy.mechanism
        allowed = f"None, since economy.mechanism={shown(mechanism)} has an ask for each other agent, met or not"
        require(not mechanism.personal, "broker.partners", partners, allowed)

    @property
    def num_partners(self) -> int:
        """The number of other agents that an agent meets in a step: ``broker.partners``, or N - 1 if that is None."""
        return self.broker.partners or self.agents - 1

    @property
    def datasets(self) -> tuple[DatasetSource, ...]:
        """The source of each agent's samples."""
        return self._for_each_agent(self.data.dataset)

    @property
    def trainings(self) -> tuple[Training, ...]:
        """The training settings of each agent."""
        each = {field.name: self._for_each_agent(getattr(self.training, field.name)) for field in fields(Training)}
        return tuple(Training(**dict(zip(each, values, strict=True))) for values in zip(*each.values(), strict=True))

    @property
    def budgets(self) -> tuple[int, ...]:
        """The initial balance of each agent, in ticks."""
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
        """A copy with other values of its own fields or its sections' fields, such as ``agents`` or ``endowment``.

        Raises ``ValueError`` for an unknown field, listing those that exist, and for a value that is not allowed.
        """
        own = {field.name for field in fields(self)}
        values: dict[str, Any] = {name: changes[name] for name in changes if name in own}
        for section, names in SECTIONS.items():
            part = {name: changes[name] for name in changes if name in names}
            if part:
                whole, kind = values.get(section, getattr(self, section)), type(getattr(self, section))
                require(isinstance(whole, kind), section, whole, f"a {kind.__name__}")
                values[section] = replace(whole, **part)
        known = own.union(*SECTIONS.values())
        for name in changes:
            require(name in known, "field", name, f"one of {', '.join(sorted(known))}")
        return replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON types, with plug-ins in their textual form.

        Raises ``ValueError`` for a plug-in without a name.
        """
        try:
            given: dict[str, Any] = _adapter().dump_python(self, mode="json")
        except pydantic_core.PydanticSerializationError as error:  # its text ends with that of the plug-in's error
            raise ValueError(str(error).rpartition("ValueError: ")[2]) from None
        return given

    def to_json(self) -> str:
        """The configuration as a JSON text; see :meth:`to_dict`."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> MarketConfig:
        """The inverse of :meth:`to_dict`.

        A missing field gets its default. Raises ``ValueError`` for an unknown field, and for a value that is not
        allowed or has no form in JSON. NumPy's numbers become Python's.
        """
        try:
            text = json.dumps(given, default=_plain_number)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"market={shown(given)} is not allowed: it must be plain JSON types ({error})") from error
        return cls.from_json(text)

    @classmethod
    def from_json(cls, text: str | bytes) -> MarketConfig:
        """The inverse of :meth:`to_json`; raises the errors of :meth:`from_dict`."""
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
"""The fields of each section. No field name is in two sections."""


def _plain_number(value: Any) -> Any:
    number = plain(value)
    if number is value:
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return number


@cache
def _adapter() -> pydantic.TypeAdapter[MarketConfig]:
    return pydantic.TypeAdapter(MarketConfig)
