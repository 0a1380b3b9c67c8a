"""Checkpoints of trainings: a saved policy, and with it all that the training needs to go on.

The tensors are in the safetensors format and the rest is JSON, so that to resume a training executes nothing of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import save
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from paramarket_baselines.policies.learned import MANIFEST, read_manifest, read_tensors
from paramarket_baselines.policies.saving import save_policy
from paramarket_env.validation import configuration, explain

if TYPE_CHECKING:
    from stable_baselines3.common.buffers import ReplayBuffer

TRAINING = "training.safetensors"
"""The tensors of the model, of its optimizer, of the normalisation and of the replay buffer."""

STATISTICS = ("mean", "var", "count")
TRANSITIONS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
Total = Annotated[int, Field(ge=0, lt=2**53)]


@configuration
class Progress:
    """The counters of a training."""

    timesteps: Total
    """Agent-steps taken."""
    updates: Total
    """Updates of the network."""
    episodes: Total
    scores: tuple[tuple[Total, float], ...]
    """The agent-steps and the mean return of each evaluation."""
    since: Total
    """The number of evaluations since the best one."""
    calls: Total = 0
    """DQN's steps, which say when the target network is updated."""
    position: Total = 0
    """The place in the replay buffer where the next step is written."""
    full: bool = False
    """Whether the replay buffer has been filled once."""


def save_checkpoint(
    folder: Path, model: BaseAlgorithm, env: VecNormalize, evaluations: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """Save the policy and the training. ``evaluations`` has ``scores`` and ``since``."""
    tensors = _model_tensors(model) | _normaliser_tensors(env)
    counters = {
        "timesteps": model.num_timesteps,
        "updates": int(model._n_updates),
        "episodes": int(model._episode_num),
        "calls": int(getattr(model, "_n_calls", 0)),
        **evaluations,
    }
    if isinstance(model, OffPolicyAlgorithm):
        buffer: Any = model.replay_buffer
        counters |= {"position": int(buffer.pos), "full": bool(buffer.full)}
        tensors |= _buffer_tensors(buffer)
    about = {**metadata, "timesteps": model.num_timesteps, "progress": counters}
    save_policy(folder, model, about, {TRAINING: save({name: each.contiguous() for name, each in tensors.items()})})


def read_progress(folder: Path) -> Progress:
    """The counters of a checkpoint. Raises ``ValueError`` that names the file if it is damaged."""
    try:
        text = json.dumps(read_manifest(folder / MANIFEST).metadata.get("progress"))
        found: Progress = TypeAdapter(Progress).validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{str(folder / MANIFEST)!r} is damaged: {explain(error, 'progress')}") from None
    return found


def load_checkpoint(folder: Path, model: BaseAlgorithm, env: VecNormalize) -> Progress:
    """Put the state of a checkpoint into a model that was made anew from the same plan.

    Raises ``ValueError`` that names the file if the checkpoint is damaged.
    """
    progress = read_progress(folder)
    tensors = read_tensors(folder / MANIFEST, read_manifest(folder / MANIFEST).files, TRAINING)
    try:
        _load_model(tensors, model)
        _load_normaliser(tensors, env)
        if isinstance(model, OffPolicyAlgorithm):
            _load_buffer(tensors, model.replay_buffer, progress)
    except (KeyError, ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{TRAINING} of {str(folder / MANIFEST)!r} does not fit the plan: {error}") from error
    model.num_timesteps, model._episode_num = progress.timesteps, progress.episodes
    model._n_updates = progress.updates
    if hasattr(model, "_n_calls"):
        model._n_calls = progress.calls
    return progress


# --- the model ----------------------------------------------------------------------------------------------------


def _model_tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    policy = model.policy
    found = {f"policy/{name}": tensor.detach().clone() for name, tensor in policy.state_dict().items()}
    for index, state in policy.optimizer.state_dict()["state"].items():
        found |= {
            f"optimizer/{index}/{name}": torch.as_tensor(value, device="cpu").clone() for name, value in state.items()
        }
    return found


def _load_model(tensors: dict[str, Tensor], model: BaseAlgorithm) -> None:
    model.policy.load_state_dict(_part(tensors, "policy"))
    optimizer = model.policy.optimizer
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in _part(tensors, "optimizer").items():
        index, field = name.split("/")
        states.setdefault(int(index), {})[field] = tensor.item() if tensor.dtype == torch.int64 else tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    begin = f"{name}/"
    return {each.removeprefix(begin): tensor for each, tensor in tensors.items() if each.startswith(begin)}


# --- the normalisation and the replay buffer ------------------------------------------------------------------------


def _normaliser_tensors(env: VecNormalize) -> dict[str, Tensor]:
    parts: dict[str, Any] = {"observations": env.obs_rms, "returns": env.ret_rms}
    return {
        f"{part}/{name}": torch.as_tensor(getattr(statistics, name), dtype=torch.float64, device="cpu").clone()
        for part, statistics in parts.items()
        for name in STATISTICS
    }


def _load_normaliser(tensors: dict[str, Tensor], env: VecNormalize) -> None:
    parts: dict[str, Any] = {"observations": env.obs_rms, "returns": env.ret_rms}
    for part, statistics in parts.items():
        for name in STATISTICS:
            kept = tensors[f"{part}/{name}"].numpy()
            _require_like(f"{part}/{name}", kept, np.asarray(getattr(statistics, name), dtype=np.float64))
            setattr(statistics, name, float(kept) if name == "count" else kept.copy())


def _buffer_tensors(buffer: ReplayBuffer) -> dict[str, Tensor]:
    """The transitions in the buffer, without those places that were not written yet."""
    filled = buffer.buffer_size if buffer.full else buffer.pos
    return {f"replay/{name}": torch.from_numpy(getattr(buffer, name)[:filled]).clone() for name in TRANSITIONS}


def _load_buffer(tensors: dict[str, Tensor], buffer: Any, progress: Progress) -> None:
    filled = buffer.buffer_size if progress.full else progress.position
    for name in TRANSITIONS:
        kept, array = tensors[f"replay/{name}"].numpy(), getattr(buffer, name)
        _require_like(f"replay/{name}", kept, array[:filled])
        array[:filled] = kept
    buffer.pos, buffer.full = progress.position, progress.full


def _require_like(name: str, kept: np.ndarray, here: np.ndarray) -> None:
    if (kept.shape, kept.dtype) != (here.shape, here.dtype) or not np.isfinite(kept).all():
        raise ValueError(f"{name} has the wrong shape or dtype, or is not finite")
