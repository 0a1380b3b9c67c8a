"""The reward of a step: kappa times the gain, plus the income, plus the reward terms of the market."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from paramarket_env.plugins import Registry
from paramarket_env.validation import configuration


@dataclass(frozen=True)
class Outcome:
    """The part of a step's result that rewards depend on, ``[M, N]`` each."""

    kappa: Tensor
    """float64: units of reward per nat."""
    gain: Tensor
    """float64: the fall of the validation loss, in nats."""
    income: Tensor
    """float64: receipts minus payments, in units of reward."""
    trained: Tensor
    """bool: whether the agent trained."""


@runtime_checkable
class RewardTerm(Protocol):
    """A plug-in that adds a term to the reward."""

    def __call__(self, outcome: Outcome) -> Tensor:
        """The term, in units of reward: float64 ``[M, N]``."""


REWARD_TERMS: Registry[RewardTerm] = Registry("reward term", RewardTerm)


def step_reward(outcome: Outcome, terms: Sequence[RewardTerm]) -> Tensor:
    """Every agent's reward, float64 ``[M, N]``: kappa times the gain, plus the income, plus the terms."""
    reward = outcome.kappa * outcome.gain + outcome.income
    for term in terms:
        reward = reward + term(outcome)
    return reward


@REWARD_TERMS.register
@configuration
class TrainCost:
    """A training pass costs the agent a fixed amount."""

    cost: Annotated[float, Field(ge=0, le=1e6)]
    """The cost of a pass, in units of reward."""

    def __call__(self, outcome: Outcome) -> Tensor:
        """See :meth:`RewardTerm.__call__`."""
        return -self.cost * outcome.trained.double()


@REWARD_TERMS.register
@configuration
class Rivalry:
    """The gains of the other agents reduce the reward."""

    weight: Annotated[float, Field(ge=0, le=1e6)]
    """Units of reward lost per nat of the other agents' mean gain."""

    def __call__(self, outcome: Outcome) -> Tensor:
        """See :meth:`RewardTerm.__call__`."""
        return -self.weight * _mean_of_others(outcome.gain)


@REWARD_TERMS.register
@configuration
class RelativeGain:
    """An agent values its lead: the gains of the other agents cost it as much as its own gains bring.

    Unlike ``rivalry``, whose cost all agents know, a nat of the others costs the agent's own kappa, which is private.
    """

    weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Multiples of the own kappa lost per nat of the other agents' mean gain."""

    def __call__(self, outcome: Outcome) -> Tensor:
        """See :meth:`RewardTerm.__call__`."""
        return -self.weight * outcome.kappa * _mean_of_others(outcome.gain)


def _mean_of_others(gain: Tensor) -> Tensor:
    """The mean gain of the other agents, ``[M, N]``."""
    return (gain.sum(1, keepdim=True) - gain) / (gain.shape[1] - 1)
