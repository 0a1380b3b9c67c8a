"""Train a policy with Stable-Baselines3: in one seat against given populations, or in all seats (self-play).

The folder of a training has the best policy so far (see ``learned``), ``evaluations.csv``, ``checkpoint/`` and ``log/``
for TensorBoard. Training resumes from the checkpoint, which is a saved policy too and has the evaluations so far.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from paramarket_baselines.evaluation.results import provenance
from paramarket_baselines.policies.learned import MANIFEST, MASKABLE, RECURRENT, WEIGHTS, algorithm, read_manifest
from paramarket_baselines.training.callbacks import (
    EVALUATIONS,
    EvalCallback,
    Evaluations,
    MarketMetrics,
    OnEvaluation,
    OnRollout,
    Progress,
)
from paramarket_baselines.training.checkpoint import load_checkpoint, save_checkpoint
from paramarket_baselines.training.exploration import begin_with, even_verbs
from paramarket_baselines.training.grouped import grouped_seeds
from paramarket_baselines.training.imitation import imitate
from paramarket_baselines.training.league import (
    DEFAULTS,
    FallingEntropy,
    League,
    LeagueSettings,
    PastSelves,
    evaluation_seeds,
    ppo_settings,
)
from paramarket_baselines.training.options import GAMMA
from paramarket_baselines.training.remembering import RememberingVecEnv
from paramarket_baselines.training.schedules import linear_schedule
from paramarket_baselines.training.small_rewards import SmallRewards
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.config import MarketConfig
from paramarket_env.files import expanded, remove_set
from paramarket_env.interface.policy import POLICIES
from paramarket_env.scenarios import scenario
from paramarket_env.validation import Count, configuration, explain, require

TRAINING_SEEDS = 2**40
"""Training starts with seeds from here on, and continues with hashes of them. Smaller seeds are held out."""


@configuration
class Plan:
    """The settings of a training. To resume it, all of them but ``timesteps`` must equal those of the checkpoint."""

    config: MarketConfig
    algo: str = "ppo"
    """`ppo`, `a2c`, `dqn` (only in verb mode) or, with sb3-contrib, `maskable-ppo` or `recurrent-ppo` (an LSTM)."""
    timesteps: Count = 200_000
    """Agent-steps to train for, counting only agents that learn."""
    num_markets: Count = 48
    """Number of markets."""
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    """Seed of the algorithm and of the markets."""
    against: tuple[str, ...] = ()
    """In each market one agent learns, and one of these policies has all other seats. Without any, all agents learn."""
    league: bool = False
    """In each episode draw one of the opponents anew; imitate rules first, and remember the episode."""
    past_selves: Annotated[int, Field(ge=0, le=100)] = 0
    """The number of past selves that join the opponents of a league."""
    league_settings: LeagueSettings = DEFAULTS
    """The settings of a league's algorithm."""

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        settings = asdict(self.league_settings) | {"layers": list(self.league_settings.layers)}
        return {
            **vars(self),
            "config": self.config.to_dict(),
            "against": list(self.against),
            "league_settings": settings,
        }

    def __post_init__(self) -> None:
        verb = self.config.action_mode == "verb"
        require(self.algo != "dqn" or verb, "algo", self.algo, "an algorithm other than dqn in round mode")
        require(not self.league or self.algo == "ppo", "algo", self.algo, "ppo in a league")
        require(not self.league or len(self.against) > 0, "against", self.against, "one or more policies in a league")
        require(self.league or not self.past_selves, "past_selves", self.past_selves, "0 without a league")
        settings = self.league_settings
        require(self.league or settings == DEFAULTS, "league_settings", settings, "the default without a league")
        members, rollout = settings.members * self.config.agents, self.config.max_cycles * self.num_markets
        fits = not self.league or self.num_markets % members == 0
        require(fits, "num_markets", self.num_markets, f"a multiple of {members} in a league")
        equal = not self.league or rollout % settings.minibatches == 0
        require(equal, "minibatches", settings.minibatches, f"a divisor of the {rollout} agent-steps of a rollout")


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


TRAINING_OPPONENTS = ("train", "paper", "patient", "greedy")
"""The default populations of a training. An evaluation has others, too."""

TUNED: dict[str, dict[str, Any]] = {
    # With three agents or three parameter sets a step takes twice as long.
    "digits-layers-short": {"timesteps": 120_000},
    "three-firms-short": {"timesteps": 120_000},
    "costly-training-short": {"timesteps": 120_000},
    # One learner among eight would learn from an eighth of what is computed.
    "crowd-short": {"against": (), "num_markets": 12, "timesteps": 120_000},
    "crowd-64": {"against": (), "num_markets": 2, "timesteps": 120_000},
    "crowd-256": {"against": (), "num_markets": 1, "timesteps": 120_000},
}
"""Settings by scenario that differ from a plan's defaults with one learner against ``TRAINING_OPPONENTS``."""


LEAGUES: dict[str, dict[str, Any]] = {
    # Without prices there is less to learn.
    "digits-short": {"timesteps": 300_000},
    "digits-layers-short": {"timesteps": 300_000},
    # A step with more firms takes longer. With fewer agent-steps, smaller rollouts leave enough updates.
    "three-firms-short": {"timesteps": 250_000, "num_markets": 384},
    "costly-training-short": {"timesteps": 250_000, "num_markets": 384},
    "crowd-short": {"timesteps": 40_000, "num_markets": 192},
}
"""Settings by scenario that differ from the defaults of a league."""


def tuned_league(config: MarketConfig, name: str = "", settings: LeagueSettings = DEFAULTS) -> Plan:
    """The plan of a league in a market, or in the scenario of that name."""
    unit = math.lcm(settings.members * config.agents, settings.minibatches)
    chosen = {"timesteps": 500_000, "num_markets": max(768 // unit, 1) * unit, **LEAGUES.get(name, {})}
    return Plan(config, against=("varied",), league=True, past_selves=3, league_settings=settings, **chosen)


def tuned(name: str) -> Plan:
    """The plan for a scenario."""
    return Plan(scenario(name), **{"against": TRAINING_OPPONENTS, **TUNED.get(name, {})})


def learn(
    plan: Plan,
    folder: Path | str,
    device: str | torch.device = "auto",
    on_rollout: OnRollout = lambda steps, returned: None,
    on_evaluation: OnEvaluation = lambda steps, returned, best: None,
    *,
    resume: bool = False,
) -> BaseAlgorithm:
    """Train, save the policy in the folder, and return the final model.

    A policy and a checkpoint that the folder has are removed first, unless ``resume``. A resumed training goes on after
    the last evaluation, with the evaluations and the patience of before. Raises ``ValueError`` for settings that the
    market or the algorithm does not allow, for resuming a different plan, and for a damaged checkpoint;
    ``FileNotFoundError`` if there is nothing to resume; ``ImportError`` for an extra that is not installed.
    """
    folder = expanded(folder)
    kind, checkpoint = algorithm(plan.algo), folder / "checkpoint"
    plan.to_dict()  # refuse a plug-in without a name now, not when the first checkpoint is kept
    if resume:
        check_resume(plan, folder)
    league = League(folder, plan.against, plan.league_settings.weight) if plan.league else None
    opponents = league.opponents if league else plan.against
    vec_env = ParaMarketVecEnv(plan.config, plan.num_markets, device, opponents, copy=False)
    env, model = _new(kind, vec_env, plan)
    done = Evaluations()
    if resume:
        progress = load_checkpoint(checkpoint, model, env)
        done = Evaluations(list(progress.scores), progress.since)
        if league:
            league.restore()
    else:
        remove_training(folder)
    seed = TRAINING_SEEDS + plan.seed * 2**20 + model.num_timesteps
    group = plan.league_settings.members * plan.config.agents
    vec_env.seed(grouped_seeds(seed, plan.num_markets, group) if league else seed)
    if league and not resume:
        imitate(model, env, vec_env, plan.seed, plan.league_settings)
    model.set_logger(configure(str(folder / "log" / f"from-{model.num_timesteps}"), _formats()))

    about = {"plan": plan.to_dict(), **provenance([plan.seed], vec_env.market_batch.device, dated=False)}

    def save(evaluations: Evaluations) -> None:
        save_checkpoint(checkpoint, model, env, vars(evaluations), about)

    evaluation = EvalCallback(
        plan.config, plan.against, plan.timesteps, folder, save, device, done, about, on_evaluation
    )
    if league:
        evaluation.seeds, evaluation.patience = evaluation_seeds(plan.config.agents), EVALUATIONS
    of_league = (
        [
            FallingEntropy(plan.league_settings.entropy, plan.timesteps),
            PastSelves(league, plan.past_selves, plan.timesteps),
        ]
        if league
        else []
    )
    callbacks = CallbackList([Progress(on_rollout), MarketMetrics(vec_env), *of_league, evaluation])
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
    for path in (folder / "checkpoint", folder / "log", folder / "past"):
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


def check_resume(plan: Plan, folder: Path | str) -> None:
    """Refuse to resume with a plan that differs from that of the checkpoint in the folder.

    A setting that the stored plan lacks has its default there. Raises ``FileNotFoundError`` if there is no checkpoint,
    and ``ValueError`` for a damaged one, for one with settings that are unknown, and for a different plan.
    """
    folder = expanded(folder)
    manifest = folder / "checkpoint" / MANIFEST
    if not manifest.exists():
        raise FileNotFoundError(f"out={str(folder)!r} has no checkpoint to resume: train without --resume")
    saved = _stored_plan(manifest)
    # As policies, not as texts: `patient` and `patient(patience=6)` are the same if 6 is the default.
    same_opponents = [*map(POLICIES.parse, plan.against)] == [*map(POLICIES.parse, saved.against)]
    for name, now, then in _differences(plan.to_dict(), saved.to_dict()):
        same = name == "timesteps" or (name == "against" and same_opponents)
        require(same, name, now, f"{then!r}, as in the checkpoint in {str(manifest.parent)!r}")


def _stored_plan(manifest: Path) -> Plan:
    try:
        text = json.dumps(read_manifest(manifest).metadata.get("plan"))
        plan: Plan = TypeAdapter(Plan).validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{str(manifest)!r} cannot be resumed: {explain(error, 'plan')}") from None
    return plan


def _differences(here: Any, there: Any, name: str = "") -> Sequence[tuple[str, Any, Any]]:
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted({*here, *there})
        pairs = [(f"{name}.{key}".lstrip("."), here.get(key), there.get(key)) for key in keys]
        return [found for field, now, then in pairs for found in _differences(now, then, field)]
    return [] if here == there else [(name, here, there)]


def _formats() -> list[str]:
    """The formats of the log, with TensorBoard's if it is installed."""
    try:
        import tensorboard  # noqa: F401, PLC0415  # an extra
    except ImportError:
        return ["csv"]
    return ["csv", "tensorboard"]
