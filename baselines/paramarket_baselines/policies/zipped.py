"""Policies in the formats of Stable-Baselines3 itself. To load one EXECUTES CODE that the file contains."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paramarket_baselines.policies.learned import MASKABLE, Algorithm, Normaliser, algorithm
from paramarket_env.files import expanded
from paramarket_env.interface.policy import Policy, Seat
from paramarket_env.validation import configuration, require


@configuration
class Zipped:
    """A model that `model.save(PATH)` has saved; opening it EXECUTES code, so use only files that you trust."""

    path: str
    algo: Algorithm = "ppo"
    normalise: str = ""
    """A file of `VecNormalize.save`. Without it, the model sees observations as they are."""

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return ZippedPolicy(seat, self)


class ZippedPolicy(Policy):
    """A model of Stable-Baselines3 in a seat, acting deterministically.

    Raises ``ValueError`` if the file is not there, is damaged, or is for other observations or actions.
    """

    def __init__(self, seat: Seat, saved: Zipped) -> None:
        self._masks = saved.algo == MASKABLE
        self._state: Any = None  # of a recurrent policy
        self._starts = np.ones(seat.num_markets, dtype=bool)
        try:
            self.model: Any = algorithm(saved.algo).load(expanded(saved.path), device="cpu")
            self.scale = _normaliser(saved.normalise, seat.layout.size)
        except ImportError:
            raise
        except Exception as error:  # whatever the code in the file raises
            raise ValueError(f"policy='sb3:{saved.path}' cannot be loaded: {error}") from error
        size = self.model.observation_space.shape
        require(size == (seat.layout.size,), "policy", saved.path, f"a model for {seat.layout.size} observations")
        space: Any = self.model.action_space
        actions = tuple(space.nvec) if hasattr(space, "nvec") else (space.n,)
        require(actions == tuple(seat.actions.nvec), "policy", saved.path, f"a model for actions {seat.actions.nvec}")

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        self._starts[rows.cpu().numpy()] = True

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        masks = {"action_masks": mask.cpu().numpy()} if self._masks else {}
        seen = self.scale(observation.cpu().numpy())
        actions, self._state = self.model.predict(seen, self._state, self._starts, deterministic=True, **masks)
        self._starts = np.zeros_like(self._starts)
        return torch.from_numpy(np.asarray(actions, dtype=np.int64)).to(observation.device)


def _normaliser(path: str, size: int) -> Normaliser:
    if not path:
        return Normaliser.identity(size)
    import pickle  # noqa: PLC0415  # the user asked for it by name

    with expanded(path).open("rb") as file:
        return Normaliser.of(pickle.load(file))
