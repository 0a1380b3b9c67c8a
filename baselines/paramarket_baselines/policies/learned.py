"""Policies learned with Stable-Baselines3. They are saved in a folder, and ``learned:FOLDER`` plays them like a rule.

The folder has ``model.zip`` (the algorithm's own format), ``normaliser.npz`` (mean and variance of the observations
in training) and ``policy.json`` (the observations and actions of the market).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from paramarket_env.interface.actions import Actions
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import ObservationLayout
from paramarket_env.interface.policy import Policy, Seat
from paramarket_env.validation import configuration, lookup

if TYPE_CHECKING:  # slow to import, and rules do not need it
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

MASKABLE = "maskable-ppo"

POLICY_FILES = ("model.zip", "normaliser.npz", "policy.json")
"""The files of a saved policy."""


ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"),
    MASKABLE: ("sb3_contrib", "MaskablePPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "dqn": ("stable_baselines3", "DQN"),
}
"""The module and the class of each algorithm."""


def algorithm(name: str) -> type[BaseAlgorithm]:
    """The class of an algorithm. Raises ``ImportError`` with the package to install if it is missing."""
    module, kind = lookup(ALGORITHMS, name, "algorithm")
    try:
        found: type[BaseAlgorithm] = getattr(import_module(module), kind)
    except ImportError as error:
        package = module.replace("_", "-")
        raise ImportError(f"algo={name!r} needs {package}: pip install {package}") from error
    return found


def interface_signature(layout: ObservationLayout, actions: Actions) -> dict[str, Any]:
    """The observations and actions of a market, as JSON. A policy can play any market with the same signature."""
    fields = [[field.name, field.size, field.low, field.high] for field in layout.fields]
    return {"observation": fields, "nvec": list(actions.nvec)}


@dataclass(frozen=True)
class Normaliser:
    """Scales observations to ``(x - mean) / sqrt(variance)``, clipped; mean and variance are float64 ``[D]``."""

    mean: np.ndarray
    variance: np.ndarray
    clip: float

    @classmethod
    def of(cls, env: VecNormalize) -> Normaliser:
        """The current scaling of a training environment."""
        found: Any = env.obs_rms  # a RunningMeanStd, since observations are no dictionaries
        return cls(found.mean.copy(), found.var + env.epsilon, env.clip_obs)

    @classmethod
    def identity(cls, size: int) -> Normaliser:
        """The scaling that leaves observations ``[B, size]`` unchanged."""
        return cls(np.zeros(size), np.ones(size), np.inf)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Scaled observations, float32 ``[B, D]``."""
        scaled: np.ndarray = np.clip((observation - self.mean) / np.sqrt(self.variance), -self.clip, self.clip)
        return scaled.astype(np.float32)


def save_policy(folder: Path | str, model: BaseAlgorithm, metadata: dict[str, Any] | None = None) -> None:
    """Save the current policy of a model, so that ``learned:FOLDER`` plays it. Makes the folder if needed.

    The model must have learned on a ``ParaMarketVecEnv``, optionally in a ``VecNormalize`` or in wrappers that leave
    observations unchanged. ``metadata`` must be JSON; it is saved in ``policy.json`` too. Raises ``ValueError`` for
    another environment, and for an algorithm that is not in ``ALGORITHMS``.
    """
    # A class has the algorithm's name without hyphens, so this needs no import of extras.
    names = {name.replace("-", ""): name for name in ALGORITHMS}
    name = lookup(names, type(model).__name__.lower(), "algorithm")
    market = _market_of(model)
    scaled = model.get_vec_normalize_env()
    size = market.layout.size
    scale = Normaliser.identity(size) if scaled is None or not scaled.norm_obs else Normaliser.of(scaled)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    model.save(path / "model.zip")
    np.savez(path / "normaliser.npz", mean=scale.mean, variance=scale.variance, clip=scale.clip)
    saved = {"algorithm": name, **interface_signature(market.layout, market.actions), **(metadata or {})}
    (path / "policy.json").write_text(json.dumps(saved, indent=2) + "\n")


def _market_of(model: BaseAlgorithm) -> MarketBatch:
    """The markets on which a model has learned."""
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv  # noqa: PLC0415  # slow to import

    env = model.get_env()
    market = None if env is None else env.unwrapped
    if not isinstance(market, ParaMarketVecEnv) or model.observation_space.shape != market.observation_space.shape:
        raise ValueError(
            "model cannot be saved: it must have learned on a ParaMarketVecEnv with unchanged observations"
        )
    return market.market_batch


@configuration
class Learned:
    """A policy that ``paramarket train`` or :func:`save_policy` has saved in a folder."""

    folder: str

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return LearnedPolicy(seat, self.folder)


class LearnedPolicy(Policy):
    """A learned policy in a seat, acting deterministically.

    Raises ``ValueError`` if the folder has no policy, or one for other observations or actions. Only open folders that
    you trust: the format of the model is Python's pickle.
    """

    def __init__(self, seat: Seat, folder: str) -> None:
        path = Path(folder)
        if not (path / "policy.json").is_file():
            raise ValueError(f"policy='learned:{folder}' is not there: {folder!r} has no policy.json")
        saved = json.loads((path / "policy.json").read_text())
        _require_same(saved, interface_signature(seat.layout, seat.actions), folder)
        self._masks = saved["algorithm"] == MASKABLE
        self.model: Any = algorithm(saved["algorithm"]).load(path / "model.zip", device="cpu")
        with np.load(path / "normaliser.npz") as arrays:
            self.scale = Normaliser(arrays["mean"], arrays["variance"], float(arrays["clip"]))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        masks = {"action_masks": mask.cpu().numpy()} if self._masks else {}
        actions, _ = self.model.predict(self.scale(observation.cpu().numpy()), deterministic=True, **masks)
        return torch.from_numpy(np.asarray(actions, dtype=np.int64)).to(observation.device)


def _require_same(saved: dict[str, Any], here: dict[str, Any], folder: str) -> None:
    for part in ("observation", "nvec"):
        if saved[part] != here[part]:
            theirs, ours = (
                [entry for entry in a[part] if entry not in b[part]] for a, b in ((saved, here), (here, saved))
            )
            raise ValueError(
                f"policy='learned:{folder}' was made for another market: its {part} has {theirs}, this market's {ours}"
            )
