"""Tensors on the CPU that claim to be on a GPU and obey its rules, so that code for GPUs can be tried without one.

Under :func:`claimed_cuda`, whatever is moved to ``cuda`` stays on the CPU but claims ``cuda:0``. An operation that
mixes it with tensors of the CPU raises the error of a GPU. Kernels, synchronisations and copies are counted. It needs a
C++ compiler.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils import cpp_extension
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from paramarket_env.learning.alignment import assignment
from paramarket_env.learning.alignment.assignment import assign_units
from paramarket_env.learning.kernels.build import compiler

MEMORY = 80 * 2**30
"""Bytes of the claimed GPU."""

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

COPIES = {"aten::_to_copy", "aten::copy_"}
"""The operations that may read one device and write another."""

INDEXING = ("aten::index.Tensor", "aten::index_put", "aten::_index_put")
"""The beginnings of the names of operations that take a list of indices as their second argument."""

WAITS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::_unique2",
}
"""The operations whose result, or its shape, the host must read: it waits for the device."""

NO_KERNELS = {
    "aten::_unsafe_view",
    "aten::detach",
    "aten::empty.memory_format",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::lift_fresh",
    "aten::new_empty",
    "aten::new_empty_strided",
}
"""The operations that compute nothing, besides views."""


class Claimed(Tensor):
    """A tensor on the CPU that claims to be on ``cuda:0``."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[Claimed], held: Tensor) -> Claimed:
        """Wrap a tensor."""
        claimed: Claimed = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
        )
        claimed.held = held
        return claimed

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Refuse to compute outside of :func:`claimed_cuda`."""
        raise RuntimeError(f"{func} on a tensor that claims to be on a GPU, outside of claimed_cuda()")


class Device(TorchDispatchMode):
    """Computes with claimed tensors by the rules of a GPU, and counts what a GPU would do."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        """Count from 0."""
        self.kernels: Counter[str] = Counter()
        """The number of kernels by the place in the code that launches them."""
        self.waits: Counter[str] = Counter()
        """The number of synchronisations by place: the host waits for the device."""
        self.copies: Counter[str] = Counter()
        """The number of copies from the host by place."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU. Raises ``RuntimeError`` if the operation mixes devices."""
        named = dict(kwargs or {})
        name = func._schema.name + (f".{func._schema.overload_name}" if func._schema.overload_name else "")
        given, structure = tree_flatten((args, named))
        claims = [isinstance(value, Claimed) for value in given]
        target = torch.device(named["device"]).type if named.get("device") is not None else None
        if any(claims) and name not in COPIES:
            self._require_one_device(name, args, given)
        held = [value.held if isinstance(value, Claimed) else value for value in given]
        plain_args, plain_named = tree_unflatten(held, structure)
        if target == "cuda":
            plain_named["device"] = CPU
        on_device = any(claims) if target is None else target == "cuda"
        if name == "aten::copy_":
            on_device = claims[0]
        result = func(*plain_args, **plain_named)
        if name == "aten::_to_copy" and result is held[0]:
            result = result.clone()
        self._count(func, name, given, on_device)
        if _writes(func):
            return args[0]
        return tree_map(_claim, result) if on_device else result

    def _require_one_device(self, name: str, args: Any, given: list[Any]) -> None:
        # A GPU copies lists of indices from the host. A tensor of the CPU takes no indices of a GPU.
        indices = args[1] if name.startswith(INDEXING) and isinstance(args[0], Claimed) else ()
        for value in given:
            # A single number of the host becomes a part of the kernel's call.
            if not isinstance(value, Tensor) or isinstance(value, Claimed) or value.dim() == 0:
                continue
            if not any(value is index for index in indices):
                raise RuntimeError(
                    f"expected all tensors on one device, but found cpu and cuda:0: {name} at {_place()}"
                )
            self.copies[_place()] += 1

    def _count(self, func: Any, name: str, given: list[Any], on_device: bool) -> None:
        from_device = isinstance(given[1 if name == "aten::copy_" else 0], Claimed) if given else False
        masked = name.startswith(INDEXING) and any(
            isinstance(value, Claimed) and value.dtype == torch.bool for value in given[1:]
        )
        if name in COPIES and from_device != on_device:
            (self.waits if from_device else self.copies)[_place()] += 1
        elif any(isinstance(value, Claimed) for value in given) and (name in WAITS or masked):
            self.waits[_place()] += 1
        elif on_device and name not in NO_KERNELS and not _is_view(func):
            self.kernels[_place()] += 1


def _claim(value: Any) -> Any:
    return Claimed(value) if isinstance(value, Tensor) and not isinstance(value, Claimed) else value


@cache
def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


@cache
def _writes(func: Any) -> bool:
    """Whether the operation writes its first argument and returns it."""
    returns = func._schema.returns
    return len(returns) == 1 and returns[0].alias_info is not None and returns[0].alias_info.is_write


def _place() -> str:
    """The innermost line of the package that runs now: file and number."""
    frame = sys._getframe(1)
    while frame is not None:
        if "/paramarket_env/" in frame.f_code.co_filename:
            return f"{frame.f_code.co_filename.rsplit('/paramarket_env/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]  # the outermost frame has none
    return "outside of the package"


# --- torch, as it is where there is a GPU -----------------------------------------------------------------------------


@cache
def _guard() -> ctypes.CDLL:
    """The guard of the claimed device. Raises ``RuntimeError`` without a C++ compiler."""
    source = Path(__file__).with_name("claimed_cuda_guard.cpp")
    includes = [f"-I{path}" for path in cpp_extension.include_paths()]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "guard.so")
        options = ["-shared", "-fPIC", "-std=c++20", *includes, str(source), *libraries, "-lc10", "-o", library]
        try:
            subprocess.run([compiler(), *options], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"tensors that claim to be on a GPU need a C++ compiler: {error}") from error
        return ctypes.CDLL(library)


def compiler_is_missing() -> bool:
    """Whether there is no C++ compiler, without which nothing can claim to be on a GPU."""
    try:
        return not compiler()
    except FileNotFoundError:
        return True


def _on_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _patches() -> Iterator[Any]:
    """Patches of the functions of torch that ask CUDA's driver."""
    to, tensor, tolist = Tensor.to, torch.tensor, Tensor.tolist

    def indexed(value: Any) -> Any:
        """``cuda`` is ``cuda:0``."""
        return CUDA if isinstance(value, (str, torch.device)) and _on_cuda(value) else value

    def new_to(self: Tensor, *args: Any, **named: Any) -> Tensor:
        return to(self, *map(indexed, args), **{name: indexed(value) for name, value in named.items()})

    def new_tensor(data: Any, *args: Any, device: Any = None, **named: Any) -> Tensor:
        made: Tensor = tensor(data, *args, **{"device": "cpu" if _on_cuda(device) else device, **named})
        return new_to(made, CUDA) if _on_cuda(device) else made

    def new_as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return new_to(data, dtype=dtype or data.dtype, device=device or data.device)
        return new_tensor(data, dtype=dtype, device=device)

    def new_tolist(self: Tensor) -> Any:
        return tolist(new_to(self, CPU))

    for owner, name, new in (
        (Tensor, "to", new_to),
        (Tensor, "cuda", lambda self: new_to(self, CUDA)),
        (Tensor, "tolist", new_tolist),
        (torch, "tensor", new_tensor),
        (torch, "as_tensor", new_as_tensor),
    ):
        yield patch.object(owner, name, new)
    properties = SimpleNamespace(total_memory=MEMORY, name="claimed", multi_processor_count=1)
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda *_: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: "claimed",
        "mem_get_info": lambda *_: (MEMORY, MEMORY),
        "synchronize": lambda *_: None,
    }
    for name, answer in answers.items():
        yield patch.object(torch.cuda, name, answer)
    # A GPU solves assignments by a kernel, which cannot run on claimed tensors.
    by_device = assignment.backend  # type: ignore[attr-defined]  # imported there
    yield patch.object(assignment, "backend", lambda device: "triton" if _on_cuda(device) else by_device(device))
    yield patch.object(assignment, "kernels", lambda _: SimpleNamespace(assign=_solved))


def _solved(products: Tensor, wanted: Tensor) -> Tensor:
    """Solve assignments as the kernel of a GPU does, without a wait of the host."""
    with torch.utils._python_dispatch._disable_current_modes():
        return Claimed(assign_units(products.held, wanted.held))  # type: ignore[attr-defined]


@contextmanager
def claimed_cuda() -> Iterator[Device]:
    """Torch seems to have a GPU. Raises ``RuntimeError`` where there is no C++ compiler, or a real GPU."""
    if torch.cuda.is_available():
        raise RuntimeError("there is a GPU: nothing must claim to be one")
    _guard()
    with ExitStack() as stack:
        for each in _patches():
            stack.enter_context(each)
        yield stack.enter_context(Device())
