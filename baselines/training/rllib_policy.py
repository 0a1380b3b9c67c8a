"""The policy that RLlib learns, and how it takes a seat. Needs the extra ``rllib``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from baselines.evaluation.play import Arm, play
from baselines.policies.learned import Normaliser
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import Policy, Seat


class SharedPolicy(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]  # RLlib need not be installed
    """Two small networks, of the actions' logits and of the value, on observations that are scaled first."""

    def setup(self) -> None:
        """Make the networks; ``model_config`` has ``scale``, a ``Normaliser``, and ``choices``, those of an action."""
        scale, choices = self.model_config["scale"], list(self.model_config["choices"])
        self.clip = scale.clip
        self.register_buffer("mean", torch.tensor(scale.mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(scale.variance, dtype=torch.float32).sqrt())
        self.actor, self.critic = (_network(len(scale.mean), outputs) for outputs in (sum(choices), 1))
        if len(choices) > 1:  # RLlib has no default for these
            self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=choices)

    def _scaled(self, batch: dict[str, Any]) -> Tensor:
        scaled: Tensor = (batch[Columns.OBS] - self.mean) / self.deviation
        return scaled.clamp(-self.clip, self.clip)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.actor(self._scaled(batch))}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """The values ``[B]`` of the observations of a batch."""
        values: Tensor = self.critic(self._scaled(batch)).squeeze(-1)
        return values


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


class BestAction(Policy):
    """A learned policy in a seat, acting deterministically."""

    def __init__(self, module: SharedPolicy, seat: Seat) -> None:
        self.module, self.actions = module, seat.actions

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        outputs = self.module.forward_inference({Columns.OBS: observation.cpu()})
        return self.actions.best(outputs[Columns.ACTION_DIST_INPUTS].to(observation.device))


def model_config(config: MarketConfig, seed: int) -> dict[str, Any]:
    """That of a :class:`SharedPolicy`: what a market has to choose among, and the scale of what random play sees.

    The ranges of the fields differ by orders of magnitude.
    """
    seen: list[np.ndarray] = []
    choices: tuple[int, ...] = ()

    def look(batch: MarketBatch, _: Any) -> None:
        nonlocal choices
        seen.append(batch.observe().flatten(0, 1).cpu().numpy())
        choices = batch.actions.nvec

    play(config, Arm("random", ("random",)), range(seed, seed + 16), on_step=look, closing_trade=False)
    observations = np.concatenate(seen).astype(np.float64)
    # What never changed there is not stretched.
    variance = np.where(observations.std(0) > 1e-9, observations.var(0), 1.0)
    return {"scale": Normaliser(observations.mean(0), variance, 10.0), "choices": choices}
