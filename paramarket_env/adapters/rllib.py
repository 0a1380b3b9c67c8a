"""M markets as one RLlib multi-agent environment, which is much faster than one environment for each market."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paramarket_env.adapters.face import Face
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import checked_actions
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.market.orders import StepRecord
from paramarket_env.validation import require

try:
    from ray.rllib.env.multi_agent_env import MultiAgentEnv
except ImportError as error:
    raise ImportError("RLlib is not installed: pip install 'paramarket-env[rllib]'") from error


class ParaMarketRLlibEnv(Face, MultiAgentEnv):  # type: ignore[misc]  # RLlib need not be installed
    """M markets x N agents, named ``market_0/trader_0`` and so on, in one environment.

    **Ends.** All markets have the same number of cycles, so one episode covers all of them. It ends as terminated, not
    as truncated. After a truncation RLlib would add the estimated value of the last observation to the last reward. But
    nothing follows the end, and that value is never learned. An agent whose network fails is terminated in that step
    and leaves the episode. The episode also ends when no agent is left. The infos of agents that are done hold the
    infos of ``ParaMarketEnv`` without the mask; the infos of other agents are empty.

    **Seeds.** ``reset(seed=s)`` hashes the seed of each market from ``s`` and the market's index. RLlib gives
    consecutive seeds to its env runners, and no two of them should play the same market. The seed of each further
    episode follows from the last.
    """

    def __init__(self, config: MarketConfig, num_markets: int, device: str | torch.device = "auto") -> None:
        super().__init__()
        self.market_batch = MarketBatch(config, num_markets, device)
        self.possible_agents = [
            f"market_{market}/{agent}" for market in range(num_markets) for agent in self.market_batch.agent_names
        ]
        self.agents = list(self.possible_agents)
        self.observation_spaces = dict.fromkeys(self.possible_agents, self.market_batch.layout.space())
        self._action_space = self.market_batch.actions.space()
        self.action_spaces = dict.fromkeys(self.possible_agents, self._action_space)
        self._over = True

    def offers(self, agent: str) -> list[tuple[str, str]]:
        """The offers of an agent, such as ``market_3/trader_0``, in their order: (seller, parameter set)."""
        require(agent in self.possible_agents, "agent", agent, f"one of {self.possible_agents}")
        market, name = agent.split("/")
        return [(f"{market}/{seller}", good) for seller, good in super().offers(name)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Begin an episode of all markets. Returns an observation, float32 ``[D]``, and empty info per agent."""
        observation, _ = self.market_batch.reset(self.market_batch.next_seeds(seed))
        self.agents, self._over = list(self.possible_agents), False
        return self._by_agent(observation), {agent: {} for agent in self.agents}

    def step(
        self, action_dict: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Advance all markets by one step; ``action_dict`` holds an action of every agent in ``agents``.

        Raises ``ValueError``, before anything changes, for a missing action, an action outside the space, or an agent
        that is not in ``agents``. An illegal action does nothing and is counted.
        """
        if self._over:
            raise RuntimeError(
                "step() was called after the end of an episode or before the first reset(): call reset()"
            )
        transition = self.market_batch.step(self._action_tensor(action_dict))
        record, acted = transition.record, self.agents
        observations, rewards = self._by_agent(transition.observation), self._by_agent(record.reward)
        terminated = {agent: bool(failed) for agent, failed in self._by_agent(record.terminated).items()}
        self.agents = [agent for agent in acted if not terminated[agent]]
        self._over = bool(record.truncated.all()) or not self.agents
        infos = self._infos(acted if self._over else [agent for agent in acted if terminated[agent]], record)
        return (
            observations,
            {agent: float(reward) for agent, reward in rewards.items()},
            terminated | {"__all__": self._over},
            {"__all__": False},
            {agent: infos.get(agent, {}) for agent in acted},
        )

    def _by_agent(self, values: torch.Tensor) -> dict[str, Any]:
        """The rows of ``[M, N, ...]`` that belong to agents still in the episode, as NumPy arrays by agent."""
        rows = values.flatten(0, 1).cpu().numpy()
        if len(self.agents) == len(rows):
            return dict(zip(self.agents, rows, strict=True))
        left = set(self.agents)
        return {agent: row for agent, row in zip(self.possible_agents, rows, strict=True) if agent in left}

    def _action_tensor(self, actions: dict[str, Any]) -> torch.Tensor:
        """The actions as int64 ``[M, N]`` or ``[M, N, parts]``; terminated agents hold."""
        if actions.keys() != set(self.agents):
            missing, unknown = sorted(set(self.agents) - set(actions)), sorted(set(actions) - set(self.agents))
            raise ValueError(f"actions must name every agent in agents: missing {missing}, unknown {unknown}")
        hold = np.zeros(self._action_space.shape or (), dtype=np.int64)
        chosen = checked_actions(
            [actions.get(agent, hold) for agent in self.possible_agents],
            self._action_space,
            (len(self.possible_agents),),
        )
        shape = (self.market_batch.num_markets, self.market_batch.config.agents, *hold.shape)
        return torch.from_numpy(chosen.reshape(shape))

    def _infos(self, agents: list[str], record: StepRecord) -> dict[str, dict[str, Any]]:
        if not agents:
            return {}
        columns = {name: column.ravel().tolist() for name, column in self.market_batch.infos(record).items()}
        rows = {agent: row for row, agent in enumerate(self.possible_agents)}
        return {agent: {name: column[rows[agent]] for name, column in columns.items()} for agent in agents}
