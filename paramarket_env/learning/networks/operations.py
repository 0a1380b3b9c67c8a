"""One rule for each operation of torch: which units of its operands move together, and where its results hold them.

The rules see the operations of ATen, into which torch breaks up what a module calls. Attention, for example, arrives as
matrix products, softmax and changes of shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paramarket_env.learning.networks.labels import Labels, Name, Operand, combine, move, normalise
from paramarket_env.learning.networks.units import FIXED, Units, fixed


@dataclass(frozen=True)
class Call:
    """One call of an operation, and what is known of the tensors so far."""

    operation: Callable[..., Any]
    name: str
    """ATen's name of the operation, without the overload and the underscore of operations in place."""
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    units: Units
    known: Callable[[Tensor], Labels]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        values: list[Any] = []
        for value in self.arguments.values():
            values += value if isinstance(value, list | tuple) else [value]
        return [value for value in values if isinstance(value, Tensor)]

    def operand(self, tensor: Tensor, names: Iterable[Name] | None = None) -> Operand:
        """A tensor with names for its axes, which are their indices by default."""
        names = range(tensor.dim()) if names is None else names
        shape = tuple(size if stride else 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return Operand(shape, self.known(tensor), tuple(names))

    def combine(self, operands: Sequence[Operand], kept: Sequence[Name], fixed: str = "") -> Labels:
        """See :func:`combine`."""
        return combine(self.units, operands, kept, fixed)

    def move(self, tensor: Tensor, change: Callable[[Tensor], Any]) -> list[Labels]:
        """See :func:`move`."""
        return move(self.units, self.known(tensor), tensor.shape, change)


Rule = Callable[[Call], list[Labels]]
"""Records the constraints of a call and returns the labels of its outputs. Outputs beyond the list hold no units."""

RULES: dict[str, Rule] = {}
"""The rule of each operation by the name of the call."""


def rule(operations: str) -> Callable[[Rule], Rule]:
    """Register the rule of these operations, which are separated by spaces."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations.split(), function))
        return function

    return register


# Torch marks most of the operations that act element by element. It does not mark these.
@rule("_prelu_kernel _to_copy alias copy detach hardswish leaky_relu log_sigmoid_forward")
def pointwise(call: Call) -> list[Labels]:
    """Element by element, with broadcasting. Axes are named by their distance from the last one."""
    operands = [call.operand(tensor, range(-tensor.dim(), 0)) for tensor in call.tensors]
    return [call.combine(operands, range(-call.outputs[0].dim(), 0))]


def einsum(equation: str) -> Rule:
    """The rule of a sum of products. An operand with fewer axes than names has the last ones."""
    left, kept = equation.split("->")

    def apply(call: Call) -> list[Labels]:
        named = zip(call.tensors, left.split(","), strict=True)
        return [
            call.combine([call.operand(tensor, names[len(names) - tensor.dim() :]) for tensor, names in named], kept)
        ]

    return apply


EINSUMS = {
    "mm": "bi,ij->bj",
    "addmm": "bj,bi,ij->bj",
    "bmm": "nbi,nij->nbj",
    "baddbmm": "nbj,nbi,nij->nbj",
    "mv": "ij,j->i",
}
RULES.update((name, einsum(equation)) for name, equation in EINSUMS.items())


@rule("view _unsafe_view squeeze unsqueeze")
def _reshape(call: Call) -> list[Labels]:
    shape = call.outputs[0].shape
    return call.move(call.tensors[0], lambda held: held.reshape(shape))


@rule(
    "permute transpose t expand slice select split split_with_sizes unbind flip roll repeat unfold "
    "diagonal pixel_shuffle pixel_unshuffle channel_shuffle"
)
def _move(call: Call) -> list[Labels]:
    others = {name: value for name, value in call.arguments.items() if name != "self"}
    return call.move(call.arguments["self"], lambda held: call.operation(held, **others))


@rule("constant_pad_nd")
def _pad(call: Call) -> list[Labels]:
    """The padding along an axis of units is fixed. Along other axes, it is the same for all units."""
    pad = call.arguments["pad"]

    def change(held: Tensor) -> Tensor:
        strides = [stride for stride in reversed(held.stride()) for _ in range(2)]
        amounts = [amount if stride else 0 for amount, stride in zip(pad, strides, strict=False)]
        padded: Tensor = call.operation(held, amounts, FIXED)
        return padded

    return call.move(call.tensors[0], change)


@rule("as_strided")
def _as_strided(call: Call) -> list[Labels]:
    """Torch itself calls it on the results of poolings, and leaves the shape as it is."""
    tensor, size = call.tensors[0], call.arguments["size"]
    same = all(held.shape == tuple(size[axis] for axis in axes) for axes, held in call.known(tensor))
    return [call.known(tensor)] if same else _fixed(call)


@rule("stack")
def _stack(call: Call) -> list[Labels]:
    axes = range(call.outputs[0].dim())
    along = axes[call.arguments.get("dim", 0)]
    return [call.combine([call.operand(each, [axis for axis in axes if axis != along]) for each in call.tensors], axes)]


@rule("cat")
def _cat(call: Call) -> list[Labels]:
    """The units along the joined axis follow each other. Those along the other axes are matched."""
    axes = range(call.outputs[0].dim())
    along = axes[call.arguments.get("dim", 0)]
    operands = [call.operand(each) for each in call.tensors if each.dim() == len(axes)]  # torch skips empty vectors
    joined = torch.cat([_along(operand, along) for operand in operands])
    across = call.combine([_across(call.units, operand, along) for operand in operands], axes)
    return [(*across, ((along,), joined)) if bool(joined.any()) else across]


def _along(operand: Operand, axis: int) -> Tensor:
    """The units along one axis."""
    return dict(operand.labels).get((axis,), fixed(operand.shape[axis]))


def _across(units: Units, operand: Operand, axis: int) -> Operand:
    """The operand without one axis. Units of other axes that depend on the index there are fixed."""
    for axes, held in operand.labels:
        if axis in axes and len(axes) > 1:
            units.fix(held)
    shape = (*operand.shape[:axis], 1, *operand.shape[axis + 1 :])
    return Operand(shape, tuple(piece for piece in operand.labels if axis not in piece[0]), operand.names)


@rule("mean sum amax amin max min var std prod logsumexp linalg_vector_norm var_mean")
def _reduce(call: Call) -> list[Labels]:
    """Statistics over some axes, or over all."""
    tensor, output = call.tensors[0], call.outputs[0]
    over = _axes(call.arguments.get("dim"), tensor.dim())
    kept: list[Name] = ["reduced" if axis in over else axis for axis in range(tensor.dim())]
    if output.dim() < tensor.dim():
        kept = [axis for axis in kept if axis != "reduced"]
    return [call.combine([call.operand(tensor)], kept)] * len(call.outputs)


def _axes(dim: int | Sequence[int] | None, total: int) -> list[int]:
    """The axes that the argument ``dim`` names. None and an empty list name all."""
    chosen = [dim] if isinstance(dim, int) else list(dim or range(total))
    return [axis % total for axis in chosen]


@rule("_softmax _log_softmax _safe_softmax")
def _softmax(call: Call) -> list[Labels]:
    operand = call.operand(call.tensors[0])
    return [normalise(call.units, operand, _axes(call.arguments["dim"], len(operand.shape)))]


@rule("native_layer_norm")
def _layer_norm(call: Call) -> list[Labels]:
    tensor, *affine = call.tensors
    over = range(-len(call.arguments["normalized_shape"]), 0)
    operand = call.operand(tensor, range(-tensor.dim(), 0))
    return [normalise(call.units, operand, over, *(call.operand(each, over) for each in affine))]


@rule("native_batch_norm")
def _batch_norm(call: Call) -> list[Labels]:
    """Running statistics move with the channels that they describe."""
    operand = call.operand(call.arguments["input"])
    affine = [call.arguments[name] for name in ("weight", "bias", "running_mean", "running_var")]
    over = [axis for axis in operand.names if axis != 1]
    return [normalise(call.units, operand, over, *(call.operand(each, [1]) for each in affine if each is not None))]


@rule("native_group_norm")
def _group_norm(call: Call) -> list[Labels]:
    tensor, *affine = call.tensors
    groups = call.arguments["group"]
    operand = _grouped(call, tensor, 1, groups, range(tensor.dim() + 1))
    scales = [_grouped(call, each, 0, groups, (1, 2)) for each in affine]
    labels = normalise(call.units, operand, operand.names[2:], *scales)
    return move(call.units, labels, operand.shape, lambda held: held.flatten(1, 2))


def _grouped(call: Call, tensor: Tensor, axis: int, groups: int, names: Iterable[Name]) -> Operand:
    """The operand with one axis split into two: the groups and what is in each group."""
    shape = (*tensor.shape[:axis], groups, tensor.shape[axis] // groups, *tensor.shape[axis + 1 :])
    labels = call.move(tensor, lambda held: held.reshape(shape))
    return Operand(shape, labels[0] if labels else (), tuple(names))


@rule("convolution")
def _convolution(call: Call) -> list[Labels]:
    """The axes of space do not move."""
    if call.arguments["groups"] > 1:
        return _grouped_convolution(call)
    tensor, weight, *bias = call.tensors
    space, window = "xyz"[: tensor.dim() - 2], "uvw"[: tensor.dim() - 2]
    channels = "co" if call.arguments["transposed"] else "oc"
    operands = [call.operand(tensor, "bc" + space), call.operand(weight, channels + window)]
    return [call.combine(operands + [call.operand(each, "o") for each in bias], "bo", fixed=space + window)]


def _grouped_convolution(call: Call) -> list[Labels]:
    """Groups move as wholes. Inputs keep their order in a group, because all groups share this axis of the weight."""
    tensor, weight, *bias = call.tensors
    groups = call.arguments["groups"]
    if call.arguments["transposed"]:
        return _fixed(call)
    space, window = "xyz"[: tensor.dim() - 2], "uvw"[: tensor.dim() - 2]
    inputs = _grouped(call, tensor, 1, groups, "bgc" + space)
    order = call.units.new(groups)
    call.combine([inputs, _repeated(order, inputs.shape[2])], "b", fixed=space)
    filters = [
        _grouped(call, weight, 0, groups, "goc" + window),
        *(_grouped(call, each, 0, groups, "go") for each in bias),
    ]
    labels = call.combine([_repeated(order, 1), *filters], ["batch", "g", "o"], fixed="c" + window)
    shape = (1, *filters[0].shape[:2])
    return move(call.units, labels, shape, lambda held: held.flatten(1))


def _repeated(order: Tensor, times: int) -> Operand:
    """Units of groups, each repeated for what is in its group."""
    labels: Labels = (((0, 1), order[:, None].expand(-1, times)),) if times > 1 else (((0,), order),)
    return Operand((len(order), times), labels, ("g", "c"))


@rule(
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
    "upsample_trilinear3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d"
)
def _windows(call: Call) -> list[Labels]:
    """The last axes, whose number is in the name of the operation, do not move."""
    tensor = call.tensors[0]
    space = "xyz"[: int(re.findall(r"(\d)d", call.name)[0])]
    names = "bc"[-(tensor.dim() - len(space)) :] + space
    return [call.combine([call.operand(tensor, names)], names, fixed=space)] * len(call.outputs)


@rule("embedding")
def _embedding(call: Call) -> list[Labels]:
    """The rows, which the data choose by number, do not move."""
    kept = [*range(call.outputs[0].dim() - 1), "e"]
    return [call.combine([call.operand(call.arguments["weight"], "re")], kept, fixed="r")]


@rule("index")
def _index(call: Call) -> list[Labels]:
    """The axis along which elements are chosen by number does not move."""
    tensor, indices = call.arguments["self"], call.arguments["indices"]
    chosen = [axis for axis, index in enumerate(indices) if index is not None]
    if len(chosen) > 1 or call.known(indices[chosen[0]]):
        return _fixed(call)
    names: list[Name] = list(range(tensor.dim()))
    names[chosen[0]] = "r"
    kept = [each for name in names for each in (["chosen"] * indices[chosen[0]].dim() if name == "r" else [name])]
    return [call.combine([call.operand(tensor, names)], kept, fixed="r")]


@rule("glu")
def _glu(call: Call) -> list[Labels]:
    operand = call.operand(call.tensors[0])
    halves = call.move(call.tensors[0], lambda held: held.chunk(2, call.arguments.get("dim", -1)))
    shape = tuple(call.outputs[0].shape)
    return [call.combine([Operand(shape, half, operand.names) for half in halves], operand.names)]


@rule(
    "argmax argmin col2im cumsum gather grid_sampler_2d im2col index_add index_put index_select scatter scatter_add "
    "sort topk tril triu"
)
def _fixed(call: Call) -> list[Labels]:
    """Operations that depend on places: no unit of an operand moves."""
    for tensor in call.tensors:
        for _, held in call.known(tensor):
            call.units.fix(held)
    return []


@rule("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty fill zero")
def _constant(_: Call) -> list[Labels]:
    """Operations that use no more than the shape of their operand."""
    return []
