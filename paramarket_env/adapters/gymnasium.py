"""One learning seat as a Gymnasium environment or vector environment. Policies play the other seats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from paramarket_env.adapters.autoreset import Advance, AutoresetBatch, DoubleBuffer, Ending
from paramarket_env.adapters.opponents import Opponents, Others, against_each
from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import MaskStyle, checked_actions
from paramarket_env.validation import require


def _require_no_options(options: dict[str, Any] | None) -> None:
    require(not options, "options", options, "None or empty")


class ParaMarketGymEnv(gymnasium.Env[np.ndarray, Any]):
    """The market from the seat of one agent: ``ParaMarketEnv`` with policies in the other seats.

    The episode is truncated after ``max_cycles``, and terminated when the learner's network fails.
    """

    metadata = ParaMarketEnv.metadata

    def __init__(
        self,
        config: MarketConfig,
        opponents: Others,
        *,
        seat: int = 0,
        render_mode: str | None = None,
        device: str | torch.device = "auto",
        mask_style: MaskStyle = "tuple",
    ) -> None:
        self.market = ParaMarketEnv(config, render_mode=render_mode, device=device, mask_style=mask_style)
        seating = against_each(1, config.agents, opponents, seat)
        self._opponents, self._seat = Opponents(self.market.market_batch, seating), seat
        self.render_mode = render_mode
        self.agent = self.market.possible_agents[seat]
        self.observation_space = self.market.observation_space(self.agent)
        self.action_space = self.market.action_space(self.agent)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode, as ``ParaMarketEnv.reset`` does. Resets the policies in the other seats, too."""
        _require_no_options(options)
        observations, infos = self.market.reset(seed=seed)
        super().reset(seed=None if seed is None else int(seed))
        self._opponents.reset()
        return observations[self.agent], infos[self.agent]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance the market by one step.

        Raises ``ValueError``, before anything changes, for an action outside the space.
        """
        if self.agent not in self.market.agents:
            raise RuntimeError(
                "step() was called after the end of an episode or before the first reset(): call reset()"
            )
        batch = self.market.market_batch
        chosen = torch.from_numpy(checked_actions(action, self.action_space)).unsqueeze(0)
        joint = self._opponents.joint_action(chosen, *batch.observe_and_mask())[0].cpu().numpy()
        actions = dict(zip(self.market.possible_agents, joint, strict=True))
        observations, rewards, terminated, truncated, infos = self.market.step(actions)
        agent = self.agent
        return observations[agent], rewards[agent], terminated[agent], truncated[agent], infos[agent]

    def action_masks(self) -> np.ndarray:
        """The current action mask, bool ``[A]``, for ``sb3_contrib``'s ``MaskablePPO``."""
        return self.market.market_batch.mask()[0, self._seat].cpu().numpy()

    def render(self) -> Any:
        """Render the whole market; see ``ParaMarketEnv.render``."""
        return self.market.render()

    def close(self) -> None:
        """Close the window, if it is open."""
        self.market.close()


class ParaMarketVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """One learning seat in each of M markets. A market is reset in the step in which it ends (``SAME_STEP``).

    A market has the same episodes as a ``ParaMarketGymEnv`` that is reset after each end. ``info["action_mask"]`` is
    int8 ``[M, A]``, flat in both action modes. The other infos are those of ``ParaMarketEnv``, ``[M]`` each.

    Observations and masks alternate between two buffers, so the second step after overwrites a returned array.
    ``final_obs`` and ``final_info`` are copies.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012  # as in Gymnasium

    def __init__(
        self,
        config: MarketConfig,
        num_envs: int,
        opponents: Others,
        *,
        seat: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        seating = against_each(num_envs, config.agents, opponents, seat)
        self._autoreset = AutoresetBatch(config, num_envs, seating.learners, device)
        self.market_batch = batch = self._autoreset.market_batch
        self._opponents, self._seat = Opponents(batch, seating), seat
        self.num_envs = num_envs
        self.single_observation_space = batch.layout.space()
        self.single_action_space = batch.actions.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._observations = DoubleBuffer((num_envs, batch.layout.size), torch.float32)
        self._masks = DoubleBuffer((num_envs, batch.actions.mask_size), torch.int8)

    def reset(
        self, *, seed: int | Iterable[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes in all markets. Resets the policies in the other seats, too.

        ``seed`` is one seed for each market, or a single seed that gives ``seed, seed + 1, ...``. ``options`` must be
        empty.
        """
        _require_no_options(options)
        self._autoreset.reset(seed)
        self._opponents.reset()
        return self._look(), _with_flags(self._infos(self.market_batch.infos()), np.ones(self.num_envs, dtype=np.bool_))

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all markets by one step.

        Returns observations, float32 ``[M, D]``; rewards, float64 ``[M]``; terminations and truncations, bool ``[M]``;
        and infos.

        Raises ``ValueError``, before anything changes, for an action outside the space.
        """
        chosen = torch.from_numpy(checked_actions(actions, self.single_action_space, (self.num_envs,)))
        autoreset = self._autoreset
        if not self.market_batch.begun:
            raise RuntimeError("step() was called before the first reset(): call reset()")
        advance, ending = autoreset.step(self._opponents.joint_action(chosen, autoreset.observation, autoreset.mask))
        if ending is not None:
            self._opponents.reset(ending.markets)
        record = advance.record
        reward, terminated = (part[:, self._seat].cpu().numpy() for part in (record.reward, record.terminated))
        return self._look(), reward, terminated, record.truncated.cpu().numpy(), self._step_infos(advance, ending)

    def _look(self) -> np.ndarray:
        """Write the learner's observations into the next buffer."""
        return self._observations.write(self._autoreset.observation[:, self._seat])

    def _infos(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Select the learner's infos, ``[M]`` each, from those of all agents, and add its mask."""
        # Copy the columns, as the engine overwrites its state.
        infos: dict[str, Any] = {name: column[:, self._seat].cpu().numpy().copy() for name, column in columns.items()}
        infos["action_mask"] = self._masks.write(self._autoreset.mask[:, self._seat])
        return infos

    def _step_infos(self, advance: Advance, ending: Ending | None) -> dict[str, Any]:
        """The infos of a step. For a market that was reset they are the infos of the new episode's reset."""
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        columns = self.market_batch.infos(advance.record)
        if ending is None:
            return _with_flags(self._infos(columns), everywhere)
        began = advance.ended.unsqueeze(1)
        blank = self.market_batch.infos()
        columns = {name: torch.where(began, blank[name], column) for name, column in columns.items()}
        ended = advance.ended.cpu().numpy()
        return _with_flags(self._infos(columns), everywhere) | _with_flags(self._final(ending, ended), ended)

    def _final(self, ending: Ending, ended: np.ndarray) -> dict[str, Any]:
        """``final_obs`` and ``final_info`` in the form of ``SyncVectorEnv``: None or 0 where no episode ended."""
        seen = np.full(self.num_envs, None, dtype=object)
        for row, last in zip(np.flatnonzero(ended), ending.observation[:, self._seat].cpu().numpy(), strict=True):
            seen[row] = last
        learner = {name: column[:, self._seat] for name, column in ending.infos.items()}
        learner["action_mask"] = ending.mask[:, self._seat].cpu().numpy().astype(np.int8)
        info: dict[str, Any] = {}
        for name, column in learner.items():
            info[name] = np.zeros((self.num_envs, *column.shape[1:]), dtype=column.dtype)
            info[name][ended] = column
        return {"final_obs": seen, "final_info": _with_flags(info, ended)}


def _with_flags(infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Add a bool ``[M]`` under ``_name`` to each info, which marks the markets that have it, as Gymnasium requires."""
    return infos | {f"_{name}": rows.copy() for name in infos}
