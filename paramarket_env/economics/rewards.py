"""The reward of a step: the value of the gain, plus the income, plus the terms that a market adds to them."""

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
    """The part of a step that rewards depend on, ``[M, N]`` each."""

    kappa: Tensor
    """float64: reward for a nat."""
    gain: Tensor
    """float64: fall of the validation loss, in nats."""
    income: Tensor
    """float64: receipts less payments, in units of reward."""
    trained: Tensor
    """bool."""


@runtime_checkable
class RewardTerm(Protocol):
    """A term of the reward besides gain and income: a plug-in."""

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
    """A training pass costs its owner a fixed amount."""

    cost: Annotated[float, Field(ge=0, le=1e6)]
    """Units of reward."""

    def __call__(self, outcome: Outcome) -> Tensor:
        """See :meth:`RewardTerm.__call__`."""
        return -self.cost * outcome.trained.double()


@REWARD_TERMS.register
@configuration
class Rivalry:
    """A gain of the others is a loss to oneself."""

    weight: Annotated[float, Field(ge=0, le=1e6)]
    """Reward lost for each nat that the other agents gained on average."""

    def __call__(self, outcome: Outcome) -> Tensor:
        """See :meth:`RewardTerm.__call__`."""
        gain = outcome.gain
        return -self.weight * ((gain.sum(1, keepdim=True) - gain) / (gain.shape[1] - 1))
