"""One market as a PettingZoo environment, parallel or AEC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec_wrapper
from pettingzoo.utils.wrappers import OrderEnforcingWrapper

from paramarket_env.adapters.face import Face
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import MaskStyle, checked_actions, mask_info, require_mask_style
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.render import RENDER_MODES, History, Renderer
from paramarket_env.market.orders import StepRecord
from paramarket_env.market.saved import VERSION, restore
from paramarket_env.market.snapshot import snapshot
from paramarket_env.market.state import MarketState
from paramarket_env.validation import require

StateStyle = Literal["stacked", "flat"]
"""The form of ``state()``: ``[N, D]``, or ``[N * D]`` for clients that take a state of one dimension."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of an episode."""

    version: int
    config: MarketConfig
    state: MarketState
    agents: list[str]
    history: History


class ParaMarketEnv(Face, ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]  # PettingZoo has no types
    """A market of N agents; ``paramarket_env.paramarket_v0`` documents it."""

    metadata: ClassVar[dict[str, Any]] = {
        "name": "paramarket_v0",
        "render_modes": list(RENDER_MODES),
        "is_parallelizable": True,
        "render_fps": 2,
    }

    def __init__(
        self,
        config: MarketConfig,
        *,
        render_mode: str | None = None,
        device: str | torch.device = "auto",
        mask_style: MaskStyle = "tuple",
        state_style: StateStyle = "stacked",
    ) -> None:
        require_mask_style(mask_style)
        known = isinstance(state_style, str) and state_style in get_args(StateStyle)
        require(known, "state_style", state_style, "'stacked' or 'flat'")
        self.config, self.mask_style, self.state_style = config, mask_style, state_style
        self.max_cycles = config.max_cycles
        self.market_batch = MarketBatch(config, num_markets=1, device=device)
        self.render_mode, self._renderer = render_mode, Renderer(render_mode, self.market_batch)
        self.possible_agents = list(self.market_batch.agent_names)
        self.agents: list[str] = []
        self.observation_spaces = {agent: self.layout.space() for agent in self.possible_agents}
        self.action_spaces = {agent: self.market_batch.actions.space() for agent in self.possible_agents}
        low, high = (np.tile(bound, (config.agents, 1)) for bound in (self.layout.low, self.layout.high))
        self.state_space = spaces.Box(self._styled(low), self._styled(high), dtype=np.float32)

    @property
    def history(self) -> History:
        """The history of the episode; empty without a render mode."""
        return self._renderer.history

    def observation_space(self, agent: str) -> spaces.Box:
        """The space of the agent's observations: float32 ``[D]``."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The space of the agent's actions, by ``action_mode``."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode, which ``seed`` and the actions determine.

        ``seed`` is the seed of the market. Without it, the seed follows from that of the last episode, or from the
        operating system before the first episode. ``options`` are ignored.
        """
        observation, mask = self.market_batch.reset(self.market_batch.next_seeds(None if seed is None else [seed]))
        self.agents = list(self.possible_agents)
        self._renderer.begin()
        return self._by_agent(observation[0].cpu().numpy(), self.agents), self._infos(mask, None)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Advance the market by one step; ``actions`` holds an action of every agent in ``agents``.

        Raises ``ValueError``, before anything changes, for a missing action, an action outside the space, or an unknown
        agent. An illegal action does nothing and is counted in ``info``. After the end of an episode, a step without
        actions returns five empty dictionaries.
        """
        if not self.agents and not actions and self.market_batch.begun:
            return {}, {}, {}, {}, {}
        if not self.agents:
            raise RuntimeError(
                "step() was called after the end of an episode or before the first reset(): call reset()"
            )
        transition = self.market_batch.step(self._action_tensor(actions))
        record = transition.record
        acting = self.agents
        terminated = self._by_agent(record.terminated[0].tolist(), acting)
        truncated = dict.fromkeys(acting, bool(record.truncated[0]))
        infos = self._infos(transition.mask, record)
        self.agents = [agent for agent in acting if not terminated[agent] and not truncated[agent]]
        self._renderer.add(record)
        return (
            self._by_agent(transition.observation[0].cpu().numpy(), acting),
            self._by_agent(record.reward[0].tolist(), acting),
            terminated,
            truncated,
            infos,
        )

    def _action_tensor(self, actions: dict[str, Any]) -> torch.Tensor:
        """The actions as int64 ``[1, N]`` or ``[1, N, parts]``; terminated agents hold."""
        unknown = sorted(set(actions) - set(self.possible_agents))
        missing = [agent for agent in self.agents if actions.get(agent) is None]
        if unknown or missing:
            raise ValueError(f"actions must name every agent in {self.agents}: missing {missing}, unknown {unknown}")
        hold = np.zeros(self.action_spaces[self.possible_agents[0]].shape or (), dtype=np.int64)
        chosen = [
            self._checked(agent, actions[agent]) if agent in self.agents else hold for agent in self.possible_agents
        ]
        return torch.from_numpy(np.stack(chosen)).unsqueeze(0).to(self.market_batch.device)

    def _checked(self, agent: str, action: Any) -> np.ndarray:
        """The agent's action, converted from any integer type to int64."""
        try:
            return checked_actions(action, self.action_spaces[agent])
        except ValueError as error:
            raise ValueError(f"{agent}: {error}") from error

    def _infos(self, mask: torch.Tensor, record: StepRecord | None) -> dict[str, dict[str, Any]]:
        """The infos of the agents in ``agents``, as new dictionaries of plain numbers and arrays."""
        masks = mask[0].cpu().numpy()
        columns = {name: column[0].tolist() for name, column in self.market_batch.infos(record).items()}
        return {
            agent: {
                **mask_info(masks[row], self.action_spaces[agent], self.mask_style),
                **{name: column[row] for name, column in columns.items()},
            }
            for row, agent in enumerate(self.possible_agents)
            if agent in self.agents
        }

    def _by_agent(self, rows: Any, agents: list[str]) -> dict[str, Any]:
        return {agent: row for agent, row in zip(self.possible_agents, rows, strict=True) if agent in agents}

    def _require_reset(self) -> None:
        if not self.market_batch.begun:
            raise RuntimeError("there is no episode yet: call reset() first")

    def state(self) -> np.ndarray:
        """The observations of all agents, float32 ``[N, D]`` or ``[N * D]``, for centralised critics."""
        self._require_reset()
        return self._styled(self.market_batch.observe()[0].cpu().numpy())

    def _styled(self, stacked: np.ndarray) -> np.ndarray:
        return stacked.ravel() if self.state_style == "flat" else stacked

    def snapshot(self) -> Snapshot:
        """A copy of the episode, for :meth:`restore`."""
        self._require_reset()
        return Snapshot(
            VERSION,
            self.config,
            snapshot(self.market_batch.engine.state),
            list(self.agents),
            self._renderer.history.copy(),
        )

    def restore(self, saved: Snapshot) -> None:
        """Return to a copy that :meth:`snapshot` made. The copy can be restored again.

        Raises ``ValueError``, before anything changes, if it is the copy of a market with another configuration, or by
        another version of ParaMarket.
        """
        require(isinstance(saved, Snapshot), "snapshot", type(saved).__name__, "a Snapshot that snapshot() returned")
        version = getattr(saved, "version", None)
        require(version == VERSION, "version of the snapshot", version, f"{VERSION}")
        if saved.config != self.config:
            raise ValueError("the snapshot cannot be restored: it is of a market with another configuration")
        restore(self.market_batch.engine, saved.state)
        self.agents, self._renderer.history = list(saved.agents), saved.history.copy()

    def render(self) -> Any:
        """Render the episode in the render mode; see ``Renderer.render``."""
        return self._renderer.render()

    def close(self) -> None:
        """Close the window, if it is open."""
        self._renderer.close()


class ParaMarketAECEnv(Face, OrderEnforcingWrapper):  # type: ignore[misc]  # PettingZoo has no types
    """The market as a PettingZoo AEC environment: the agents act in turn, and the market steps after the last one."""

    def __init__(self, market: ParaMarketEnv) -> None:
        super().__init__(parallel_to_aec_wrapper(market))
        self.market_batch = market.market_batch
        self.observation_spaces, self.action_spaces = market.observation_spaces, market.action_spaces
