"""Callbacks during training: progress, market metrics for TensorBoard, and evaluation that keeps the best policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.callbacks import BaseCallback

from paramarket_baselines.evaluation.matches import play_matches
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.evaluation.welfare import returns
from paramarket_baselines.policies.saving import save_policy
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.config import MarketConfig
from paramarket_env.files import write_file

OnRollout = Callable[[int, float], None]
"""Called with the steps taken, and the mean return of the last episodes (NaN before the first one ends)."""

OnEvaluation = Callable[[int, float, float], None]
"""Called with the steps taken, the mean return in an evaluation, and the best one so far."""


@dataclass(frozen=True)
class Reports:
    """The functions to which a training reports."""

    on_rollout: OnRollout
    on_evaluation: OnEvaluation

    def after(self, before: int) -> Reports:
        """The same for a training that follows others, which took ``before`` agent-steps."""
        return Reports(
            lambda steps, returned: self.on_rollout(before + steps, returned),
            lambda steps, returned, best: self.on_evaluation(before + steps, returned, best),
        )


EVALUATIONS = 10
"""The number of evaluations during a training."""

PATIENCE = 4
"""Training stops early after this number of evaluations without an improvement."""

EVALUATION_SEEDS = range(2**41, 2**41 + 16)
"""Seeds that neither training nor reports use."""


METRICS = {
    "return": "reward",
    "gain": "gain",
    "payments": "paid",
    "receipts": "received",
    "trades": "bought",
    "trainings": "trained",
    "refusals": "refused",
}
"""The metrics that ``MarketMetrics`` logs, each the sum of a column of ``StepRecord`` over an episode."""


def returns_against(
    config: MarketConfig, policy: str, populations: Sequence[str], seeds: Sequence[int], device: str | torch.device
) -> np.ndarray:
    """The returns of a policy in every seat against each population, or of all agents if there is none, ``[n]``.

    In self-play there is one episode for each seed, whatever the number of agents.
    """
    if not populations:
        played = play(config, Arm(policy, (policy,)), seeds, device, closing_trade=False)
        return np.asarray(returns(played)).reshape(-1)
    found = play_matches(config, policy, {each: [each] for each in populations}, seeds, device)
    return np.stack([*found.values()]).reshape(-1)


class Progress(BaseCallback):
    """Reports the progress of training."""

    def __init__(self, on_rollout: OnRollout) -> None:
        super().__init__()
        self._report = on_rollout

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._report(self.num_timesteps, float(np.mean(returns)) if returns else float("nan"))


class MarketMetrics(BaseCallback):
    """Logs ``METRICS`` per agent and episode, averaged over a rollout.

    ``trader_0/return`` averages over the markets in which that agent learns, ``opponents/return`` over all seats that
    do not learn.
    """

    def __init__(self, env: ParaMarketVecEnv) -> None:
        super().__init__()
        self._env = env
        self._cycles = env.market_batch.config.max_cycles

    def _on_rollout_start(self) -> None:
        self._steps = 0
        self._sums: dict[str, torch.Tensor] = {}

    def _on_step(self) -> bool:
        self._steps += 1
        for name, column in METRICS.items():
            figure: torch.Tensor = getattr(self._env.record, column)
            self._sums[name] = self._sums.get(name, 0) + figure.double()
        return True

    def _on_rollout_end(self) -> None:
        learners = self._env.learners
        groups = {f"trader_{agent}": _column(learners, agent) for agent in range(learners.shape[1])}
        for group, seats in {**groups, "opponents": ~learners}.items():
            if bool(seats.any()):
                means = {name: float(total[seats].mean()) / self._steps for name, total in self._sums.items()}
                for name, mean in means.items():
                    self.logger.record_mean(f"{group}/{name}", mean * self._cycles)
                if means["trades"] > 0:
                    self.logger.record_mean(f"{group}/price", means["payments"] / means["trades"])


def _column(learners: torch.Tensor, agent: int) -> torch.Tensor:
    """The learning seats of one agent, a mask like ``learners``."""
    seats = torch.zeros_like(learners)
    seats[:, agent] = learners[:, agent]
    return seats


@dataclass
class Evaluations:
    """The evaluations of a training, which its checkpoint keeps."""

    scores: list[tuple[int, float]] = field(default_factory=list)
    """The agent-steps and the mean return of each evaluation."""
    since: int = 0
    """The number of evaluations since the best one."""

    def add(self, timesteps: int, score: float) -> None:
        """Add an evaluation."""
        best = max((old for _, old in self.scores), default=-np.inf)
        self.scores.append((timesteps, score))
        self.since = 0 if score > best else self.since + 1


class EvalCallback(BaseCallback):
    """Evaluates the policy at intervals, saves a checkpoint and the best policy, and stops the training early."""

    def __init__(
        self,
        config: MarketConfig,
        populations: Sequence[str],
        timesteps: int,
        folder: Path,
        save: Callable[[Evaluations], None],
        device: str | torch.device,
        done: Evaluations,
        metadata: dict[str, Any],
        on_evaluation: OnEvaluation,
    ) -> None:
        super().__init__()
        self.seeds: Sequence[int] = EVALUATION_SEEDS
        self.keeps_last = False
        """Whether the last policy is kept instead of the best one, and the training never stops early."""
        self._config, self._folder, self._save, self._device = config, folder, save, device
        self._populations, self._report = tuple(populations), on_evaluation
        self._every = timesteps / EVALUATIONS
        self._due = 0.0
        self._done, self._metadata = done, metadata

    @property
    def stopped(self) -> bool:
        """Whether the policy has not become better for ``PATIENCE`` evaluations."""
        return self._done.since >= PATIENCE and not self.keeps_last

    def _on_training_start(self) -> None:
        self._due = self.num_timesteps + self._every

    def _on_step(self) -> bool:
        return not self.stopped

    def _on_rollout_end(self) -> None:
        if self.num_timesteps >= self._due:
            self._due = self.num_timesteps + self._every
            self._evaluate()

    def _on_training_end(self) -> None:
        if not self.stopped:
            self._evaluate()

    def _evaluate(self) -> None:
        score = self._score()
        self.logger.record("evaluation/return", score)
        self._done.add(self.num_timesteps, score)
        self._save(self._done)
        self.publish()
        self._report(self.num_timesteps, score, max(score for _, score in self._done.scores))

    def _score(self) -> float:
        """The mean return of the current policy, which no file of the training has before it is evaluated."""
        with TemporaryDirectory() as folder:
            save_policy(folder, self.model)
            found = returns_against(self._config, f"learned:{folder}", self._populations, self.seeds, self._device)
        return float(found.mean())

    def publish(self) -> None:
        """Write the files that follow from the checkpoint: the table, and the policy if it is the one to keep."""
        if not self._done.scores:
            return
        table = pd.DataFrame(self._done.scores, columns=["timesteps", "return"])
        write_file(self._folder / "evaluations.csv", table.to_csv(index=False))
        if self._done.since == 0 or self.keeps_last:
            save_policy(self._folder, self.model, {**self._metadata, "timesteps": self._done.scores[-1][0]})
