"""M markets as a natively batched TorchRL environment. The agents are a dimension of the group ``agents``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paramarket_env.adapters.autoreset import AutoresetBatch
from paramarket_env.adapters.face import Face
from paramarket_env.config import MarketConfig

try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise ImportError("TorchRL is not installed: pip install 'paramarket-env[torchrl]'") from error


class ParaMarketTorchRLEnv(Face, EnvBase):  # type: ignore[misc]  # TorchRL need not be installed
    """M markets with ``batch_size`` ``[M]``, on the engine's device. Nothing is copied to NumPy.

    | key                       | shape                                     | dtype   |
    |---------------------------|-------------------------------------------|---------|
    | `agents, observation`     | `[M, N, D]`                               | float32 |
    | `agents, action_mask`     | `[M, N, A]`, flat in both action modes    | bool    |
    | `agents, action`          | `[M, N]` (`verb`), `[M, N, 2+S]` (`round`)| int64   |
    | `agents, reward`          | `[M, N, 1]`                               | float32 |
    | `state`                   | `[M, N, D]`                               | float32 |
    | `done` and its two causes | `[M, 1]`                                  | bool    |

    ``state`` has the observations of all agents of a market, as ``ParaMarketEnv.state()``, for centralised critics.

    A market is ``truncated`` after ``max_cycles``, and ``terminated`` when the networks of all agents have failed. If
    only some networks fail, their agents idle until the market ends: their orders are ignored, their rewards are 0, and
    their masks only allow them to hold.

    TorchRL resets the markets that are done by a partial ``_reset`` (``rollout(break_when_any_done=False)`` and
    collectors). The seed of each further episode follows from the market's last. ``set_seed(s)`` hashes the seed of
    each market's next episode from ``s`` and the market's index. Each step returns new tensors, as TorchRL keeps the
    tensors that it gets.

    ``agents, action_mask`` is the mask for a policy's masked distribution. For legal random actions, add the transform
    ``ActionMask(("agents", "action"), ("agents", "action_mask"))``.
    """

    def __init__(self, config: MarketConfig, num_markets: int, device: str | torch.device = "auto") -> None:
        self._autoreset = AutoresetBatch(config, num_markets, device=device)
        self.market_batch = self._autoreset.market_batch
        self.group_map = {"agents": list(self.market_batch.agent_names)}
        self._seeds: Tensor | None = None
        super().__init__(device=self.market_batch.device, batch_size=[num_markets])
        self._make_specs(config)

    def _make_specs(self, config: MarketConfig) -> None:
        batch, agents = self.market_batch, (*self.batch_size, config.agents)
        bounds = (batch.layout.low, batch.layout.high)
        low, high = (torch.from_numpy(bound).to(self.device).expand(*agents, -1) for bound in bounds)
        self.observation_spec = self._group(
            observation=Bounded(low, high, dtype=torch.float32, device=self.device),
            action_mask=self._flags(*agents, batch.actions.mask_size),
        )
        self.observation_spec["state"] = self.observation_spec["agents", "observation"].clone()
        self.action_spec = self._group(action=self._action_spec(agents))
        self.reward_spec = self._group(reward=Unbounded((*agents, 1), dtype=torch.float32, device=self.device))
        ends = {name: self._flags(*self.batch_size, 1) for name in ("done", "terminated", "truncated")}
        self.done_spec = Composite(ends, shape=self.batch_size, device=self.device)

    def _group(self, **parts: TensorSpec) -> Composite:
        agents = Composite(parts, shape=(*self.batch_size, len(self.group_map["agents"])), device=self.device)
        return Composite({"agents": agents}, shape=self.batch_size, device=self.device)

    def _flags(self, *shape: int) -> Categorical:
        return Categorical(2, shape=shape, dtype=torch.bool, device=self.device)

    def _action_spec(self, agents: tuple[int, ...]) -> TensorSpec:
        nvec = self.market_batch.actions.nvec
        if len(nvec) == 1:
            return Categorical(nvec[0], shape=agents, dtype=torch.int64, device=self.device)
        return MultiCategorical(nvec, shape=(*agents, len(nvec)), dtype=torch.int64, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._seeds = None if seed is None else self.market_batch.next_seeds(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: Any) -> TensorDictBase:
        chosen = None if tensordict is None else tensordict.get("_reset", None)
        if chosen is None or not self.market_batch.begun:
            self._autoreset.reset(self._seeds)
            self._seeds = None
        elif bool(chosen.any()):
            self._autoreset.reset_done(chosen.flatten().nonzero().squeeze(1))
        no_end = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        return self._output({}, no_end, no_end)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        advance = self._autoreset.advance(tensordict["agents", "action"])
        truncated = advance.record.truncated.unsqueeze(1)
        terminated = ~advance.alive.any(dim=1, keepdim=True)
        reward = advance.record.reward.float().unsqueeze(2)
        return self._output({"reward": reward}, terminated, truncated)

    def _output(self, rewards: dict[str, Tensor], terminated: Tensor, truncated: Tensor) -> TensorDictBase:
        """The current observations and masks, with rewards and ends, in TorchRL's format."""
        seen = {"observation": self._autoreset.observation, "action_mask": self._autoreset.mask}
        group = TensorDict(seen | rewards, batch_size=self._autoreset.mask.shape[:2], device=self.device)
        ends = {"done": terminated | truncated, "terminated": terminated.clone(), "truncated": truncated.clone()}
        state = self._autoreset.observation.clone()
        return TensorDict({"agents": group, "state": state, **ends}, batch_size=self.batch_size, device=self.device)
