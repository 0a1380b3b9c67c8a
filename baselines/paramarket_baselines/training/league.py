"""A league: the opponents are drawn anew for every episode, and candidates answer those before them.

Each opponent plays a rule of a broad family (:mod:`paramarket_baselines.policies.varied`), so the policy must be good
on average, and must find out during the episode whom it meets; its observations contain the history of the episode. A
later candidate meets the earlier ones in half of its episodes (:mod:`paramarket_baselines.training.candidates`). A
policy begins by imitating the best rules (:mod:`paramarket_baselines.training.imitation`), and learns from groups of
equal episodes (:mod:`paramarket_baselines.training.grouped`). Against one opponent the same training makes a best
response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from stable_baselines3.common.callbacks import BaseCallback

from paramarket_baselines.policies.mixed import Mixed
from paramarket_baselines.training.callbacks import EVALUATION_SEEDS
from paramarket_baselines.training.grouped import GroupedRolloutBuffer
from paramarket_baselines.training.schedules import linear_schedule
from paramarket_env.interface.policy import POLICIES
from paramarket_env.validation import Count, configuration

EVALUATED = 192
"""The number of episodes of an evaluation, over all seats. The opponents differ from seed to seed, so it is large."""


@configuration
class LeagueSettings:
    """The settings of a league's algorithm. `python -m benchmarks.tuning` searches for better ones."""

    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    """PPO's learning rate at the beginning. It falls in proportion to what is left of the training."""
    entropy: Annotated[float, Field(ge=0)] = 0.05
    """The weight of the entropy in PPO's loss at the beginning; see :class:`FallingEntropy`."""
    epochs: Count = 8
    """The number of passes of PPO over a rollout."""
    minibatches: Count = 16
    """The number of equal parts of a rollout; each gives one step of the optimizer."""
    layers: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 128)
    """The widths of the hidden layers of the policy, and of the critic."""
    members: Annotated[int, Field(ge=2)] = 8
    """The number of equal episodes in a group."""
    teachers: Count = 4
    """The number of the best rules that are imitated."""
    imitation_episodes: Count = 4
    """The number of episodes that are imitated, in every market."""
    imitation_epochs: Count = 15
    """The number of passes of the imitation over these episodes."""
    imitation_batch: Count = 1024
    """The number of agent-steps in a minibatch of the imitation."""
    imitation_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The learning rate of the imitation."""
    smoothing: Annotated[float, Field(ge=0)] = 0.05
    """The weight of the entropy in the imitation's loss, so that no action is ruled out."""


DEFAULTS = LeagueSettings()


def evaluation_seeds(agents: int) -> range:
    """Seeds of the evaluations, which begin as those of other trainings do."""
    first = EVALUATION_SEEDS.start
    return range(first, first + max(EVALUATED // agents, 2))


def ppo_settings(settings: LeagueSettings, cycles: int, rows: int, agents: int) -> dict[str, Any]:
    """PPO's settings in a league: a rollout is one episode of every market."""
    layers = list(settings.layers)
    return {
        "n_steps": cycles,
        "batch_size": cycles * rows // settings.minibatches,
        "n_epochs": settings.epochs,
        "learning_rate": linear_schedule(settings.learning_rate),
        "ent_coef": settings.entropy,
        "policy_kwargs": {"net_arch": {"pi": layers, "vf": layers}},
        "rollout_buffer_class": GroupedRolloutBuffer,
        "rollout_buffer_kwargs": {"members": settings.members, "agents": agents},
    }


def opponents_of(against: Sequence[str], earlier: Sequence[str]) -> Mixed:
    """The opponents of a training and, in half of the episodes, one of the earlier candidates."""
    given = Mixed(map(POLICIES.check, against))
    return Mixed([given, Mixed(map(POLICIES.check, earlier))]) if earlier else given


class FallingEntropy(BaseCallback):
    """Lets the weight of the entropy fall to 0, in proportion to what is left of the training.

    At first the policy explores. In the end, when it is compared by its most probable actions, it commits itself.
    """

    def __init__(self, entropy: float, timesteps: int) -> None:
        super().__init__()
        self._entropy, self._timesteps = entropy, timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        model.ent_coef = self._entropy * max(0.0, 1 - self.num_timesteps / self._timesteps)
