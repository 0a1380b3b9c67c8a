"""One learning seat as a Gymnasium environment or vector environment. Policies play the other seats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from paramarket_env.adapters.autoreset import Advance, AutoresetBatch, Ending, to_numpy
from paramarket_env.adapters.face import Face
from paramarket_env.adapters.opponents import Opponents, Others, Seating, against_each
from paramarket_env.adapters.pettingzoo import ParaMarketEnv, Snapshot
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import MaskStyle, checked_actions, client_mask, require_mask_style
from paramarket_env.interface.policy import Policy
from paramarket_env.interface.render import Renderer
from paramarket_env.market.state import MarketState
from paramarket_env.plugins import text_of
from paramarket_env.validation import integer, require


def _require_no_options(options: dict[str, Any] | None) -> None:
    require(not options, "options", options, "None or empty")


class _GymFace(Face):
    """A face whose ``spec`` says how long an episode is, and can be written as JSON and made again."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """The specification that ``gymnasium.make`` sets."""
        return self._spec

    @spec.setter
    def spec(self, given: EnvSpec | None) -> None:
        cycles = self.market_batch.config.max_cycles
        self._spec = given and replace(given, kwargs=_plain(given.kwargs), max_episode_steps=cycles)


def _plain(value: Any) -> Any:
    """A value as plain JSON types if it has such a form: plug-ins in their textual form, configurations as mappings."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.device):
        return str(value)
    try:
        return value.to_dict() if isinstance(value, MarketConfig) else text_of(value, complete=True)
    except (TypeError, ValueError):  # a plain value, or a plug-in without a name
        return value


@dataclass(frozen=True)
class GymSnapshot:
    """A copy of an episode with the policies that play the other seats."""

    market: Snapshot
    seating: Seating
    policies: list[Policy]


class ParaMarketGymEnv(_GymFace, gymnasium.Env[np.ndarray, Any]):
    """The market from the seat of one agent: ``ParaMarketEnv`` with policies in the other seats.

    The episode is truncated after ``max_cycles``, and terminated when the learner's network fails. To go back, use the
    environment's own :meth:`restore`: the market alone, ``market``, does not know the memory of the other policies.
    """

    metadata = ParaMarketEnv.metadata
    _state: MarketState | None = None
    """The state that the policies in the other seats know."""

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
        self.market_batch = self.market.market_batch
        self._seating, self._seat = against_each(1, config.agents, opponents, seat), seat
        self._opponents = Opponents(self.market_batch, self._seating)
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
        self._state = self.market_batch.engine.state
        return observations[self.agent], infos[self.agent]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance the market by one step.

        Raises ``ValueError``, before anything changes, for an action outside the space.
        """
        if self.agent not in self.market.agents:
            raise RuntimeError(
                "step() was called after the end of an episode or before the first reset(): call reset()"
            )
        batch = self.market_batch
        if batch.engine.state is not self._state:
            raise RuntimeError("the market was reset or restored alone: call reset() or restore() of this environment")
        chosen = torch.from_numpy(checked_actions(action, self.action_space)).unsqueeze(0)
        joint = self._opponents.joint_action(chosen, *batch.observe_and_mask())[0].cpu().numpy()
        actions = dict(zip(self.market.possible_agents, joint, strict=True))
        observations, rewards, terminated, truncated, infos = self.market.step(actions)
        agent = self.agent
        return observations[agent], rewards[agent], terminated[agent], truncated[agent], infos[agent]

    def action_masks(self) -> np.ndarray:
        """The current action mask, bool ``[A]``, for ``sb3_contrib``'s ``MaskablePPO``."""
        return self.market_batch.mask()[0, self._seat].cpu().numpy()

    def snapshot(self) -> GymSnapshot:
        """A copy of the episode and of the policies in the other seats, for :meth:`restore`."""
        return GymSnapshot(self.market.snapshot(), self._seating, self._opponents.snapshot())

    def restore(self, saved: GymSnapshot) -> None:
        """Return to a copy that :meth:`snapshot` made. The copy can be restored again.

        Raises ``ValueError``, before anything changes, for the copy of another market or of another seating.
        """
        require(isinstance(saved, GymSnapshot), "snapshot", type(saved).__name__, "a GymSnapshot of snapshot()")
        if not saved.seating.equals(self._seating):
            raise ValueError("the snapshot cannot be restored: it is of another seat, or against other opponents")
        self.market.restore(saved.market)
        self._opponents.restore(saved.policies)
        self._state = self.market_batch.engine.state

    def render(self) -> Any:
        """Render the whole market; see ``ParaMarketEnv.render``."""
        return self.market.render()

    def close(self) -> None:
        """Close the window, if it is open."""
        self.market.close()


class ParaMarketVectorEnv(_GymFace, VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """One learning seat in each of M markets. A market is reset in the step in which it ends (``SAME_STEP``).

    A market has the same episodes as a ``ParaMarketGymEnv`` that is reset after each end. ``info["action_mask"]`` is
    int8 ``[M, A]``. In the style ``tuple`` and a ``MultiDiscrete`` space it is an array of M tuples instead, one mask
    for each part, as in ``SyncVectorEnv``. The other infos are those of ``ParaMarketEnv``, ``[M]`` each.

    All arrays are copies. With ``copy=False`` observations can share the market's memory, which saves one copy per
    step. They never change then either, but must not be written to.
    """

    _renderers: Sequence[Renderer] = ()  # so that what was refused at construction can be closed

    metadata: dict[str, Any] = {**ParaMarketEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  # as in Gymnasium

    def __init__(
        self,
        config: MarketConfig,
        num_envs: int,
        opponents: Others,
        *,
        seat: int = 0,
        render_mode: str | None = None,
        device: str | torch.device = "auto",
        mask_style: MaskStyle = "flat",
        copy: bool = True,
    ) -> None:
        require_mask_style(mask_style)
        num_envs = integer("num_envs", num_envs, 1)
        seating = against_each(num_envs, config.agents, opponents, seat)
        self._autoreset = AutoresetBatch(config, num_envs, seating.learners, device)
        self.market_batch = batch = self._autoreset.market_batch
        self._opponents, self._seat = Opponents(batch, seating), seat
        self.agent = batch.agent_names[seat]
        self._mask_style, self._copy, self.render_mode = mask_style, copy, render_mode
        rendered = range(num_envs if render_mode is not None else 0)
        self._renderers = [Renderer(render_mode, batch, market) for market in rendered]
        self.num_envs = num_envs
        self.single_observation_space = batch.layout.space()
        self.single_action_space = batch.actions.space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | Iterable[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes in all markets. Resets the policies in the other seats, too.

        ``seed`` is one seed for each market, or a single seed from which all of them are hashed. So two single seeds
        have no market in common. With the seeds of ``SyncVectorEnv``, ``seed + m`` for market m, neighbours would share
        most of them. ``options`` must be empty.
        """
        _require_no_options(options)
        self._autoreset.reset(seed)
        self._opponents.reset()
        for renderer in self._renderers:
            renderer.begin()
        return self._observations(), _with_flags(
            self._infos(self.market_batch.infos()), np.ones(self.num_envs, dtype=np.bool_)
        )

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
        self._remember(advance)
        reward, terminated = (part[:, self._seat].cpu().numpy() for part in (record.reward, record.terminated))
        return (
            self._observations(),
            reward,
            terminated,
            record.truncated.cpu().numpy(),
            self._step_infos(advance, ending),
        )

    def _observations(self) -> np.ndarray:
        return to_numpy(self._autoreset.observation[:, self._seat], self._copy)

    def _remember(self, advance: Advance) -> None:
        """Add the step to what is rendered. A market that was reset shows its new episode."""
        if not self._renderers:
            return
        for renderer, ended in zip(self._renderers, advance.ended.tolist(), strict=True):
            if ended:
                renderer.begin()
            else:
                renderer.add(advance.record)

    def render(self) -> tuple[Any, ...]:
        """Render each market; see ``Renderer.render``. Without a render mode it is empty."""
        return tuple(renderer.render() for renderer in self._renderers)

    def close_extras(self, **_: Any) -> None:
        """Close the windows that are open."""
        for renderer in self._renderers:
            renderer.close()

    def _infos(self, columns: dict[str, np.ndarray]) -> dict[str, Any]:
        """Select the learner's infos, ``[M]`` each, from those of all agents, and add its mask."""
        infos: dict[str, Any] = {name: column[:, self._seat].copy() for name, column in columns.items()}
        return infos | self._masks(self._autoreset.mask)

    def _masks(self, masks: Tensor) -> dict[str, Any]:
        """The info ``action_mask`` of m markets from the masks of all agents, bool ``[m, N, A]``."""
        flat, style = masks[:, self._seat].cpu().numpy(), self._mask_style
        if style == "none":
            return {}
        if style == "flat" or not self.single_action_space.shape:
            return {"action_mask": flat.astype(np.int8)}
        parts = np.empty(len(flat), dtype=object)
        for row, mask in enumerate(flat):
            parts[row] = client_mask(mask, self.single_action_space, style)
        return {"action_mask": parts}

    def _step_infos(self, advance: Advance, ending: Ending | None) -> dict[str, Any]:
        """The infos of a step. For a market that was reset they are the infos of the new episode's reset."""
        everywhere = np.ones(self.num_envs, dtype=np.bool_)
        columns = self.market_batch.infos(advance.record)
        if ending is None:
            return _with_flags(self._infos(columns), everywhere)
        blank, ended = self.market_batch.infos(), advance.ended.cpu().numpy()
        columns = {name: np.where(ended[:, None], blank[name], column) for name, column in columns.items()}
        return _with_flags(self._infos(columns), everywhere) | _with_flags(self._final(ending, ended), ended)

    def _final(self, ending: Ending, ended: np.ndarray) -> dict[str, Any]:
        """``final_obs`` and ``final_info`` in the form of ``SyncVectorEnv``: None or 0 where no episode ended."""
        seen = np.full(self.num_envs, None, dtype=object)
        for row, last in zip(np.flatnonzero(ended), ending.observation[:, self._seat].cpu().numpy(), strict=True):
            seen[row] = last
        learner = {name: column[:, self._seat] for name, column in ending.infos.items()}
        info: dict[str, Any] = {}
        for name, column in (learner | self._masks(ending.mask)).items():
            absent = None if column.dtype == object else 0
            info[name] = np.full((self.num_envs, *column.shape[1:]), absent, dtype=column.dtype)
            info[name][ended] = column
        return {"final_obs": seen, "final_info": _with_flags(info, ended)}


def _with_flags(infos: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Add a bool ``[M]`` under ``_name`` to each info, which marks the markets that have it, as Gymnasium requires."""
    return infos | {f"_{name}": rows.copy() for name in infos}
