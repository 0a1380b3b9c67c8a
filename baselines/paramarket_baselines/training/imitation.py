"""A start for a policy: it imitates the best rules against its opponents.

A policy that begins with random actions spends most of its training on actions that no sensible agent takes, and
settles on a price that it has met by chance. One that imitates the best rules begins near their return, and
reinforcement improves on them (behavioural cloning; Pomerleau 1989).

Teachers that are good against all opponents play whole episodes. Those of which some are good against one kind of
opponents and some against another take turns within an episode. Then only the rows that get at least the mean of their
group are imitated. A group meets one opponent, so the policy learns to tell opponents apart, and to wait until it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from torch.nn import functional as F

from paramarket_baselines.policies.mixed import MixedPolicy, drawn
from paramarket_baselines.training.grouped import above_the_mean
from paramarket_baselines.training.league import LeagueSettings
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.interface.policy import POLICIES, PolicyFactory, seat_of
from paramarket_env.seeding import stream, uniform

TURN = 1 / 8
"""The chance that a teacher is drawn anew in a step, where they take turns."""


@dataclass(frozen=True)
class Lessons:
    """The steps of teachers: observations ``[n, D]``, actions ``[n, ...]`` and the returns that followed, ``[n]``."""

    observations: Tensor
    actions: Tensor
    returns: Tensor


def imitate(
    model: BaseAlgorithm,
    env: VecNormalize,
    markets: ParaMarketVecEnv,
    teachers: Sequence[str],
    seed: int,
    settings: LeagueSettings,
    *,
    turns: bool = False,
) -> None:
    """Let the policy choose what the teachers would, and the critic expect what they got.

    With ``turns`` the teachers take turns within an episode. About half of these lessons are kept, so twice as many
    episodes are played.
    """
    lessons = _observe(env, markets, list(map(POLICIES.parse, teachers)), settings, turns)
    policy: Any = model.policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.imitation_learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.imitation_epochs):
        order = torch.randperm(len(lessons.returns), generator=generator, device="cpu")
        for rows in order.split(settings.imitation_batch):
            loss = _loss(policy, lessons, rows, settings.smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()


def _observe(
    env: VecNormalize,
    markets: ParaMarketVecEnv,
    teachers: Sequence[PolicyFactory],
    settings: LeagueSettings,
    turns: bool,
) -> Lessons:
    """Play episodes in which each row has one of the teachers at a time."""
    batch = markets.market_batch
    rows = torch.arange(markets.num_envs, device=batch.device)
    player = MixedPolicy(seat_of(batch, len(rows)), teachers)
    size, seen, did, got, chosen = batch.layout.size, [], [], [], []
    env.reset()
    for episode in range(settings.imitation_episodes * (2 if turns else 1)):
        # The rows of a group have the same seed, and different teachers.
        player.reset(rows, stream(rows, "teacher", episode))
        rewards = []
        for cycle in range(batch.config.max_cycles):
            raw = np.array(env.get_original_obs())
            mask = torch.from_numpy(markets.action_masks()).to(batch.device)
            if turns:
                _take_turns(player, stream(rows, "turns", episode, cycle))
            actions = player.act(torch.from_numpy(raw[:, :size]).to(batch.device), mask).cpu().numpy()
            env.step(actions)
            seen.append(raw)
            did.append(actions)
            rewards.append(env.get_original_reward().copy())
        got.append(np.cumsum(rewards[::-1], axis=0)[::-1])
        better = not turns or above_the_mean(got[-1][0], settings.members, batch.config.agents)
        chosen.append(np.broadcast_to(better, got[-1].shape))
    kept = np.concatenate(chosen).reshape(-1)
    returns = np.concatenate(got).reshape(-1) / np.sqrt(env.ret_rms.var + env.epsilon)
    observations = np.asarray(env.normalize_obs(np.concatenate(seen)))
    return Lessons(
        torch.as_tensor(observations[kept], dtype=torch.float32, device="cpu"),
        torch.from_numpy(np.concatenate(did)[kept]),
        torch.as_tensor(returns[kept], dtype=torch.float32, device="cpu"),
    )


def _take_turns(player: MixedPolicy, keys: Tensor) -> None:
    """Draw the teachers of some rows anew."""
    count = len(player.members)
    changed = uniform(stream(keys, "whether"), 1).squeeze(1) < TURN
    player.drawn = torch.where(changed, drawn(keys, [1 / count] * count), player.drawn)


def _loss(policy: Any, lessons: Lessons, rows: Tensor, smoothing: float) -> Tensor:
    values, chances, entropy = policy.evaluate_actions(lessons.observations[rows], lessons.actions[rows])
    error = F.mse_loss(values.squeeze(1), lessons.returns[rows])
    loss: Tensor = 0.5 * error - chances.mean() - smoothing * entropy.mean()
    return loss
