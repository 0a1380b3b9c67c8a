"""A start for a policy: it imitates the best rules against its opponents, another one in every episode.

A policy that begins with random actions spends most of its training on actions that no sensible agent takes, and
settles on a price that it has met by chance. One that imitates the best rules begins near their return, and
reinforcement improves on them (behavioural cloning; Pomerleau 1989).
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

from paramarket_baselines.policies.mixed import Mixed
from paramarket_baselines.training.league import LeagueSettings
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.interface.policy import POLICIES, PolicyFactory, seat_of
from paramarket_env.seeding import stream


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
) -> None:
    """Let the policy choose what the teachers would, and the critic expect what they got."""
    lessons = _observe(env, markets, Mixed(map(POLICIES.parse, teachers)), settings.imitation_episodes)
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


def _observe(env: VecNormalize, markets: ParaMarketVecEnv, teachers: PolicyFactory, episodes: int) -> Lessons:
    """Play episodes in which each row has one of the teachers."""
    batch = markets.market_batch
    rows = torch.arange(markets.num_envs, device=batch.device)
    player = teachers(seat_of(batch, len(rows)))
    size, seen, did, got = batch.layout.size, [], [], []
    env.reset()
    for episode in range(episodes):
        # The rows of a group have the same seed, and different teachers.
        player.reset(rows, stream(rows, "teacher", episode))
        rewards = []
        for _ in range(batch.config.max_cycles):
            raw = np.array(env.get_original_obs())
            mask = torch.from_numpy(markets.action_masks()).to(batch.device)
            actions = player.act(torch.from_numpy(raw[:, :size]).to(batch.device), mask).cpu().numpy()
            env.step(actions)
            seen.append(raw)
            did.append(actions)
            rewards.append(env.get_original_reward().copy())
        got.append(np.cumsum(rewards[::-1], axis=0)[::-1])
    returns = np.concatenate(got).reshape(-1) / np.sqrt(env.ret_rms.var + env.epsilon)
    observations = env.normalize_obs(np.concatenate(seen))
    return Lessons(
        torch.as_tensor(observations, dtype=torch.float32, device="cpu"),
        torch.from_numpy(np.concatenate(did)),
        torch.as_tensor(returns, dtype=torch.float32, device="cpu"),
    )


def _loss(policy: Any, lessons: Lessons, rows: Tensor, smoothing: float) -> Tensor:
    values, chances, entropy = policy.evaluate_actions(lessons.observations[rows], lessons.actions[rows])
    error = F.mse_loss(values.squeeze(1), lessons.returns[rows])
    loss: Tensor = 0.5 * error - chances.mean() - smoothing * entropy.mean()
    return loss
