"""The activations that enter the linear and the convolutional layers of a network, for methods that fit layers to data.

A convolution is linear in the patches of its input, so it is a linear layer with a column for each place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from paramarket_env.learning.networks.network import Network, parameter_count, split
from paramarket_env.validation import require

SAMPLES = 256
"""The largest number of the broker's samples on which layers are fitted and networks compared: the first ones."""


@dataclass(frozen=True)
class AffineLayer:
    """A layer whose output is ``weight @ columns + bias``."""

    module: str
    """Its name in ``Network.module``."""
    weight: int
    """The index of its weight among the network's tensors. Axis 0 is the outputs, and the others are the inputs."""
    bias: int | None
    """The index of its bias among the network's tensors, if it has one."""


PerLayer = dict[AffineLayer, Tensor]
"""A tensor for each layer."""


@dataclass(frozen=True)
class _Plain:
    """A network as an ordinary module without values."""

    module: nn.Module
    names: tuple[str, ...]
    """The module's names of the network's tensors."""
    layers: tuple[AffineLayer, ...]


@lru_cache(maxsize=16)
def _plain(network: Network) -> _Plain:
    module = network.module(torch.zeros(parameter_count(network), dtype=torch.float32, device="meta")).eval()
    names = [spec.name for spec in network.parameters]
    if names[0] not in module.state_dict():  # the module has other names, in the same order
        names = list(module.state_dict())
    layers = []
    for name, child in module.named_modules():
        if type(child) is nn.Linear or _is_plain_convolution(child):
            bias = None if child.bias is None else names.index(f"{name}.bias")
            layers.append(AffineLayer(name, names.index(f"{name}.weight"), bias))
    return _Plain(module, tuple(names), tuple(layers))


def _is_plain_convolution(child: nn.Module) -> bool:
    """Whether a module is a convolution of images whose patches ``unfold`` returns."""
    if type(child) is not nn.Conv2d or child.groups > 1:
        return False
    return child.padding_mode == "zeros" and not isinstance(child.padding, str)


def affine_layers(network: Network) -> tuple[AffineLayer, ...]:
    """The linear and the convolutional layers of a network, in the order of its module."""
    return _plain(network).layers


def require_affine_layers(field: str, value: object, network: Network) -> None:
    """Raise ``ValueError``, naming the field, if a network has no linear and no convolutional layer."""
    allowed = "another one, since the network has no linear and no convolutional layer"
    require(bool(affine_layers(network)), field, value, allowed)


Keep = Callable[[Tensor], Tensor]


def entering(
    network: Network, parameters: Tensor, inputs: Tensor, keep: Keep, only: AffineLayer | None = None
) -> PerLayer:
    """The results of ``keep`` for the input of each layer, of R networks ``[R, P]`` in ``eval`` mode: ``[R, ...]``.

    The networks have their own samples ``[R, n, *features]``. ``keep`` gets ``[inputs + 1, columns]``, with a column
    for each sample, and for each place or token of it. The last row is 1, or 0 in a layer without a bias. ``only``
    is a layer alone; None: all.
    """
    plain, rows = _plain(network), []
    layers = plain.layers if only is None else (only,)
    for vector, samples in zip(parameters, inputs, strict=True):
        tensors = dict(zip(plain.names, split(network, vector).values(), strict=True))
        rows.append(_entering(plain.module, layers, tensors, samples, keep))
    return {layer: torch.stack([row[layer] for row in rows]) for layer in layers}


def _entering(
    module: nn.Module, layers: tuple[AffineLayer, ...], tensors: dict[str, Tensor], samples: Tensor, keep: Keep
) -> PerLayer:
    found: PerLayer = {}

    def hold(layer: AffineLayer, child: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        columns = _columns(child, inputs[0])
        ones = torch.full_like(columns[:1], layer.bias is not None)
        found[layer] = keep(torch.cat([columns, ones]))

    hooks = [module.get_submodule(layer.module).register_forward_pre_hook(partial(hold, layer)) for layer in layers]
    try:
        functional_call(module, tensors, (samples,))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _columns(child: nn.Module, inputs: Tensor) -> Tensor:
    """The input of a layer ``[n, ...]`` as ``[inputs, columns]``."""
    if isinstance(child, nn.Conv2d):
        assert not isinstance(child.padding, str)
        patches = F.unfold(inputs, child.kernel_size, child.dilation, child.padding, child.stride)
        return patches.movedim(1, 0).flatten(1)
    return inputs.flatten(0, -2).T


def affine(network: Network, parameters: Tensor, layer: AffineLayer) -> Tensor:
    """The weight of a layer with its bias as the last column, ``[R, outputs, inputs + 1]``, of networks ``[R, P]``."""
    tensors = list(split(network, parameters).values())
    weight = tensors[layer.weight].flatten(2)
    bias = torch.zeros_like(weight[..., 0]) if layer.bias is None else tensors[layer.bias]
    return torch.cat([weight, bias.unsqueeze(2)], dim=2)


def with_affine(network: Network, parameters: Tensor, layers: PerLayer) -> Tensor:
    """The networks ``[R, P]`` with these layers, as :func:`affine` returns them, in place of their own."""
    tensors = [tensor.flatten(1) for tensor in split(network, parameters).values()]
    for layer, new in layers.items():
        tensors[layer.weight] = new[..., :-1].flatten(1).to(parameters.dtype)
        if layer.bias is not None:
            tensors[layer.bias] = new[..., -1].to(parameters.dtype)
    return torch.cat(tensors, dim=1)


def solve(products: Tensor, right: Tensor, ridge: float) -> Tensor:
    """The solutions x of ``products @ x = right``, float64 ``[Q, inputs, outputs]``.

    The share ``ridge`` of the mean of their diagonal is added to the diagonal of the ``products``, ``[Q, inputs,
    inputs]``. A solution is not finite if its products are not.
    """
    diagonal = products.diagonal(dim1=1, dim2=2)
    added = ridge * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    solution: Tensor = torch.linalg.solve_ex(products + torch.diag_embed(added.expand_as(diagonal)), right).result
    return solution


def words_of_layers(network: Network) -> int:
    """The memory to fit one layer, in 32-bit words: its inputs, and their products with each other in float64."""
    shapes = [network.parameters[layer.weight].shape for layer in affine_layers(network)]
    inputs = max((math.prod(shape[1:]) + 1 for shape in shapes), default=0)
    patch = max((math.prod(shape[2:]) for shape in shapes), default=1)
    return 8 * inputs**2 + 6 * SAMPLES * patch * network.widest
