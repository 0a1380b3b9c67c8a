"""Learned policies. They are saved in a folder, and ``learned:FOLDER`` plays them like a rule.

The folder has ``policy.json`` (the algorithm, the layers of its network, and the observations and actions of the
market) and the tensors in the safetensors format. To load a policy executes nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import safetensors
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from paramarket_baselines.policies.history import History, feature_sizes
from paramarket_baselines.policies.mixed import drawn
from paramarket_env.files import expanded, read_member
from paramarket_env.interface.actions import Actions
from paramarket_env.interface.observations import ObservationLayout
from paramarket_env.interface.policy import POLICIES, Policy, Seat
from paramarket_env.validation import configuration, explain, lookup, require

if TYPE_CHECKING:  # slow to import, and rules do not need it
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

MASKABLE = "maskable-ppo"
RECURRENT = "recurrent-ppo"

MANIFEST = "policy.json"
"""The file of a saved policy that names the others."""
WEIGHTS = "weights.safetensors"
"""The tensors of the network and of the scale of its observations."""

ALGORITHMS = {
    "ppo": ("stable_baselines3", "PPO"),
    MASKABLE: ("sb3_contrib", "MaskablePPO"),
    RECURRENT: ("sb3_contrib", "RecurrentPPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "dqn": ("stable_baselines3", "DQN"),
}
"""The module and the class of each algorithm."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
"""The activations that a saved policy can have, with torch's default settings."""


LSTM_TENSORS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""The tensors of an LSTM, with torch's names and in the order of ``torch.lstm_cell``."""


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


Size = Annotated[int, Field(ge=1, le=2**16)]
Algorithm = Literal["ppo", "maskable-ppo", "recurrent-ppo", "a2c", "dqn"]


@configuration
class SavedPolicy:
    """The content of ``policy.json``."""

    algorithm: Algorithm
    observation: tuple[tuple[str, Size, float, float], ...]
    """The fields of an observation: name, size, low and high."""
    nvec: Annotated[tuple[Size, ...], Field(min_length=1)]
    """The number of choices of each part of an action."""
    hidden: tuple[Size, ...]
    """The sizes of the hidden layers."""
    activation: Literal["tanh", "relu", "elu", "gelu", "leaky_relu", "sigmoid", "silu"]
    clip: Annotated[float, Field(gt=0)] | None
    """Scaled observations are clipped to [-clip, clip]."""
    files: dict[str, str]
    """The SHA-256 of each file of the set, by name."""
    history: bool = False
    """Whether the network sees the history of the episode behind the observation (see ``History``)."""
    lstm: Size | None = None
    """H, the number of units of the LSTM before the hidden layers, or None for a network without memory."""
    chances: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (1.0,)
    """The probability of each network of a mixture. With several, every tensor has a first axis for them."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Anything else that is worth knowing about the policy."""

    def __post_init__(self) -> None:
        require(bool(np.isclose(sum(self.chances), 1)), "chances", self.chances, "probabilities with the sum 1")
        require(self.lstm is None or len(self.chances) == 1, "lstm", self.lstm, "None in a mixture")

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the policy."""
        networks = (len(self.chances),) if len(self.chances) > 1 else ()
        fields = {name: size for name, size, _, _ in self.observation}
        width = sum(fields.values()) + (sum(feature_sizes(fields).values()) if self.history else 0)
        sizes = (self.lstm or width, *self.hidden, sum(self.nvec))
        shapes: dict[str, tuple[int, ...]] = {"mean": (width,), "variance": (width,)}
        if self.lstm:
            gates = 4 * self.lstm
            of_lstm = ((gates, width), (gates, self.lstm), (gates,), (gates,))
            shapes |= {f"lstm.{name}": shape for name, shape in zip(LSTM_TENSORS, of_lstm, strict=True)}
        for place, (before, after) in enumerate(pairwise(sizes)):
            shapes |= {f"{place}.weight": (after, before), f"{place}.bias": (after,)}
        return {name: (*networks, *shape) for name, shape in shapes.items()}


def read_manifest(path: Path) -> SavedPolicy:
    """Read ``policy.json``. Raises ``ValueError`` that names the file if it is not valid."""
    try:
        text = path.read_text(encoding="utf-8")
        saved: SavedPolicy = TypeAdapter(SavedPolicy).validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{str(path)!r} is damaged: {_short(explain(error, 'policy'))}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {_short(str(error))}") from None
    return saved


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "…"


def read_tensors(manifest: Path, hashes: Mapping[str, str], name: str) -> dict[str, Tensor]:
    """The tensors of a file of a set. Raises ``ValueError`` that names the file if it is damaged."""
    data = read_member(manifest, hashes, name)
    try:
        return dict(load(data))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} of {str(manifest)!r} is damaged: {_short(str(error))}") from error


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


# --- playing ------------------------------------------------------------------------------------------------------


@configuration
class Learned:
    """A policy that ``paramarket train``, :func:`save_policy` or :func:`save_network` has saved in a folder."""

    folder: str

    def __call__(self, seat: Seat) -> Policy:
        """See ``PolicyFactory``."""
        return LearnedPolicy(seat, self.folder)


def trainings_of(policy: str) -> list[str]:
    """The trainings of a policy, by their textual forms: those in the numbered folders of ``learned:FOLDER``.

    ``learned:FOLDER/*`` means the same. Any other policy is the only one.
    """
    given = POLICIES.parse(policy)
    if not isinstance(given, Learned) or (expanded(given.folder) / MANIFEST).is_file():
        return [policy]
    folder = Path(given.folder.removesuffix("/*"))
    numbers = sorted(int(file.parent.name) for file in expanded(folder).glob(f"[0-9]*/{MANIFEST}"))
    return [f"learned:{folder / str(number)}" for number in numbers] or [policy]


class LearnedPolicy(Policy):
    """A learned policy in a seat, acting deterministically. It chooses what the model that was saved would.

    In a mixture, each episode has one of the networks, drawn with their chances.
    Raises ``ValueError`` if the folder has no policy, a damaged one, or one for other observations or actions.
    """

    def __init__(self, seat: Seat, folder: str) -> None:
        manifest = expanded(folder) / MANIFEST
        if not manifest.exists():
            raise ValueError(f"policy='learned:{folder}' is not there: {folder!r} has no {MANIFEST}")
        self.saved = read_manifest(manifest)
        require_same(self.saved, interface_signature(seat.layout, seat.actions), f"learned:{folder}")
        tensors = read_tensors(manifest, self.saved.files, WEIGHTS)
        _check_tensors(tensors, self.saved, manifest)
        tensors = {name: tensor.to(seat.device) for name, tensor in tensors.items()}
        self.networks = _networks(tensors, len(self.saved.chances))
        self.drawn = torch.zeros(seat.num_markets, dtype=torch.int64, device=seat.device)
        self.history = History(seat.layout)
        self.memory = self.history.start(seat.num_markets, seat.device)
        # The hidden state and the cell state of the LSTM.
        shape = (2, seat.num_markets, self.saved.lstm or 0)
        self.state = torch.zeros(shape, dtype=torch.float32, device=seat.device)
        self.activation = ACTIVATIONS[self.saved.activation]()

    def reset(self, rows: Tensor, keys: Tensor) -> None:
        """See :meth:`Policy.reset`."""
        fresh = self.history.start(len(rows), keys.device)
        self.memory = {name: kept.index_copy(0, rows, fresh[name]) for name, kept in self.memory.items()}
        self.state = self.state.index_fill(1, rows, 0)
        self.drawn = self.drawn.index_copy(0, rows, drawn(keys, self.saved.chances))

    def act(self, observation: Tensor, mask: Tensor) -> Tensor:
        """See :meth:`Policy.act`."""
        if self.saved.history:
            self.memory = self.history.observe(self.memory, observation)
            observation = History.append(self.memory, observation)
        scores = self._scores(observation)
        parts = scores.split(self.saved.nvec, dim=1)
        if self.saved.algorithm == "dqn":
            chosen = [part.argmax(1) for part in parts]
        elif self.saved.algorithm == MASKABLE:
            allowed = mask.split(self.saved.nvec, dim=1)
            # The same constant as in sb3-contrib.
            masked = [_log_chances(p).where(legal, -1e8) for p, legal in zip(parts, allowed, strict=True)]
            chosen = [_most_likely(part) for part in masked]
        else:
            chosen = [_most_likely(part) for part in parts]
        return chosen[0] if len(chosen) == 1 else torch.stack(chosen, 1)

    @torch.no_grad()
    def _scores(self, observation: Tensor) -> Tensor:
        scores = torch.stack([self._scores_of(network, observation) for network in self.networks])
        return scores[self.drawn, torch.arange(len(observation), device=scores.device)]

    def _scores_of(self, network: Mapping[str, Tensor], observation: Tensor) -> Tensor:
        scaled = (observation - network["mean"]) / network["variance"].sqrt()
        clip, last = self.saved.clip, len(self.saved.hidden)
        values = (scaled if clip is None else scaled.clamp(-clip, clip)).float()
        if self.saved.lstm:
            weights = [network[f"lstm.{name}"] for name in LSTM_TENSORS]
            self.state = torch.stack(torch.lstm_cell(values, self.state.unbind(), *weights))
            values = self.state[0]
        for place in range(last + 1):
            values = F.linear(values, network[f"{place}.weight"], network[f"{place}.bias"])
            values = self.activation(values) if place < last else values
        return values


def _networks(tensors: Mapping[str, Tensor], count: int) -> list[Mapping[str, Tensor]]:
    """The tensors of each network of a policy."""
    if count == 1:
        return [tensors]
    return [{name: tensor[place] for name, tensor in tensors.items()} for place in range(count)]


def _log_chances(scores: Tensor) -> Tensor:
    return scores - scores.logsumexp(1, keepdim=True)


def _most_likely(scores: Tensor) -> Tensor:
    """The mode of a categorical distribution; ties are broken as by torch's ``Categorical``."""
    return _log_chances(scores).softmax(1).argmax(1)


def _check_tensors(tensors: Mapping[str, Tensor], saved: SavedPolicy, manifest: Path) -> None:
    shapes = saved.tensor_shapes()
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        wrong = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
        raise ValueError(
            f"{WEIGHTS} of {str(manifest)!r} is damaged: its tensors {', '.join(wrong)} are not those of the policy"
        )
    for name, tensor in tensors.items():
        right = tensor.dtype == (torch.float64 if name in ("mean", "variance") else torch.float32)
        if not (right and bool(tensor.isfinite().all()) and (name != "variance" or bool((tensor > 0).all()))):
            raise ValueError(
                f"{WEIGHTS} of {str(manifest)!r} is damaged: {name} has the wrong dtype, or a value that is not allowed"
            )


def require_same(saved: SavedPolicy, here: Mapping[str, Any], policy: str) -> None:
    """Refuse a policy that was made for other observations or actions."""
    theirs: dict[str, list[Any]] = {
        "observation": [list(entry) for entry in saved.observation],
        "nvec": list(saved.nvec),
    }
    for part, there in theirs.items():
        if there != here[part]:
            missing, new = _without(there, here[part]), _without(here[part], there)
            raise ValueError(
                f"policy={policy!r} was made for another market: its {part} has {missing}, this market's {new}"
            )


def _without(entries: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    return [entry for entry in entries if entry not in others]
