"""Networks made of ordinary modules: a market can use any ``nn.Sequential`` that begins with an ``nn.Linear``.

They implement the protocol ``Network`` with ``torch.func``. They are slower than a network that is written for batches,
but need no code besides the module.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from paramarket_env.learning.networks.network import (
    Architecture,
    Blocks,
    Gradients,
    LogitGradient,
    ParameterSpec,
    Segment,
    split,
)
from paramarket_env.validation import require

ModuleFactory = Callable[[tuple[int, ...], int], nn.Sequential]
"""Makes the module from ``features``, the shape of a sample, and the number of classes."""

Permutations = Mapping[str, tuple[str | None, ...]]
"""For each tensor by name, such as ``0.weight``: the permutation of hidden units that acts on each axis, or None."""


def from_module(build: ModuleFactory, permutations: Permutations | None = None) -> Architecture:
    """An architecture made of a module, as a plug-in. Without ``permutations``, nothing is aligned.

    A permutation reorders the units of all axes with its name. This must not change what the module computes. A module
    that a market cannot use is refused when the market is made; see :class:`ModuleNetwork`.
    """
    return _ModuleArchitecture(build, permutations or {})


class _ModuleArchitecture:
    """An architecture made of a module; see :func:`from_module`. A nested function could not be pickled."""

    def __init__(self, build: ModuleFactory, permutations: Permutations) -> None:
        self.build, self.permutations = build, permutations

    def __call__(self, features: tuple[int, ...], classes: int) -> ModuleNetwork:
        """See :meth:`Architecture.__call__`."""
        with torch.device("meta"):  # shapes only: nothing is drawn from torch's global generator
            module = self.build(features, classes)
        return ModuleNetwork(module, features, classes, self.permutations)


class ModuleNetwork:
    """A module as a market's network, run in ``eval`` mode. Its children are the layers that can be sold.

    The stem is the first child, or the second after an ``nn.Flatten``. Initial values are torch's defaults for linear
    and convolutional layers and for layer and group normalisation. Raises ``ValueError`` for a module that begins with
    another layer, has buffers, uses a tensor twice, has parameters in layers of other kinds, or does not return
    ``classes`` logits. Also raises it for permutations of unknown tensors or with a wrong number of axes.
    """

    blocks: tuple[Blocks, ...] = ()

    def __init__(
        self, module: nn.Sequential, features: tuple[int, ...], classes: int, permutations: Permutations
    ) -> None:
        require(type(module) is nn.Sequential, "network", type(module).__name__, "an nn.Sequential")
        self._module = copy.deepcopy(module).to("meta", torch.float32).eval()
        children = list(self._module._modules.items())
        flat = bool(children) and isinstance(children[0][1], nn.Flatten)
        first, rest = children[: flat + 1], children[flat + 1 :]
        self._check(features, classes, first[-1][1] if first else None)
        self.parameters = self._specs(permutations)
        stem = [spec for spec in self.parameters if spec.layer == first[-1][0]]
        self.widest = max(math.prod(features), self.parameters[0].shape[0])
        self.stem_size = sum(spec.size for spec in stem)
        self._stem = partial(_call, nn.Sequential(OrderedDict(first)), stem)
        self._body = partial(_call, nn.Sequential(OrderedDict(rest)), self.parameters[len(stem) :])
        self._whole = partial(_call, self._module, self.parameters)

    def _check(self, features: tuple[int, ...], classes: int, first: nn.Module | None) -> None:
        """Raise ``ValueError`` if the module cannot be a market's network."""
        linear = isinstance(first, nn.Linear) and first.in_features == math.prod(features)
        allowed = f"an nn.Linear with {math.prod(features)} inputs, or an nn.Flatten followed by one"
        require(linear, "network's first layer", first, allowed)
        flat = len(features) == 1 or isinstance(self._module[0], nn.Flatten)
        require(flat, "network's first layer", first, f"preceded by nn.Flatten for samples of shape {features}")
        buffers = [name for name, _ in self._module.named_buffers()]
        require(not buffers, "network's buffers", buffers, "empty: a network is defined by its parameters")
        names = [name for name, _ in self._module.named_parameters(remove_duplicate=False)]
        once = len(names) == len(list(self._module.parameters()))
        require(once, "network's parameters", names, "distinct tensors")
        shape = tuple(self._module(torch.empty(2, *features, dtype=torch.float32, device="meta")).shape)
        require(shape == (2, classes), "network's output for 2 samples", shape, f"of shape {(2, classes)}")

    def _specs(self, permutations: Permutations) -> tuple[ParameterSpec, ...]:
        tensors = dict(self._module.named_parameters())
        unknown = sorted(set(permutations) - set(tensors))
        require(not unknown, "names in permutations", unknown, f"among {', '.join(tensors)}")
        specs = []
        for name, tensor in tensors.items():
            acting = permutations.get(name, (None,) * tensor.dim())
            one_each = len(acting) == tensor.dim()
            require(one_each, f"permutations of {name}", acting, f"{tensor.dim()} names or None, one for each axis")
            owner, _, kind = name.rpartition(".")
            bound, centre = _initial(self._module.get_submodule(owner), kind, name)
            axes = tuple((Segment(*axis),) for axis in zip(acting, tensor.shape, strict=True))
            specs.append(ParameterSpec(name, tuple(tensor.shape), name.split(".")[0], axes, bound, centre))
        segments = {segment for spec in specs for axis in spec.axes for segment in axis}
        named = [segment.permutation for segment in segments if segment.permutation is not None]
        one_size = len(set(named)) == len(named)
        require(one_size, "permutations", dict(permutations), "such that all axes with one name have one size")
        return tuple(specs)

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.stem`."""
        stems: Tensor = vmap(vmap(self._stem, (0, None)))(parameters[..., : self.stem_size], inputs)
        return stems.mT.contiguous()

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """See :meth:`Network.body`."""
        logits: Tensor = vmap(vmap(self._body))(parameters, stem.mT)
        return logits.mT.contiguous()

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        """See :meth:`Network.gradients`."""
        # The networks are independent, so one pullback gives the gradient of each.
        logits, pullback, *_ = vjp(lambda vectors: vmap(self._whole)(vectors, inputs), parameters)
        (gradient,) = pullback(logit_gradient(logits.mT.contiguous()).mT)
        parts: Gradients = gradient.split([spec.size for spec in self.parameters], dim=1)
        return parts

    def module(self, parameters: Tensor) -> nn.Module:
        """See :meth:`Network.module`."""
        module = copy.deepcopy(self._module).train()
        module.load_state_dict(split(self, parameters.detach().clone()), assign=True)
        return module


def _call(module: nn.Module, specs: Sequence[ParameterSpec], parameters: Tensor, inputs: Tensor) -> Tensor:
    """Evaluate a part of the network with one vector of its parameters, on one batch of inputs."""
    parts = parameters.split([spec.size for spec in specs])
    tensors = {spec.name: part.view(spec.shape) for spec, part in zip(specs, parts, strict=True)}
    result: Tensor = functional_call(module, tensors, (inputs,))
    return result


def _initial(owner: nn.Module, kind: str, name: str) -> tuple[float, float]:
    """The bound and the centre of torch's initial values for a layer's ``weight`` or ``bias``."""
    if isinstance(owner, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return 1 / math.sqrt(owner.weight[0].numel()), 0.0
    known = isinstance(owner, nn.LayerNorm | nn.GroupNorm)
    require(known, f"layer of {name}", type(owner).__name__, "Linear, Conv1d to Conv3d, LayerNorm or GroupNorm")
    return 0.0, float(kind == "weight")
