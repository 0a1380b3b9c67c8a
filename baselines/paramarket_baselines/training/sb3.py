"""Train a policy with Stable-Baselines3: in one seat against given populations, or in all seats (self-play).

The folder of a training has the best policy so far (see ``learned``) or, in a league, the last one,
``evaluations.csv``, ``checkpoint/`` and ``log/`` for TensorBoard. Training resumes from the checkpoint, which is a
saved policy too and has the evaluations so far. Candidates have folders of their own in it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from paramarket_baselines.evaluation.results import provenance
from paramarket_baselines.policies.learned import MANIFEST, MASKABLE, RECURRENT, WEIGHTS, algorithm
from paramarket_baselines.training.callbacks import (
    EvalCallback,
    Evaluations,
    MarketMetrics,
    OnEvaluation,
    OnRollout,
    Progress,
    Reports,
)
from paramarket_baselines.training.candidates import CANDIDATES, best_mixture, candidate_folder, keep_mixture
from paramarket_baselines.training.checkpoint import load_checkpoint, save_checkpoint
from paramarket_baselines.training.exploration import begin_with, even_verbs
from paramarket_baselines.training.grouped import grouped_seeds
from paramarket_baselines.training.imitation import imitate
from paramarket_baselines.training.league import FallingEntropy, evaluation_seeds, opponents_of, ppo_settings
from paramarket_baselines.training.options import GAMMA
from paramarket_baselines.training.plan import Plan, check_resume
from paramarket_baselines.training.remembering import RememberingVecEnv
from paramarket_baselines.training.schedules import linear_schedule
from paramarket_baselines.training.small_rewards import SmallRewards
from paramarket_baselines.training.teachers import Teachers
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.files import expanded, remove_set

TRAINING_SEEDS = 2**40
"""Training starts with seeds from here on, and continues with hashes of them. Smaller seeds are held out."""


def _on_policy(plan: Plan, rows: int) -> dict[str, Any]:
    """PPO's settings. A rollout has whole episodes and at least 2048 agent-steps, or fewer in a short training."""
    wanted = min(2048, max(256, plan.timesteps // 20))
    cycles = plan.config.max_cycles
    steps = cycles * math.ceil(wanted / (cycles * rows))
    minibatch = next(size for size in range(wanted // 8, steps * rows + 1) if steps * rows % size == 0)
    return {
        "n_steps": steps,
        "batch_size": minibatch,
        "n_epochs": 8,
        "learning_rate": linear_schedule(1e-3),
        "ent_coef": 0.01,
    }


SETTINGS: dict[str, Callable[[Plan, int], dict[str, Any]]] = {
    "ppo": _on_policy,
    MASKABLE: _on_policy,
    RECURRENT: lambda plan, rows: {
        **_on_policy(plan, rows),
        "policy": "MlpLstmPolicy",
        "policy_kwargs": {"lstm_hidden_size": 64},
    },
    "a2c": lambda plan, rows: {
        "n_steps": plan.config.max_cycles,
        "learning_rate": linear_schedule(5e-3),  # a rollout gives only one step of the optimizer
        "ent_coef": 0.05,
        "normalize_advantage": True,
    },
    "dqn": lambda plan, rows: {
        "learning_starts": 500,
        "buffer_size": 50_000,
        "batch_size": 128,
        "train_freq": 1,
        "gradient_steps": 8,
        "target_update_interval": 500,
        "exploration_fraction": 0.5,
        "learning_rate": linear_schedule(1e-3),
    },
}
"""Settings that differ from the algorithms' defaults, given the plan and the number of rows of the environment."""


def learn(
    plan: Plan,
    folder: Path | str,
    device: str | torch.device = "auto",
    on_rollout: OnRollout = lambda steps, returned: None,
    on_evaluation: OnEvaluation = lambda steps, returned, best: None,
    *,
    resume: bool = False,
) -> BaseAlgorithm:
    """Train, save the policy in the folder, and return the final model; of candidates, the last one's.

    A policy and a checkpoint that the folder has are removed first, unless ``resume``. A resumed training goes on after
    the last evaluation, with the evaluations and the patience of before. Raises ``ValueError`` for settings that the
    market or the algorithm does not allow, for resuming a different plan, and for a damaged checkpoint;
    ``FileNotFoundError`` if there is nothing to resume; ``ImportError`` for an extra that is not installed.
    """
    folder = expanded(folder)
    plan.to_dict()  # refuse a plug-in without a name now, not when the first checkpoint is kept
    if resume:
        check_resume(plan, folder)
    teachers = Teachers(plan.config, device)
    reports = Reports(on_rollout, on_evaluation)
    if plan.candidates > 1:
        return _learn_candidates(plan, folder, device, teachers, reports, resume=resume)
    return _learn(plan, folder, device, teachers, reports, (), resume=resume, old=folder)


def _learn_candidates(
    plan: Plan, folder: Path, device: str | torch.device, teachers: Teachers, reports: Reports, *, resume: bool
) -> BaseAlgorithm:
    """Train the candidates one after another, and keep a mixture of them in the folder."""
    places = [candidate_folder(folder, number) for number in range(plan.candidates)]
    earlier: list[str] = []
    before = 0
    for candidate, place in zip(plan.each_candidate(), places, strict=True):
        old = place if earlier else folder
        model = _learn(candidate, place, device, teachers, reports.after(before), earlier, resume=resume, old=old)
        earlier.append(f"learned:{place}")
        before += model.num_timesteps
    keep_mixture(folder, places, best_mixture(plan.config, earlier, plan.against, device))
    return model


def _learn(
    plan: Plan,
    folder: Path,
    device: str | torch.device,
    teachers: Teachers,
    reports: Reports,
    earlier: Sequence[str],
    *,
    resume: bool,
    old: Path,
) -> BaseAlgorithm:
    """Train one policy, in a league also against the earlier candidates.

    Without a checkpoint to resume, the earlier training in the folder ``old`` is removed first.
    """
    kind, checkpoint = algorithm(plan.algo), folder / "checkpoint"
    opponents = opponents_of(plan.against, earlier) if plan.league else plan.against
    vec_env = ParaMarketVecEnv(plan.config, plan.num_markets, device, opponents, copy=False)
    env, model = _new(kind, vec_env, plan)
    done, resumed = Evaluations(), resume and (checkpoint / MANIFEST).exists()
    if resumed:
        progress = load_checkpoint(checkpoint, model, env)
        done = Evaluations(list(progress.scores), progress.since)
    else:
        remove_training(old)
    seed = TRAINING_SEEDS + plan.seed * 2**20 + model.num_timesteps
    group = plan.league_settings.members * plan.config.agents
    vec_env.seed(grouped_seeds(seed, plan.num_markets, group) if plan.league else seed)
    if plan.league and not resumed:
        rules = teachers.against(plan.against, plan.league_settings.teachers)
        if earlier:  # the best rule against them has half of the turns
            rules = [*rules, *teachers.against(earlier, 1) * len(rules)]
        imitate(model, env, vec_env, rules, plan.seed, plan.league_settings, turns=bool(earlier))
    model.set_logger(configure(str(folder / "log" / f"from-{model.num_timesteps}"), _formats()))

    about = {"plan": plan.to_dict(), **provenance([plan.seed], vec_env.market_batch.device, dated=False)}

    def save(evaluations: Evaluations) -> None:
        save_checkpoint(checkpoint, model, env, vars(evaluations), about)

    evaluation = EvalCallback(
        plan.config, plan.against, plan.timesteps, folder, save, device, done, about, reports.on_evaluation
    )
    of_league = [FallingEntropy(plan.league_settings.entropy, plan.timesteps)] if plan.league else []
    if plan.league:
        evaluation.seeds, evaluation.keeps_last = evaluation_seeds(plan.config.agents), True
    callbacks = CallbackList([Progress(reports.on_rollout), MarketMetrics(vec_env), *of_league, evaluation])
    left = plan.timesteps - model.num_timesteps
    try:
        evaluation.init_callback(model)
        evaluation.publish()
        if left > 0 and not evaluation.stopped:
            model.learn(left, callback=callbacks, reset_num_timesteps=False)
    finally:
        model.logger.close()
    return model


def remove_training(folder: Path) -> None:
    """Remove the policy, the evaluations, the checkpoint and the log that an earlier training has left in a folder."""
    remove_set(folder / MANIFEST, [WEIGHTS])
    (folder / "evaluations.csv").unlink(missing_ok=True)
    for path in (folder / name for name in ("checkpoint", "log", CANDIDATES)):
        if path.is_symlink():  # what it leads to is not of this folder
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def _new(kind: Any, vec_env: ParaMarketVecEnv, plan: Plan) -> tuple[VecNormalize, BaseAlgorithm]:
    scaled = SmallRewards if plan.algo == "dqn" else VecNormalize
    env = scaled(VecMonitor(RememberingVecEnv(vec_env) if plan.league else vec_env), gamma=GAMMA)
    if plan.league:
        settings = ppo_settings(plan.league_settings, plan.config.max_cycles, vec_env.num_envs, plan.config.agents)
    else:
        settings = SETTINGS[plan.algo](plan, vec_env.num_envs)
    window = vec_env.num_envs
    arguments = {"seed": plan.seed, "gamma": GAMMA, "device": "cpu", "stats_window_size": window}
    model = kind(**{"policy": "MlpPolicy", "env": env, **arguments, **settings})
    if isinstance(model, OnPolicyAlgorithm):
        scores: Any = model.policy.action_net
        begin_with(scores, even_verbs(vec_env.market_batch.actions))
    return env, model


def _formats() -> list[str]:
    """The formats of the log, with TensorBoard's if it is installed."""
    try:
        import tensorboard  # noqa: F401, PLC0415  # an extra
    except ImportError:
        return ["csv"]
    return ["csv", "tensorboard"]
