"""The examination of a module that is to be a market's network: its parameters, and what its operations return."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from paramarket_env.learning.networks.batch_norm import (
    COUNTER,
    STATISTICS,
    buffers_of_batch_norms,
    require_running_statistics,
)
from paramarket_env.learning.networks.derive import Derived, named_tensors
from paramarket_env.learning.networks.network import Axis, ParameterSpec, Segment
from paramarket_env.validation import require

Permutations = Mapping[str, tuple[str | None, ...]]
"""The permutation of hidden units that acts on each axis, or None, of each tensor by name, such as ``0.weight``.

The tensors are the parameters and the running statistics of batch normalisation.
"""


CPU = torch.device("cpu")


def elements_held(module: nn.Module, features: tuple[int, ...], classes: int, device: torch.device = CPU) -> list[int]:
    """The number of elements of one sample in the result of each operation of the module, which is on the ``device``.

    Raises ``ValueError`` if the module does not map samples of shape ``features`` to rows of ``classes`` logits.
    """
    samples = torch.zeros(2, *features, dtype=torch.float32, device=device)
    sizes = _Sizes()
    try:
        with torch.enable_grad(), sizes:  # in training: without gradients attention takes another path
            output = module(samples)
    except Exception as error:  # whatever the module raises, the user must know which samples it got
        raise ValueError(f"the network cannot be called with samples of shape {features}: {error}") from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    require(shape == (2, classes), "network's output for 2 samples", shape, f"of shape {(2, classes)}")
    return [math.ceil(size / 2) for size in sizes.found]


class _Sizes(TorchDispatchMode):
    """Records the number of elements of the result of every operation that makes a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports its compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.found += [tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        return result


def require_usable(module: nn.Module, features: tuple[int, ...]) -> None:
    """Raise ``ValueError`` if a market cannot use the module, which takes samples of shape ``features``."""
    require_running_statistics(module, features)
    known = buffers_of_batch_norms(module, (*STATISTICS, COUNTER))
    buffers = [name for name, _ in module.named_buffers() if name not in known]
    allowed = "empty: a network is defined by its parameters and the running statistics of batch normalisation"
    require(not buffers, "network's buffers", buffers, allowed)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    require(bool(names), "network's parameters", names, "one tensor or more")
    once = len(names) == len(list(module.parameters()))
    require(once, "network's parameters", names, "distinct tensors: layers cannot share a weight")


def given_permutations(module: nn.Module, permutations: Permutations) -> Derived:
    """The permutations that a user names."""
    tensors = named_tensors(module)
    unknown = sorted(set(permutations) - set(tensors))
    require(not unknown, "names in permutations", unknown, f"among {', '.join(tensors)}")
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, tensor in tensors.items():
        acting = permutations.get(name, (None,) * tensor.dim())
        one_each = len(acting) == tensor.dim()
        require(one_each, f"permutations of {name}", acting, f"{tensor.dim()} names or None, one for each axis")
        axes[name] = tuple((Segment(*axis),) for axis in zip(acting, tensor.shape, strict=True))
    runs = {axis[0] for each in axes.values() for axis in each if axis[0].permutation is not None}
    one_size = len({run.permutation for run in runs}) == len(runs)
    require(one_size, "permutations", dict(permutations), "such that all axes with one name have one size")
    return Derived(axes, ())


def parameter_specs(module: nn.Module, axes: Mapping[str, tuple[Axis, ...]]) -> tuple[ParameterSpec, ...]:
    """The named tensors of the module, which has its own initial values. The running statistics come first."""

    def spec(name: str, tensor: Tensor, bound: float, centre: float, *, statistic: bool = False) -> ParameterSpec:
        return ParameterSpec(
            name, tuple(tensor.shape), name.split(".", maxsplit=1)[0], axes[name], bound, centre, statistic
        )

    statistics = [
        spec(name, tensor, 0.0, float(name.endswith("running_var")), statistic=True)
        for name, tensor in buffers_of_batch_norms(module).items()
    ]
    return (*statistics, *(spec(name, each, *_initial(module, name, each)) for name, each in module.named_parameters()))


def _initial(module: nn.Module, name: str, values: Tensor) -> tuple[float, float]:
    """The bound and the centre of the initial values of a tensor; see :class:`ModuleNetwork`."""
    owner = module.get_submodule(name.rpartition(".")[0])
    deviation, centre = torch.std_mean(values.detach().double(), correction=0)
    drawn = deviation > 0 or values.numel() == 1
    if drawn and isinstance(owner, nn.Linear | _ConvNd):
        return 1 / math.sqrt(owner.weight[0].numel()), 0.0
    return _rounded(math.sqrt(3) * deviation.item()), _rounded(centre.item())


def _rounded(value: float) -> float:
    """Five significant digits, which are the same on all machines."""
    return float(f"{value:.5g}")


def children_of_stem(module: nn.Module, features: tuple[int, ...]) -> int:
    """The number of children that make the stem; 0 without a stem."""
    if type(module) is not nn.Sequential or buffers_of_batch_norms(module):
        return 0
    flat = isinstance(module[0], nn.Flatten)
    first = module[int(flat)] if len(module) > flat else None
    linear = type(first) is nn.Linear and first.in_features == math.prod(features)
    return flat + 1 if linear and (flat or len(features) == 1) else 0


def can_be_vmapped(module: nn.Module, features: tuple[int, ...]) -> bool:
    """Whether torch can batch every operation of the module over networks. If not, it warns or fails."""
    networks = {name: torch.stack([tensor.detach()] * 2) for name, tensor in named_tensors(module).items()}
    samples = torch.zeros(2, 1, *features, dtype=torch.float32, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            vmap(lambda tensors, inputs: functional_call(module, tensors, (inputs,)))(networks, samples)
        except (RuntimeError, UserWarning):
            return False
    return True
