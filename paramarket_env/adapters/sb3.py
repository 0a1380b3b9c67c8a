"""M markets as a Stable-Baselines3 ``VecEnv``: every agent that learns is a row, and one policy plays them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices
from torch import Tensor

from paramarket_env.adapters.autoreset import Advance, AutoresetBatch, DoubleBuffer, Ending
from paramarket_env.adapters.opponents import Opponents, against_populations, all_learn
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import checked_actions
from paramarket_env.interface.policy import PolicyFactory
from paramarket_env.market.orders import StepRecord
from paramarket_env.validation import require


class ParaMarketVecEnv(VecEnv):
    """M markets x N agents as M * N rows; row = market * N + agent. Against opponents one agent of each market learns.

    **Opponents.** With ``opponents`` there are M rows, one for each market: market m's learner is agent m mod N, and
    one of the given policies has all other seats of the market, the next one after every N markets.

    **Ends.** The rows of a market that ends are done together; their infos have ``terminal_observation`` (a copy),
    ``TimeLimit.truncated`` and what ``ParaMarketEnv``'s infos have, and the rows go on with the next episode. An agent
    whose network fails is done in that step. Its row then idles until its market ends (reward 0, a mask that only lets
    it hold), and is done once more there. The infos of rows that are not done are empty.

    ``TimeLimit.truncated`` is always false. Where it is true, Stable-Baselines3 adds the value of the last observation
    to the last reward, as if the episode went on. Here nothing follows, agents see the time that is left, and the value
    of an observation without any is never learned: it would be an error that feeds on itself.

    **Arrays.** Observations and masks lie in two buffers in turn: those handed out are overwritten by the second step
    after.

    **Seeds.** ``seed(s)`` (``PPO(seed=s)``) gives row r the seed ``s + r``, as Stable-Baselines3 does; a market takes
    that of its first row. Each next episode follows from the last.
    """

    record: StepRecord
    """The record of the last step, for all agents."""

    def __init__(
        self,
        config: MarketConfig,
        num_markets: int,
        device: str | torch.device = "auto",
        opponents: Sequence[PolicyFactory] = (),
    ) -> None:
        shape = num_markets, config.agents
        seating = against_populations(*shape, opponents) if opponents else all_learn(*shape)
        self._autoreset = AutoresetBatch(config, num_markets, seating.learners, device)
        self.render_mode = None
        self.market_batch = batch = self._autoreset.market_batch
        self._opponents = Opponents(batch, seating)
        self.learners = seating.learners
        """Which agents are rows, bool ``[M, N]``."""
        rows = len(self._opponents.learners)
        self._rows_of_a_market = rows // num_markets
        self._observations = DoubleBuffer((rows, batch.layout.size), torch.float32)
        self._masks = DoubleBuffer((rows, batch.actions.mask_size), torch.bool)
        super().__init__(rows, batch.layout.space(), batch.actions.space())

    def reset(self) -> np.ndarray:
        """New episodes in all markets; the observations float32 ``[rows, D]``. No options are known."""
        require(not any(self._options), "options", self._options, "empty")
        seeds = [seed for seed in self._seeds[:: self._rows_of_a_market] if seed is not None]
        self._autoreset.reset(seeds or None)
        self._opponents.reset()
        self._reset_seeds()
        self._reset_options()
        return self._look()

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of all rows, int64 ``[rows]`` (``verb``) or ``[rows, 2 + S]`` (``round``, S asks).

        Raises ``ValueError`` for one outside the space. One that is not legal now does nothing.
        """
        checked = checked_actions(actions, self.action_space, (self.num_envs,))
        self._actions = torch.from_numpy(checked)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """One step of all markets: observations, rewards float32, dones bool (``[rows]`` each) and infos."""
        autoreset = self._autoreset
        if not self.market_batch.begun:
            raise RuntimeError("step() before the first reset(): call reset()")
        advance, ending = autoreset.step(
            self._opponents.joint_action(self._actions, autoreset.observation, autoreset.mask)
        )
        self.record = advance.record
        rewards = self._learners_of(advance.record.reward).float().cpu().numpy()
        dones = self._learners_of(advance.record.terminated | advance.ended.unsqueeze(1)).cpu().numpy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ending is not None:
            self._opponents.reset(ending.markets)
            self._tell_ending(infos, advance, ending)
        seen = self._look()
        if any(not infos[row] for row in np.flatnonzero(dones)):
            self._tell_failures(infos, advance, seen)
        return seen, rewards, dones, infos

    def _learners_of(self, everybody: Tensor) -> Tensor:
        """The rows ``[rows, ...]`` of what all agents have, ``[M, N, ...]``."""
        return everybody.flatten(0, 1)[self._opponents.learners]

    def _look(self) -> np.ndarray:
        """Observations and masks into the buffers whose turn it is."""
        self._mask = self._masks.write(self._learners_of(self._autoreset.mask))
        return self._observations.write(self._learners_of(self._autoreset.observation))

    def _tell_ending(self, infos: list[dict[str, Any]], advance: Advance, ending: Ending) -> None:
        """The infos of the rows of markets that ended."""
        observation = ending.observation.flatten(0, 1).cpu().numpy()
        columns = {name: column.ravel().tolist() for name, column in ending.infos.items()}
        ended = self._learners_of(advance.ended.unsqueeze(1).expand_as(advance.alive)).nonzero().flatten()
        learners = self._opponents.learners[ended]
        agents = advance.alive.shape[1]
        # Where the learner stands among the agents of the markets that ended.
        places = torch.searchsorted(ending.markets, learners // agents) * agents + learners % agents
        for row, place in zip(ended.tolist(), places.tolist(), strict=True):
            infos[row] = {
                "terminal_observation": observation[place],
                "TimeLimit.truncated": False,
                **{name: column[place] for name, column in columns.items()},
            }

    def _tell_failures(self, infos: list[dict[str, Any]], advance: Advance, seen: np.ndarray) -> None:
        """The infos of the rows whose network failed while their market goes on: rare, and told the plain way."""
        columns = self.market_batch.infos(advance.record)
        failed = self._learners_of(advance.record.terminated & ~advance.ended.unsqueeze(1))
        for row in failed.nonzero().flatten().tolist():
            infos[row] = {
                "terminal_observation": seen[row].copy(),
                "TimeLimit.truncated": False,
                **{name: self._learners_of(column)[row].item() for name, column in columns.items()},
            }

    def action_masks(self) -> np.ndarray:
        """The current action masks, bool ``[rows, A]``: ``MaskablePPO`` asks for them through ``env_method``."""
        return self._mask

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of this environment, which all rows share: once for each row."""
        return [getattr(self, attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of this environment, which all rows share; so ``indices`` must name all of them."""
        rows = self._rows(indices)
        require(len(set(rows)) == self.num_envs, "indices", indices, "None: the rows share one environment")
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """``action_masks`` of each row; no row has a method besides."""
        if method_name != "action_masks":
            raise AttributeError(f"env_method({method_name!r}) is not known: a row has action_masks() alone")
        masks = self.action_masks(*args, **kwargs)
        return [masks[row] for row in self._rows(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """No row is wrapped."""
        return [False] * len(self._rows(indices))

    def close(self) -> None:
        """Nothing is open."""

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        """The rows that Stable-Baselines3 means by its indices."""
        chosen: Iterable[int] = self._get_indices(indices)
        return list(chosen)
