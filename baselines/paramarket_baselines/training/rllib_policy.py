"""The network that RLlib trains. Needs the extra ``rllib``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.learned import Normaliser
from paramarket_baselines.training.exploration import begin_with, even_verbs
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch


class SharedPolicy(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]  # RLlib is optional
    """An actor and a critic: two small networks on scaled observations."""

    def setup(self) -> None:
        """Make the networks. :func:`model_config` makes the ``scale`` and the ``nvec`` that they need."""
        scale, nvec = self.model_config["scale"], list(self.model_config["nvec"])
        self.clip = scale.clip
        self.register_buffer("mean", torch.tensor(scale.mean, dtype=torch.float32, device="cpu"))
        self.register_buffer("deviation", torch.tensor(scale.variance, dtype=torch.float32, device="cpu").sqrt())
        self.actor, self.critic = (_network(len(scale.mean), outputs) for outputs in (sum(nvec), 1))
        begin_with(self.actor, self.model_config["first_scores"])
        if len(nvec) > 1:  # RLlib has no default distribution for these
            self.action_dist_cls = TorchMultiCategorical.get_partial_dist_cls(input_lens=nvec)

    def _scaled(self, batch: dict[str, Any]) -> Tensor:
        scaled: Tensor = (batch[Columns.OBS] - self.mean) / self.deviation
        return scaled.clamp(-self.clip, self.clip)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.actor(self._scaled(batch))}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """The values of the observations of a batch, float32 ``[R]``."""
        values: Tensor = self.critic(self._scaled(batch)).squeeze(-1)
        return values

    def scores(self, observation: Tensor) -> Tensor:
        """The logits of all choices of the actions, ``[B, A]``, for observations ``[B, D]`` on any device."""
        outputs = self.forward_inference({Columns.OBS: observation.cpu()})
        logits: Tensor = outputs[Columns.ACTION_DIST_INPUTS].to(observation.device)
        return logits


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def model_config(config: MarketConfig, seed: int) -> dict[str, Any]:
    """The ``model_config`` of a :class:`SharedPolicy`: ``scale``, a ``Normaliser``, ``nvec`` and ``first_scores``.

    The scale is that of observations in random play, since the ranges of their fields differ by orders of magnitude.
    """
    seen: list[np.ndarray] = []
    actions = MarketBatch(config, 1, "cpu").actions

    def look(batch: MarketBatch, _: Any) -> None:
        seen.append(batch.observe().flatten(0, 1).cpu().numpy())

    play(config, Arm("random", ("random",)), range(seed, seed + 16), on_step=look, closing_trade=False)
    observations = np.concatenate(seen).astype(np.float64)
    # Constant entries are not scaled.
    variance = np.where(observations.std(0) > 1e-9, observations.var(0), 1.0)
    scale = Normaliser(observations.mean(0), variance, 10.0)
    return {"scale": scale, "nvec": actions.nvec, "first_scores": even_verbs(actions)}
