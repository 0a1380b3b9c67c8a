"""Networks made of ordinary modules: any feed-forward ``nn.Module`` can be the agents' network.

They implement the protocol ``Network`` with ``torch.func``. They are slower than a network that is written for batches,
but need no code besides the module.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from paramarket_env.autograd import no_grad
from paramarket_env.learning import memory
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.batch_norm import COUNTER, buffers_of_batch_norms, in_training
from paramarket_env.learning.networks.derive import check, derive
from paramarket_env.learning.networks.inspection import (
    Permutations,
    can_be_vmapped,
    children_of_stem,
    elements_held,
    given_permutations,
    parameter_specs,
    require_usable,
)
from paramarket_env.learning.networks.network import (
    Gradients,
    LogitGradient,
    ParameterSpec,
    has_statistics,
    require_elements,
    split,
)
from paramarket_env.validation import require

LOOP_ELEMENTS = 2**16
"""On a CPU, networks are called in turn if their widest layer holds at least so many elements of a batch.

With fewer elements, the calls themselves take most of the time: eight small networks batched by ``vmap`` are about
twice as fast as in turn. With more, batched convolutions and normalisations are up to three times slower, those of
small CNNs from this size on (``python -m benchmarks.batching``). On a GPU networks are always batched, since small
kernels should leave it idle. That has not been measured yet.
"""

BYTES_EXAMINED = 32
"""The memory that the examination of a module takes, for each parameter and each element that an operation returns."""

ModuleFactory = Callable[[tuple[int, ...], int], nn.Module]
"""Makes the module from ``features``, the shape of a sample, and the number of classes."""


class ModuleArchitecture:
    """An architecture that is defined by a module: a subclass says how to build it.

    The subclass must be hashable, as a :func:`paramarket_env.validation.configuration` is. For each shape of samples
    and number of classes, the module is built on the meta device, where it shows its size, then built in earnest and
    examined; :class:`ModuleNetwork` says what it can be.
    """

    permutations: Permutations | None = None
    """See :func:`from_module`."""

    def build(self, features: tuple[int, ...], classes: int) -> nn.Module:
        """The module for samples of shape ``features`` and this number of classes."""
        raise NotImplementedError

    def __call__(self, features: tuple[int, ...], classes: int) -> ModuleNetwork:
        """See :meth:`Architecture.__call__`."""
        require_elements(features)
        # A call puts a network's parameters into the module while it runs, so each market needs a module of its own.
        return copy.deepcopy(_network(self, features, classes))


def from_module(build: ModuleFactory, permutations: Permutations | None = None) -> ModuleArchitecture:
    """An architecture made of a module, as a plug-in.

    A permutation reorders the units of all axes with its name, which must not change what the module computes. It acts
    on the running statistics of batch normalisation, such as ``1.running_mean``, too. By default the permutations are
    derived from a trace of the module. An empty mapping says that nothing is permuted.
    """
    return _FromModule(build, permutations)


class _FromModule(ModuleArchitecture):
    """An architecture made of a module; see :func:`from_module`. A nested function could not be pickled."""

    def __init__(self, build: ModuleFactory, permutations: Permutations | None) -> None:
        self._build, self.permutations = build, permutations

    def build(self, features: tuple[int, ...], classes: int) -> nn.Module:
        """See :meth:`ModuleArchitecture.build`."""
        return self._build(features, classes)


@lru_cache(maxsize=16)
@no_grad
def _network(architecture: ModuleArchitecture, features: tuple[int, ...], classes: int) -> ModuleNetwork:
    with _fixed_globals():
        _require_room(architecture, features, classes)
        module = architecture.build(features, classes)
        return ModuleNetwork(module, features, classes, architecture.permutations)


def _require_room(architecture: ModuleArchitecture, features: tuple[int, ...], classes: int) -> None:
    """Raise ``ValueError``, before any memory is taken, for a module that is too large to be made and examined.

    The module is first made on the meta device. One that cannot be made there, because it needs values, is not checked.
    """
    try:
        with torch.device("meta"):
            module = architecture.build(features, classes)
            held = sum(elements_held(module, features, classes, torch.device("meta")))
    except Exception:  # making the module in earnest shows what is wrong with it
        return
    parameters = sum(parameter.numel() for parameter in module.parameters())
    needed, free = BYTES_EXAMINED * (parameters + held), memory.free_bytes(torch.device("cpu"))
    size = f"{parameters} parameters and {held} elements for each sample"
    allowed = f"smaller: {size} need about {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free"
    require(needed <= free, "network", architecture, allowed)


@contextmanager
def _fixed_globals() -> Iterator[None]:
    """Torch's defaults and its random generator in a fixed state, and afterwards as they were."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


class ModuleNetwork:
    """A module as a market's network, run in ``eval`` mode: dropout does nothing.

    Batch normalisation alone is in ``train`` mode while a network trains. Its running statistics are part of the flat
    vector.

    The layers that can be sold are the module's children, in the order in which it defines them. The stem is the first
    child of an ``nn.Sequential`` if that is an ``nn.Linear``, or the second after an ``nn.Flatten``. Other modules have
    no stem.

    The initial values of linear and convolutional layers are torch's defaults. Any other tensor begins as the module
    makes it if all its values are equal; else they are uniform, with the mean and the standard deviation of the
    module's own.

    Raises ``ValueError`` for a module without parameters, one that uses a tensor twice, has buffers besides running
    statistics, normalises by batches without them, or does not return a row of ``classes`` logits for each sample, and
    for permutations that do not fit.
    """

    def __init__(
        self, module: nn.Module, features: tuple[int, ...], classes: int, permutations: Permutations | None
    ) -> None:
        require(isinstance(module, nn.Module), "network", type(module).__name__, "an nn.Module")
        module = copy.deepcopy(module).to(torch.float32).eval()
        held = elements_held(module, features, classes)
        require_usable(module, features)
        derived = derive(module, features) if permutations is None else given_permutations(module, permutations)
        check(module, features, derived)
        self.parameters, self.blocks = parameter_specs(module, derived.axes), derived.blocks
        first = children_of_stem(module, features)
        self.activations = sum(held)
        self.widest = max(held if first else [math.prod(features), *held])
        self._vmaps = can_be_vmapped(module, features)
        self._module = module.to("meta")
        children = list(module.named_children())
        stem = [spec for spec in self.parameters if first and spec.layer == children[first - 1][0]]
        self.stem_size = sum(spec.size for spec in stem)
        self._stem = _Function(nn.Sequential(OrderedDict(children[:first])), stem, features)
        self._whole = _Function(module, self.parameters, features)
        self._training = _Training(in_training(module), self.parameters, features)
        rest = nn.Sequential(OrderedDict(children[first:]))
        self._body = _Function(rest, self.parameters[len(stem) :], (-1,)) if first else self._whole

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.stem`. Without a stem it is a view of the inputs."""
        if self.stem_size == 0:
            return inputs.flatten(2).mT.unsqueeze(1).expand(-1, parameters.shape[1], -1, -1)
        stems: Tensor = vmap(vmap(self._stem, (0, None)))(parameters[..., : self.stem_size], inputs)
        return stems.mT.contiguous()

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        """See :meth:`Network.body`."""
        room, inputs = chunk_elements(stem.device) // self.widest, stem.mT
        if self._loops(stem.device, inputs.shape[2]):
            each = zip(_flat(parameters), _flat(inputs), strict=True)
            logits = torch.stack([self._in_blocks(self._body, *network, room) for network in each])
            return logits.view(*parameters.shape[:2], *logits.shape[1:]).mT.contiguous()
        rows, run = room // math.prod(inputs.shape[1:3]), vmap(vmap(self._body))
        groups = zip(parameters.split(max(1, rows)), inputs.split(max(1, rows)), strict=True)
        logits = torch.cat([self._in_blocks(run, *group, room // inputs.shape[1]) for group in groups])
        return logits.mT.contiguous()

    def _loops(self, device: torch.device, samples: int) -> bool:
        """Whether networks are called one after another on this many samples each, and not batched."""
        return not self._vmaps or (device.type == "cpu" and samples * self.widest >= LOOP_ELEMENTS)

    @staticmethod
    def _in_blocks(run: Callable[..., Tensor], parameters: Tensor, inputs: Tensor, block: int) -> Tensor:
        """The logits ``[..., n, classes]``, computed for at most ``block`` of the n samples at a time, or for one."""
        return torch.cat([run(parameters, part) for part in inputs.split(max(1, block), dim=-2)], dim=-2)

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        """See :meth:`Network.gradients`."""
        if self._loops(parameters.device, inputs.shape[1]):
            return self._gradients_in_turn(parameters, inputs, logit_gradient)
        # The networks are independent, so one pullback gives the gradient of each.
        logits, pullback, *_ = vjp(lambda vectors: vmap(self._training)(vectors, inputs), parameters)
        (gradient,) = pullback(logit_gradient(logits.mT.contiguous()).mT)
        parts: Gradients = gradient.split([spec.size for spec in self.parameters], dim=1)
        return parts

    def _gradients_in_turn(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        networks = [[part.requires_grad_() for part in self._whole.split(vector)] for vector in parameters.detach()]
        with torch.enable_grad():
            logits = [self._training.of(*each) for each in zip(networks, inputs, strict=True)]
        gradients = logit_gradient(torch.stack(logits).detach().mT.contiguous()).mT
        rows = [
            torch.autograd.grad(out, tensors, gradient, materialize_grads=True)
            for out, tensors, gradient in zip(logits, networks, gradients, strict=True)
        ]
        return [torch.stack(parts).flatten(1) for parts in zip(*rows, strict=True)]

    def with_statistics(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :meth:`Network.with_statistics`."""
        if not has_statistics(self):
            return parameters
        samples, run = inputs.shape[1], self._training.with_statistics
        if self._loops(parameters.device, samples):
            return torch.stack([run(*network) for network in zip(parameters, inputs, strict=True)])
        rows = max(1, chunk_elements(parameters.device) // (self.widest * samples))
        chunks = zip(parameters.split(rows), inputs.split(rows), strict=True)
        return torch.cat([vmap(run)(*chunk) for chunk in chunks])

    def module(self, parameters: Tensor) -> nn.Module:
        """See :meth:`Network.module`."""
        module = copy.deepcopy(self._module).train()
        counters = buffers_of_batch_norms(module, (COUNTER,))
        one_batch = {name: torch.ones_like(each, device=parameters.device) for name, each in counters.items()}
        module.load_state_dict({**split(self, parameters.detach().clone()), **one_batch}, assign=True)
        return module


def _flat(groups: Tensor) -> list[Tensor]:
    """The members of all groups: views of ``[R, G, ...]``."""
    return [member for group in groups for member in group]


@dataclass(frozen=True, eq=False)
class _Function:
    """A module as a function of its parameters and of inputs that are flattened or have this ``shape``."""

    module: nn.Module
    specs: Sequence[ParameterSpec]
    shape: tuple[int, ...]

    def __call__(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """The outputs for one vector of parameters and one batch of inputs."""
        return self.of(self.split(parameters), inputs)

    def split(self, parameters: Tensor) -> Sequence[Tensor]:
        """Views of a vector of parameters as flat tensors."""
        parts: Sequence[Tensor] = parameters.split([spec.size for spec in self.specs])
        return parts

    def of(self, parts: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """The outputs for flat tensors of parameters and one batch of inputs."""
        tensors = {spec.name: part.view(spec.shape) for spec, part in zip(self.specs, parts, strict=True)}
        result: Tensor = functional_call(self.module, tensors, (inputs.reshape(len(inputs), *self.shape),))
        return result


class _Training(_Function):
    """A module in training, whose batch normalisation uses the statistics of the inputs."""

    def of(self, parts: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """See :meth:`_Function.of`."""
        return super().of(self._fresh(parts), inputs)

    def with_statistics(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """The vector of parameters with the running statistics of one batch of inputs."""
        parts = self._fresh(self.split(parameters))
        super().of(parts, inputs)
        return torch.cat(parts)

    def _fresh(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The parts with new tensors for the running statistics, which the module overwrites."""
        each = zip(self.specs, parts, strict=True)
        return [torch.full_like(part, spec.centre) if spec.statistic else part for spec, part in each]
