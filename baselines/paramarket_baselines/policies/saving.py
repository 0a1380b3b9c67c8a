"""Save policies that Stable-Baselines3 or another library has trained, so that ``learned:FOLDER`` plays them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from paramarket_baselines.policies.history import History
from paramarket_baselines.policies.learned import (
    ACTIVATIONS,
    ALGORITHMS,
    LSTM_TENSORS,
    MANIFEST,
    MASKABLE,
    WEIGHTS,
    Normaliser,
    interface_signature,
    read_manifest,
    read_tensors,
)
from paramarket_env.files import expanded, write_set
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.observations import ObservationLayout
from paramarket_env.validation import lookup, require

if TYPE_CHECKING:  # slow to import, and rules do not need it
    from stable_baselines3.common.base_class import BaseAlgorithm


def save_policy(
    folder: Path | str,
    model: BaseAlgorithm,
    metadata: dict[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Save the current policy of a model, so that ``learned:FOLDER`` plays it. Makes the folder if needed.

    The model must have learned on a ``ParaMarketVecEnv``, optionally in a ``VecNormalize``, in a ``RememberingVecEnv``,
    or in wrappers that leave observations unchanged. Its network must be an ``MlpPolicy`` of linear layers and one of
    ``ACTIVATIONS``, or an ``MlpLstmPolicy`` with an LSTM of one layer before them.
    ``metadata`` must be JSON; it is saved in ``policy.json`` too. ``files`` has contents of further files by name; they
    are saved as one set with the policy. Raises ``ValueError`` for another environment or network, and for an
    algorithm that is not in ``ALGORITHMS``.
    """
    # A class has the algorithm's name without hyphens, so this needs no import of extras.
    names = {name.replace("-", ""): name for name in ALGORITHMS}
    name = lookup(names, type(model).__name__.lower(), "algorithm")
    market = _market_of(model)
    scaled = model.get_vec_normalize_env()
    scale = Normaliser.identity(_width(model)) if scaled is None or not scaled.norm_obs else Normaliser.of(scaled)
    lstm: nn.LSTM | None = getattr(model.policy, "lstm_actor", None)
    _write(folder, name, market, _layers_of(model), scale, metadata, files, lstm)


def save_network(
    folder: Path | str,
    network: nn.Module,
    scale: Normaliser,
    market: MarketBatch,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Save a network that scores actions, so that ``learned:FOLDER`` plays the legal action with the highest score.

    The network maps scaled observations, float32 ``[B, D]``, to the logits of all parts of an action, ``[B, A]``. It
    must be linear layers with one of ``ACTIVATIONS`` between them. Raises ``ValueError`` for another network, or for
    other sizes than the market's. See :func:`save_policy` for ``metadata``.
    """
    found = _linear_layers([*network] if isinstance(network, nn.Sequential) else [network])
    sizes = (len(scale.mean), market.actions.mask_size)
    if found is None or (found[0][0].in_features, found[0][-1].out_features) != sizes:
        raise ValueError(
            f"network cannot be saved: it must be linear layers from {sizes[0]} inputs to {sizes[1]} outputs, with one "
            f"of the activations {', '.join(ACTIVATIONS)} between them"
        )
    _write(folder, MASKABLE, market, found, scale, metadata)


def save_mixture(folder: Path | str, members: Sequence[Path | str], chances: Sequence[float]) -> None:
    """Save a mixture of saved policies, which plays one of them in each episode, with these chances.

    Those without a chance are left out. The mixture has the metadata of the first one. Raises ``ValueError`` for
    members with different networks, algorithms, observations or actions.
    """
    chosen = [(expanded(member) / MANIFEST, chance) for member, chance in zip(members, chances, strict=True) if chance]
    manifests = [read_manifest(manifest) for manifest, _ in chosen]
    kinds = [replace(each, files={}, metadata={}) for each in manifests]
    require(all(each == kinds[0] for each in kinds), "members", [*map(str, members)], "of one kind of network")
    tensors = [read_tensors(path, each.files, WEIGHTS) for (path, _), each in zip(chosen, manifests, strict=True)]
    several = {name: torch.stack([each[name] for each in tensors]) for name in tensors[0]}
    content = json.loads(chosen[0][0].read_text(encoding="utf-8")) | {"chances": [chance for _, chance in chosen]}
    write_set(expanded(folder) / MANIFEST, content, {WEIGHTS: save(several if len(tensors) > 1 else tensors[0])})


def _write(
    folder: Path | str,
    name: str,
    market: MarketBatch,
    layers: tuple[list[nn.Linear], str],
    scale: Normaliser,
    metadata: dict[str, Any] | None,
    files: Mapping[str, bytes] | None = None,
    lstm: nn.LSTM | None = None,
) -> None:
    linear, activation = layers
    tensors = {"mean": torch.from_numpy(scale.mean), "variance": torch.from_numpy(scale.variance)}
    for place, layer in enumerate(linear):
        tensors |= {f"{place}.weight": layer.weight.detach().cpu(), f"{place}.bias": layer.bias.detach().cpu()}
    if lstm:
        tensors |= {f"lstm.{each}": getattr(lstm, f"{each}_l0").detach().cpu() for each in LSTM_TENSORS}
    content = {
        "algorithm": name,
        **interface_signature(market.layout, market.actions),
        "hidden": [layer.out_features for layer in linear[:-1]],
        "activation": activation,
        "clip": float(scale.clip) if np.isfinite(scale.clip) else None,
        "history": len(scale.mean) > market.layout.size,
        "lstm": lstm.hidden_size if lstm else None,
        "metadata": metadata or {},
    }
    write_set(expanded(folder) / MANIFEST, content, {WEIGHTS: save(tensors), **(files or {})})


def _layers_of(model: BaseAlgorithm) -> tuple[list[nn.Linear], str]:
    """The linear layers of the network that chooses actions, and the name of the activation between them."""
    policy: Any = model.policy
    if hasattr(policy, "q_net"):
        parts, layers = [policy, policy.q_net, policy.q_net.features_extractor], [*policy.q_net.q_net]
    else:
        parts = [policy, policy.pi_features_extractor, policy.mlp_extractor]
        layers = [*policy.mlp_extractor.policy_net, policy.action_net]
    actors = [f"{kind}ActorCriticPolicy" for kind in ("", "Maskable", "Recurrent")]
    known = ("FlattenExtractor", "MlpExtractor", "QNetwork", "DQNPolicy", *actors)
    ours = ("stable_baselines3.", "sb3_contrib.")
    standard = all(type(part).__module__.startswith(ours) and type(part).__name__ in known for part in parts)
    lstm = getattr(policy, "lstm_actor", None)
    # With torch's default settings an LSTM shows its sizes alone.
    standard &= lstm is None or repr(lstm) == f"LSTM({lstm.input_size}, {lstm.hidden_size})"
    found = _linear_layers(layers)
    if not standard or found is None:
        raise ValueError(
            "model cannot be saved: its network must be an MlpPolicy of linear layers with one of the activations "
            f"{', '.join(ACTIVATIONS)}, or such an MlpLstmPolicy with an LSTM of one layer; save another "
            "network with model.save(PATH), and play it as sb3:PATH"
        )
    return found


def _linear_layers(layers: Sequence[nn.Module]) -> tuple[list[nn.Linear], str] | None:
    """The linear layers and the name of the activation between them; None if there are other layers."""
    kinds = {repr(kind()): name for name, kind in ACTIVATIONS.items()}
    between = {repr(layer) for layer in layers[1::2]} or {repr(nn.Tanh())}
    linear = [layer for layer in layers[::2] if type(layer) is nn.Linear and layer.bias is not None]
    plain = len(layers) == 2 * len(linear) - 1
    return (linear, kinds[between.pop()]) if plain and len(between) == 1 and between <= set(kinds) else None


def _market_of(model: BaseAlgorithm) -> MarketBatch:
    """The markets on which a model has learned."""
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv  # noqa: PLC0415  # slow to import

    env = model.get_env()
    market = None if env is None else env.unwrapped
    if not isinstance(market, ParaMarketVecEnv) or _width(model) not in _widths(market.market_batch.layout):
        raise ValueError(
            "model cannot be saved: it must have learned on a ParaMarketVecEnv with unchanged observations"
        )
    return market.market_batch


def _width(model: BaseAlgorithm) -> int:
    """The number of entries of an observation of the model."""
    return int(np.prod(model.observation_space.shape or (0,)))


def _widths(layout: ObservationLayout) -> tuple[int, int]:
    """The numbers of entries of an observation, without and with its history."""
    return layout.size, layout.size + History(layout).size
