"""One market as a PettingZoo parallel environment."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import MaskStyle, checked_actions, client_mask
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.render import History, Window, as_text, draw
from paramarket_env.market.orders import StepRecord
from paramarket_env.market.snapshot import snapshot
from paramarket_env.market.state import MarketState
from paramarket_env.validation import require

RENDER_MODES = ("ansi", "rgb_array", "human")


class ParaMarketEnv(ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]  # PettingZoo has no types
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
    ) -> None:
        require(render_mode in (None, *RENDER_MODES), "render_mode", render_mode, f"None or one of {RENDER_MODES}")
        require(mask_style in ("tuple", "flat"), "mask_style", mask_style, "'tuple' or 'flat'")
        self.config, self.render_mode, self.mask_style = config, render_mode, mask_style
        self.max_cycles = config.max_cycles
        self.market_batch = MarketBatch(config, num_markets=1, device=device)
        self.possible_agents = [f"trader_{agent}" for agent in range(config.agents)]
        self.agents: list[str] = []
        self.layout = self.market_batch.layout
        self._observation_spaces = {agent: self.layout.space() for agent in self.possible_agents}
        self._action_spaces = {agent: self.market_batch.actions.space() for agent in self.possible_agents}
        rows = config.agents
        self.state_space = spaces.Box(
            np.tile(self.layout.low, (rows, 1)), np.tile(self.layout.high, (rows, 1)), dtype=np.float32
        )
        self.history = History(self.possible_agents)
        self._window = Window()

    def observation_space(self, agent: str) -> spaces.Box:
        """The space of the agent's observations: float32 ``[D]``."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The space of the agent's actions, by ``action_mode``."""
        return self._action_spaces[agent]

    def offers(self, agent: str) -> list[tuple[str, str]]:
        """The offers of an agent in their order: (seller, parameter set)."""
        sellers = [other for other in self.possible_agents if other != agent]
        return [(seller, good) for seller in sellers for good in self.market_batch.set_names]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode, which ``seed`` and the actions determine.

        Without a seed, the episode's seed follows from that of the last episode, or from the operating system before
        the first episode. ``options`` are ignored.
        """
        observation, mask = self.market_batch.reset(self.market_batch.next_seeds(seed))
        self.agents = list(self.possible_agents)
        self.history = History(self.possible_agents)
        self._remember(None)
        infos = self._infos(mask, None)
        self._show()
        return self._by_agent(observation[0].cpu().numpy(), self.agents), infos

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Advance the market by one step; ``actions`` holds an action of every agent in ``agents``.

        Raises ``ValueError``, before anything changes, for a missing action, an action outside the space, or an unknown
        agent. An illegal action does nothing and is counted in ``info``.
        """
        if not self.agents:
            raise RuntimeError(
                "step() was called after the end of an episode or before the first reset(): call reset()"
            )
        transition = self.market_batch.step(self._action_tensor(actions))
        record = transition.record
        acting = self.agents
        self._remember(record)
        terminated = self._by_agent(record.terminated[0].tolist(), acting)
        truncated = dict.fromkeys(acting, bool(record.truncated[0]))
        infos = self._infos(transition.mask, record)
        self.agents = [agent for agent in acting if not terminated[agent] and not truncated[agent]]
        self._show()
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
        hold = np.zeros(self._action_spaces[self.possible_agents[0]].shape or (), dtype=np.int64)
        chosen = [
            self._checked(agent, actions[agent]) if agent in self.agents else hold for agent in self.possible_agents
        ]
        return torch.from_numpy(np.stack(chosen)).unsqueeze(0).to(self.market_batch.device)

    def _checked(self, agent: str, action: Any) -> np.ndarray:
        """The agent's action, converted from any integer type to int64."""
        try:
            return checked_actions(action, self._action_spaces[agent])
        except ValueError as error:
            raise ValueError(f"{agent}: {error}") from error

    def _infos(self, mask: torch.Tensor, record: StepRecord | None) -> dict[str, dict[str, Any]]:
        """The infos of the agents in ``agents``, as new dictionaries of plain numbers and arrays."""
        masks = mask[0].cpu().numpy()
        columns = {name: column[0].tolist() for name, column in self.market_batch.infos(record).items()}
        return {
            agent: {
                "action_mask": client_mask(masks[row], self._action_spaces[agent], self.mask_style),
                **{name: column[row] for name, column in columns.items()},
            }
            for row, agent in enumerate(self.possible_agents)
            if agent in self.agents
        }

    def _by_agent(self, rows: Any, agents: list[str]) -> dict[str, Any]:
        return {agent: row for agent, row in zip(self.possible_agents, rows, strict=True) if agent in agents}

    def _remember(self, record: StepRecord | None) -> None:
        if self.render_mode is not None:
            self.history.add(self.market_batch, record)

    def _require_reset(self) -> None:
        if not self.market_batch.begun:
            raise RuntimeError("there is no episode yet: call reset() first")

    def state(self) -> np.ndarray:
        """The observations of all agents, float32 ``[N, D]``, for centralised critics."""
        self._require_reset()
        return self.market_batch.observe()[0].cpu().numpy()

    def snapshot(self) -> tuple[MarketState, list[str], History]:
        """A copy of the episode, for :meth:`restore`."""
        self._require_reset()
        return snapshot(self.market_batch.engine.state), list(self.agents), self.history.copy()

    def restore(self, saved: tuple[MarketState, list[str], History]) -> None:
        """Return to a copy that :meth:`snapshot` made. The copy can be restored again."""
        state, agents, history = saved
        self.market_batch.engine.state = snapshot(state)
        self.agents, self.history = list(agents), history.copy()

    def render(self) -> str | np.ndarray | None:
        """Render the episode: text (``ansi``), a picture uint8 ``[height, width, 3]`` or a window (``human``)."""
        if self.render_mode == "ansi":
            return as_text(self.history)
        if self.render_mode == "rgb_array":
            return draw(self.history)
        self._show()
        return None

    def _show(self) -> None:
        if self.render_mode == "human":
            self._window.show(self.history)

    def close(self) -> None:
        """Close the window, if it is open."""
        self._window.close()
