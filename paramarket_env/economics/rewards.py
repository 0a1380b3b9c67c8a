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
        gain = outcome.gain
        return -self.weight * ((gain.sum(1, keepdim=True) - gain) / (gain.shape[1] - 1))
