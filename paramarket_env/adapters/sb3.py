"""M markets as a Stable-Baselines3 ``VecEnv``. Each learning agent is a row, and one policy plays all rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
from torch import Tensor

from paramarket_env.adapters.autoreset import Advance, AutoresetBatch, Ending, to_numpy
from paramarket_env.adapters.face import Face
from paramarket_env.adapters.opponents import Opponents, Others, against_populations, all_learn
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import checked_actions
from paramarket_env.market.orders import StepRecord
from paramarket_env.validation import require


class ParaMarketVecEnv(Face, VecEnv):
    """M markets x N agents as M * N rows, where row = market * N + agent; M rows if there are opponents.

    **Opponents.** With ``opponents`` one agent of each market learns, so each market is one row. In market m agent
    m mod N learns, and one of the given policies plays all other seats. The policy changes after every N markets.

    **Ends.** All rows of a market are done when the market ends, and continue with the next episode. Their infos hold
    ``terminal_observation`` (a copy), ``TimeLimit.truncated`` and the infos of ``ParaMarketEnv``. A row is also done
    when the agent's network fails. It then idles until its market ends (its reward is 0, and its mask only allows it to
    hold), and is done again there. The infos of rows that are not done are empty.

    ``TimeLimit.truncated`` is always false. If it were true, Stable-Baselines3 would add the estimated value of the
    last observation to the last reward, as if the episode continued. But nothing follows the end, and the value of an
    observation with no time left is never learned. The error of the estimate would feed back into the values.

    **Arrays.** All arrays are copies. With ``copy=False`` observations and masks can share the market's memory, which
    saves one copy per step. They never change then either, but must not be written to.

    **Seeds.** The seed of each market's next episode is hashed from ``s`` and the market's index by ``seed(s)``
    (``PPO(seed=s)``). So different ``s`` have no market in common. With Stable-Baselines3's seeds, ``s + r`` for row r,
    neighbours would share most of them. ``seed([...])`` gives each market its seed. The seed of each further episode
    follows from the last.
    """

    record: StepRecord
    """The record of the last step, for all agents."""

    def __init__(
        self,
        config: MarketConfig,
        num_markets: int,
        device: str | torch.device = "auto",
        opponents: Others = (),
        *,
        copy: bool = True,
    ) -> None:
        shape = num_markets, config.agents
        seating = against_populations(*shape, opponents) if opponents else all_learn(*shape)
        self._autoreset = AutoresetBatch(config, num_markets, seating.learners, device)
        self.render_mode = None
        self.market_batch = batch = self._autoreset.market_batch
        self._opponents, self._copy = Opponents(batch, seating), copy
        self.learners = seating.learners
        """bool ``[M, N]``: the agent learns, so it is a row."""
        rows = len(self._opponents.learners)
        self._rows_of_a_market = rows // batch.num_markets
        super().__init__(rows, batch.layout.space(), batch.actions.space())

    def seed(self, seed: int | Iterable[int] | None = None) -> list[int]:
        """Seed the next reset (see the class), and return the seed of each row's market."""
        seeds = self.market_batch.next_seeds(seed)
        of_rows: list[int] = seeds.repeat_interleave(self._rows_of_a_market).tolist()
        self._seeds = [*of_rows]
        return of_rows

    def reset(self) -> np.ndarray:
        """Begin new episodes in all markets. Returns observations, float32 ``[rows, D]``. Options must be empty."""
        require(not any(self._options), "options", self._options, "empty")
        seeds = [seed for seed in self._seeds[:: self._rows_of_a_market] if seed is not None]
        self._autoreset.reset(seeds or None)
        self._opponents.reset()
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions of all rows, int64 ``[rows]`` (``verb``) or ``[rows, 2 + S]`` (``round``, S asks).

        Raises ``ValueError`` for an action outside the space. An illegal action does nothing.
        """
        checked = checked_actions(actions, self.action_space, (self.num_envs,))
        self._actions = torch.from_numpy(checked)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Advance all markets by one step.

        Returns observations, float32 ``[rows, D]``; rewards, float32 ``[rows]``; dones, bool ``[rows]``; and infos.
        """
        autoreset = self._autoreset
        if not self.market_batch.begun:
            raise RuntimeError("step() was called before the first reset(): call reset()")
        advance, ending = autoreset.step(
            self._opponents.joint_action(self._actions, autoreset.observation, autoreset.mask)
        )
        self.record = advance.record
        rewards = self._learners_of(advance.record.reward).float().cpu().numpy()
        dones = self._learners_of(advance.record.terminated | advance.ended.unsqueeze(1)).cpu().numpy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ending is not None:
            self._opponents.reset(ending.markets)
            self._fill_ended(infos, advance, ending)
        seen = self._observations()
        if any(not infos[row] for row in np.flatnonzero(dones)):
            self._fill_failed(infos, advance, seen)
        return seen, rewards, dones, infos

    def _learners_of(self, everybody: Tensor) -> Tensor:
        """Select the rows, ``[rows, ...]``, from the values of all agents, ``[M, N, ...]``."""
        everyone = everybody.flatten(0, 1)
        return everyone if len(everyone) == self.num_envs else everyone[self._opponents.learners]

    def _observations(self) -> np.ndarray:
        return to_numpy(self._learners_of(self._autoreset.observation), self._copy)

    def _fill_ended(self, infos: list[dict[str, Any]], advance: Advance, ending: Ending) -> None:
        """Fill the infos of the rows of markets that ended."""
        observation = ending.observation.flatten(0, 1).cpu().numpy()
        columns = {name: column.ravel().tolist() for name, column in ending.infos.items()}
        ended = self._learners_of(advance.ended.unsqueeze(1).expand_as(advance.alive)).nonzero().flatten()
        learners = self._opponents.learners[ended]
        agents = advance.alive.shape[1]
        # The position of each learner among the agents of the markets that ended.
        places = torch.searchsorted(ending.markets, learners // agents) * agents + learners % agents
        for row, place in zip(ended.tolist(), places.tolist(), strict=True):
            infos[row] = {
                "terminal_observation": observation[place],
                "TimeLimit.truncated": False,
                **{name: column[place] for name, column in columns.items()},
            }

    def _fill_failed(self, infos: list[dict[str, Any]], advance: Advance, seen: np.ndarray) -> None:
        """Fill the infos of rows whose network failed while the market continues. This is rare and need not be fast."""
        columns = self.market_batch.infos(advance.record)
        failed = self._learners_of(advance.record.terminated & ~advance.ended.unsqueeze(1)).nonzero().flatten()
        for row, place in zip(failed.tolist(), self._opponents.learners[failed].tolist(), strict=True):
            infos[row] = {
                "terminal_observation": seen[row].copy(),
                "TimeLimit.truncated": False,
                **{name: column.item(place) for name, column in columns.items()},
            }

    def action_masks(self) -> np.ndarray:
        """The current action masks, bool ``[rows, A]``: ``MaskablePPO`` asks for them through ``env_method``."""
        return to_numpy(self._learners_of(self._autoreset.mask), self._copy)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of this environment, repeated for each row."""
        return [getattr(self, attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of this environment. All rows share it, so ``indices`` must cover all rows."""
        rows = self._rows(indices)
        require(len(set(rows)) == self.num_envs, "indices", indices, "None, as all rows share one environment")
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call ``action_masks`` for each row. There are no other methods."""
        if method_name != "action_masks":
            raise AttributeError(f"env_method({method_name!r}) is not supported: it must be 'action_masks'")
        masks = self.action_masks(*args, **kwargs)
        return [masks[row] for row in self._rows(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """No row is wrapped."""
        return [False] * len(self._rows(indices))

    def close(self) -> None:
        """Do nothing, as there is nothing to close."""

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        """Convert Stable-Baselines3's indices to row numbers."""
        chosen: Iterable[int] = self._get_indices(indices)
        return list(chosen)
