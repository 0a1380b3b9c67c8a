"""The permutations of hidden units of any module, derived from a trace of it.

A permutation of hidden units reorders the units of all parameters that hold them and leaves the module's outputs as
they are (Ainsworth et al. 2023). The module runs once, on samples of zeros. Each operation that it calls constrains the
units of its operands; see ``operations``. What the constraints leave free are the permutations; see ``units``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from paramarket_env.learning.networks.batch_norm import buffers_of_batch_norms
from paramarket_env.learning.networks.labels import Labels
from paramarket_env.learning.networks.network import Axis, Blocks, units_of
from paramarket_env.learning.networks.operations import RULES, Call, pointwise
from paramarket_env.learning.networks.units import Units, fixed, solve
from paramarket_env.validation import require

WAY_OUT = "give the permutations yourself with permutations=..., or permutations={} to align nothing"

LARGE = 10_000_000
"""The number of parameters from which a check computes in float32, to save time and memory."""


@dataclass(frozen=True)
class Derived:
    """The permutations of a module."""

    axes: Mapping[str, tuple[Axis, ...]]
    """The segments of each axis of each parameter, and of each running statistic of batch normalisation, by name."""
    blocks: tuple[Blocks, ...]
    """The permutations whose units come in blocks."""


def derive(module: nn.Module, features: tuple[int, ...]) -> Derived:
    """Derive the permutations of a module, in ``eval`` mode, that takes float32 ``[n, *features]``.

    The module may be on the meta device. Raises ``ValueError`` for a module that looks at the values of its data, for
    instance to choose what to compute, and for an operation that has no rule. The error names the operation and the
    module that called it.
    """
    traced, tensors = copy.deepcopy(module).to("meta").eval(), named_tensors(module)
    # Under these settings, torch breaks up layers and attention into operations with rules.
    with torch.device("cpu"), sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False), torch.no_grad():
        values = {**_buffers(module, torch.float32), **{name: _zeros(*each.shape) for name, each in tensors.items()}}
        with _Trace(traced, {name: values[name] for name in tensors}) as trace:
            output = functional_call(traced, values, (_zeros(2, *features),))
    require(isinstance(output, Tensor), "network's output", type(output).__name__, "a tensor of logits")
    for _, units in trace.known(output):
        trace.units.fix(units)
    return Derived(*solve(trace.units, trace.axes))


def check(module: nn.Module, features: tuple[int, ...], derived: Derived, draws: int = 1) -> None:
    """Raise ``ValueError`` if a permutation changes what the module computes by more than rounding.

    Each of ``draws`` random permutations reorders all units, of random parameters and on random samples. The module, in
    ``eval`` mode, takes float32 ``[n, *features]`` and may be on the meta device.
    """
    large = sum(parameter.numel() for parameter in module.parameters()) > LARGE
    dtype, allowed = (torch.float32, 1e-3) if large else (torch.float64, 1e-8)
    generator = torch.Generator("cpu").manual_seed(0)
    evaluated = copy.deepcopy(module).to("meta").eval()
    with torch.device("cpu"), torch.no_grad():
        values = {**_buffers(module, dtype), **_random_values(module, dtype, generator)}
        samples = torch.rand(2, *features, generator=generator, dtype=dtype, device="cpu")
        before = functional_call(evaluated, values, (samples,))
        for _ in range(draws):
            after = functional_call(evaluated, _permuted(values, derived, generator), (samples,))
            change = float((after - before).abs().max())
            most = allowed * float(before.abs().max())
            name = "change of the network's outputs by a permutation of its hidden units"
            require(change <= most, name, change, f"at most {most}; {WAY_OUT}")


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module, and the running statistics of its batch normalisation, by name."""
    return {**dict(module.named_parameters()), **buffers_of_batch_norms(module)}


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device="cpu")


def _buffers(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The module's buffers. Those on the meta device are 0, as in torch's layers, and the running variances are 1."""
    values = {}
    for name, buffer in module.named_buffers():
        value = _zeros(*buffer.shape) + name.endswith("running_var") if buffer.is_meta else buffer.cpu()
        values[name] = value.to(dtype if buffer.is_floating_point() else buffer.dtype)
    return values


def _random_values(module: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """Random parameters and running statistics that keep the size of what passes through the layers.

    Vectors are mostly positive, so that few units are cut off by a ReLU: the outputs would not depend on them.
    """
    values = {}
    for name, tensor in named_tensors(module).items():
        drawn = torch.randn(tensor.shape, generator=generator, dtype=dtype, device="cpu")
        values[name] = drawn / tensor[0].numel() ** 0.5 if tensor.dim() > 1 else 1 + drawn / 2
    for name in buffers_of_batch_norms(module):
        centred = values[name] - 1
        values[name] = centred.exp() if name.endswith("running_var") else centred
    return values


def _permuted(values: Mapping[str, Tensor], derived: Derived, generator: torch.Generator) -> dict[str, Tensor]:
    """The values with the units of each permutation in a random order."""
    orders = _random_orders(derived, generator)
    permuted = dict(values)
    for name, axes in derived.axes.items():
        for number, axis in enumerate(axes):
            permuted[name] = permuted[name].index_select(number, _places(axis, orders))
    return permuted


def _random_orders(derived: Derived, generator: torch.Generator) -> dict[str, Tensor]:
    """A random order of the units of each permutation that keeps the blocks together."""
    sizes = units_of(derived.axes.values())
    orders = {name: _shuffled(size, generator) for name, size in sizes.items()}
    for blocks in derived.blocks:
        order = _shuffled(blocks.count, generator)
        for name in blocks.permutations:
            size = sizes[name] // blocks.count
            inside = torch.stack([_shuffled(size, generator) for _ in order])
            orders[name] = (order[:, None] * size + inside).flatten()
    return orders


def _shuffled(size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(size, generator=generator, device="cpu")


def _places(axis: Axis, orders: Mapping[str, Tensor]) -> Tensor:
    """The place from which each element of an axis comes."""
    places, start = [], 0
    for segment in axis:
        elements = torch.arange(segment.size, device="cpu").view(segment.units, segment.repeat)
        moved = elements if segment.permutation is None else elements[orders[segment.permutation]]
        places.append(start + moved.flatten())
        start += segment.size
    return torch.cat(places)


class _Trace(TorchDispatchMode):
    """Records the constraints on the units of a module while it runs."""

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.units = Units()
        self.axes: dict[str, list[Tensor]] = {}
        self._labels = WeakTensorKeyDictionary()
        self._callers = [module]
        for name, parameter in parameters.items():
            axes = [self.units.new(size) if size > 1 else fixed(size) for size in parameter.shape]
            self.axes[name] = axes
            self._labels[parameter] = tuple(((axis,), units) for axis, units in enumerate(axes) if len(units) > 1)
        self._names = {each: name for name, each in module.named_modules()}
        for each in self._names:
            each.register_forward_pre_hook(lambda caller, _: self._callers.append(caller))
            each.register_forward_hook(self._leave)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler, which takes seconds

    def _leave(self, *_: object) -> None:
        self._callers.pop()

    def known(self, tensor: Tensor) -> Labels:
        """The units that a tensor holds."""
        labels: Labels = self._labels.get(tensor, ())
        return labels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _uses_values(func, args):
            self._refuse(func, "uses the values of its data")
        result = func(*args, **(kwargs or {}))
        outputs = tuple(output for output in tree_leaves(result) if isinstance(output, Tensor))
        names = [argument.name for argument in func._schema.arguments]
        arguments = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = func.overloadpacket.__name__.rstrip("_")
        call = Call(func, name, arguments, outputs, self.units, self.known)
        if any(self.known(tensor) for tensor in call.tensors):
            rule = pointwise if torch.Tag.pointwise in func.tags else RULES.get(name)
            if rule is None:
                self._refuse(func, "has no rule")
            for output, labels in zip(outputs, rule(call), strict=False):
                self._labels[output] = labels
        return result

    def _refuse(self, func: Any, why: str) -> NoReturn:
        caller = self._callers[-1]
        where = self._names[caller] or "the network itself"
        raise ValueError(
            f"the permutations of hidden units cannot be derived: the operation {func} in the module {where!r} "
            f"({type(caller).__name__}) {why}; {WAY_OUT}"
        )


def _uses_values(func: Any, args: Sequence[Any]) -> bool:
    """Whether the control flow or the shapes that follow depend on the values of tensors."""
    if torch.Tag.dynamic_output_shape in func.tags:
        masks = [index for index in tree_leaves(args) if isinstance(index, Tensor) and index.dtype == torch.bool]
        return func.overloadpacket.__name__ != "index" or bool(masks)
    return torch.Tag.data_dependent_output in func.tags
