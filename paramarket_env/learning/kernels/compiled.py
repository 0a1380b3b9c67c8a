"""The C++ kernels with tensors as arguments: MLPs and linear assignment on a CPU, in torch's number of threads.

Tensors are contiguous and on the CPU. ``widths`` are an MLP's numbers of inputs, of units of each hidden layer and of
classes. Indices and labels are not checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from paramarket_env.learning.kernels import build


class Optimizer(ctypes.Structure):
    """An optimizer's formula and settings."""

    SGD, MOMENTUM, ADAM = range(3)
    STATES: tuple[tuple[str, ...], ...] = ((), ("velocity",), ("mean", "square"))
    """The names of the tensors ``[R, P]`` that each formula keeps."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("rate", "momentum", "beta1", "beta2", "epsilon")),
    )


def shuffled(samples: Tensor, columns: int, keys: Tensor) -> Tensor:
    """The first ``columns`` of each row in random order; see :func:`paramarket_env.learning.training.shuffled`."""
    out = samples.new_empty(len(samples), columns)
    _call("shuffle", samples, samples.shape[1], len(samples), columns, keys, out)
    return out


def train(
    widths: Sequence[int],
    parameters: Tensor,
    inputs: Tensor,
    labels: Tensor,
    samples: Tensor,
    sizes: Tensor,
    batch_size: int,
    optimizer: Optimizer,
    state: Mapping[str, Tensor],
) -> None:
    """Train the networks ``[R, P]`` in place for one pass; see :func:`paramarket_env.learning.training.train`.

    ``inputs`` are float32 ``[n, *features]``, and ``labels`` int64 ``[n]``. The rows need no order.
    """
    one, two, *_ = [*(state[name] for name in Optimizer.STATES[optimizer.kind]), None, None]
    _call(
        "train",
        *_shape(widths),
        len(parameters),
        parameters,
        inputs,
        labels,
        samples,
        samples.shape[1],
        sizes,
        batch_size,
        ctypes.byref(optimizer),
        one,
        two,
        state.get("steps"),
    )


def stems(widths: Sequence[int], parameters: Tensor, inputs: Tensor, samples: Tensor) -> Tensor:
    """The stems ``[R, G, units, n]`` of groups of networks ``[R, G, P]``, each on its samples, int64 ``[R, n]``."""
    groups, networks, _ = parameters.shape
    out = parameters.new_empty(groups, networks, widths[1], samples.shape[1])
    _call("stems", *_shape(widths), groups, networks, parameters, inputs, samples, samples.shape[1], out)
    return out


def losses(widths: Sequence[int], parameters: Tensor, stem: Tensor, labels: Tensor) -> Tensor:
    """The mean losses ``[R, G]`` of networks; see :func:`paramarket_env.learning.evaluation.losses`."""
    groups, networks, _ = parameters.shape
    out = parameters.new_empty(groups, networks, dtype=torch.float64)
    _call("losses", *_shape(widths), groups, networks, parameters, stem, labels, labels.shape[1], out)
    return out


def try_merges(
    widths: Sequence[int],
    parameters: Tensor,
    stem: Tensor,
    labels: Tensor,
    pairs: Sequence[Tensor],
    weights: Tensor,
) -> Tensor:
    """The mean losses ``[Q, W]`` of merges; see :func:`paramarket_env.learning.trials.try_merges`.

    ``pairs`` are the group, buyer and seller, int64 ``[Q]`` each, and the permutations, int64 ``[Q, H]``.
    """
    out = parameters.new_empty(len(pairs[0]), len(weights), dtype=torch.float64)
    shape = (parameters.shape[1], parameters, stem, labels, labels.shape[1])
    _call("try_merges", *_shape(widths), *shape, len(out), *pairs, len(weights), weights, out)
    return out


def assign(products: Tensor) -> Tensor:
    """The permutation with the largest sum in each matrix, int64 ``[Q, n]``, of ``products`` float64 ``[Q, n, n]``.

    Raises ``ValueError`` if a product is not finite.
    """
    out = products.new_empty(products.shape[:2], dtype=torch.int64)
    if not _call("assign", products, *products.shape[:2], out):
        raise ValueError("products of units are not finite")
    return out


def match(
    widths: Sequence[int], buyers: Tensor, sellers: Tensor, start: Tensor, visits: Tensor, tolerance: float
) -> Tensor:
    """The permutations, int64 ``[Q, H]``, of buyers and sellers ``[Q, P]``; see :func:`.weight_matching.ascend`.

    Each sweep visits the permutations in the order of its row in ``visits``, int64 ``[sweeps, permutations]``. Raises
    ``ValueError`` if a product of units is not finite.
    """
    out = torch.empty_like(start)
    networks = (len(buyers), buyers, sellers, start)
    if not _call("match", *_shape(widths), *networks, visits, len(visits), ctypes.c_double(tolerance), out):
        raise ValueError("products of units are not finite")
    return out


def _shape(widths: Sequence[int]) -> tuple[Any, int]:
    return (ctypes.c_int64 * len(widths))(*widths), len(widths) - 1


def _call(name: str, *arguments: Any) -> int:
    """Call a kernel with tensors, integers and C objects, followed by the number of threads."""
    library = build.library()
    assert library is not None, "the selection of a back end has made sure of it"
    result: int = getattr(library, name)(*map(_converted, arguments), ctypes.c_int64(torch.get_num_threads()))
    return result


def _converted(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        # The kernels read the memory as it lies, so another layout or type would be read as something else.
        fits = argument.is_contiguous() and argument.dtype in (torch.float32, torch.float64, torch.int64)
        assert fits, f"a kernel takes no {argument.dtype} with strides {argument.stride()}"
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else argument
