"""Policies learned with Stable-Baselines3: kept in a folder, and seated wherever a rule is, as ``learned:FOLDER``.

The folder has ``model.zip`` (the algorithm's own format), ``normaliser.npz`` (mean and variance of the observations
that it was trained on) and ``policy.json`` (which market it was made for).
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

if TYPE_CHECKING:  # slow to import, so rules do without it
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

MASKABLE = "maskable-ppo"

POLICY_FILES = ("model.zip", "normaliser.npz", "policy.json")
"""What a folder must have to be played."""


ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"),
    MASKABLE: ("sb3_contrib", "MaskablePPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "dqn": ("stable_baselines3", "DQN"),
}
"""Where the class of each algorithm is."""


def algorithm(name: str) -> type[BaseAlgorithm]:
    """The algorithm of that name; ``ImportError`` that says what to install where it is an extra."""
    module, kind = lookup(ALGORITHMS, name, "algorithm")
    try:
        found: type[BaseAlgorithm] = getattr(import_module(module), kind)
    except ImportError as error:
        package = module.replace("_", "-")
        raise ImportError(f"algo={name!r} needs {package}: pip install {package}") from error
    return found


def interface_signature(layout: ObservationLayout, actions: Actions) -> dict[str, Any]:
    """What a policy sees and may do, as JSON: two markets with the same can be played by the same policies."""
    fields = [[field.name, field.size, field.low, field.high] for field in layout.fields]
    return {"observation": fields, "nvec": list(actions.nvec)}


@dataclass(frozen=True)
class Normaliser:
    """How observations are scaled: ``(x - mean) / sqrt(variance)``, clipped; float64 ``[D]`` each."""

    mean: np.ndarray
    variance: np.ndarray
    clip: float

    @classmethod
    def of(cls, env: VecNormalize) -> Normaliser:
        """That of a training environment, as it is now."""
        found: Any = env.obs_rms  # of one vector, not of a dictionary of them
        return cls(found.mean.copy(), found.var + env.epsilon, env.clip_obs)

    @classmethod
    def identity(cls, size: int) -> Normaliser:
        """The one that leaves observations ``[B, size]`` as they are."""
        return cls(np.zeros(size), np.ones(size), np.inf)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Scaled observations, float32 ``[B, D]``."""
        scaled: np.ndarray = np.clip((observation - self.mean) / np.sqrt(self.variance), -self.clip, self.clip)
        return scaled.astype(np.float32)


def save_policy(folder: Path | str, model: BaseAlgorithm, metadata: dict[str, Any] | None = None) -> None:
    """Keep the policy of a model as it is now, so that ``learned:FOLDER`` plays it; the folder is made if need be.

    The model has learned on a ``ParaMarketVecEnv``, in any wrappers that leave its observations as they are, or in a
    ``VecNormalize``. ``metadata``, which must be JSON, is kept in ``policy.json`` too. Raises ``ValueError`` for
    another environment, and for an algorithm that is not in ``ALGORITHMS``.
    """
    # The classes are called as the algorithms are, but for hyphens; and no extra need be imported to tell.
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
    kept = {"algorithm": name, **interface_signature(market.layout, market.actions), **(metadata or {})}
    (path / "policy.json").write_text(json.dumps(kept, indent=2) + "\n")


def _market_of(model: BaseAlgorithm) -> MarketBatch:
    """The markets that a model has learned on."""
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv  # noqa: PLC0415  # slow to import

    env = model.get_env()
    market = None if env is None else env.unwrapped
    if not isinstance(market, ParaMarketVecEnv) or model.observation_space.shape != market.observation_space.shape:
        raise ValueError("model cannot be kept: it must have learned on a ParaMarketVecEnv, its observations unchanged")
    return market.market_batch


@configuration
class Learned:
    """A policy that ``paramarket train`` or :func:`save_policy` has kept in a folder."""

    folder: str

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return LearnedPolicy(seat, self.folder)


class LearnedPolicy(Policy):
    """A learned policy in a seat, acting deterministically.

    Raises ``ValueError`` if there is none in the folder, or if it was made for other observations or actions. Only open
    folders that you trust: the format of the model is Python's pickle.
    """

    def __init__(self, seat: Seat, folder: str) -> None:
        path = Path(folder)
        if not (path / "policy.json").is_file():
            raise ValueError(f"policy='learned:{folder}' is not there: {folder!r} has no policy.json")
        kept = json.loads((path / "policy.json").read_text())
        _require_same(kept, interface_signature(seat.layout, seat.actions), folder)
        self._masks = kept["algorithm"] == MASKABLE
        self.model: Any = algorithm(kept["algorithm"]).load(path / "model.zip", device="cpu")
        with np.load(path / "normaliser.npz") as arrays:
            self.scale = Normaliser(arrays["mean"], arrays["variance"], float(arrays["clip"]))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        masks = {"action_masks": mask.cpu().numpy()} if self._masks else {}
        actions, _ = self.model.predict(self.scale(observation.cpu().numpy()), deterministic=True, **masks)
        return torch.from_numpy(np.asarray(actions, dtype=np.int64)).to(observation.device)


def _require_same(kept: dict[str, Any], here: dict[str, Any], folder: str) -> None:
    for what in ("observation", "nvec"):
        if kept[what] != here[what]:
            theirs, ours = (
                [entry for entry in a[what] if entry not in b[what]] for a, b in ((kept, here), (here, kept))
            )
            raise ValueError(
                f"policy='learned:{folder}' was made for another market: its {what} has {theirs}, this one's {ours}"
            )
