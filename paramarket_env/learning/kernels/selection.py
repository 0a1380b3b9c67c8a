"""The choice of the back end that trains networks, evaluates them, tries their merges and assigns their units.

``PARAMARKET_KERNELS`` names it. ``auto`` (the default) is ``compiled`` on a CPU and ``triton`` on a GPU, or ``torch``
where these are missing. What a back end does not serve, such as networks other than MLPs, goes by ``torch``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from paramarket_env.learning.kernels import build
from paramarket_env.validation import require

VARIABLE = "PARAMARKET_KERNELS"
"""The environment variable that names the back end."""

TRITON = (3, 6)
"""The oldest version of Triton whose compiler serves the kernels."""

TRITON_INTERPRETER = (3, 7)
"""The oldest version of Triton in whose interpreter the kernels equal torch."""

BACKENDS = ("auto", "torch", "compiled", "triton")
MODULES = {"compiled": "compiled", "triton": "triton_kernels"}
"""The modules with the kernels. Their functions for MLPs have the same arguments."""


def backend(device: torch.device) -> str:
    """The back end for tensors on ``device``: ``torch``, ``compiled`` or ``triton``.

    ``compiled`` serves tensors on a CPU only. Raises ``ValueError`` for an unknown name, and for a back end that was
    asked for by name and is missing.
    """
    name = os.environ.get(VARIABLE, "auto")
    require(name in BACKENDS, VARIABLE, name, f"one of {', '.join(BACKENDS)}")
    if name == "auto":
        best = "triton" if device.type == "cuda" else "compiled"
        return "torch" if _missing(best) else best
    if _missing(name):
        raise ValueError(f"{VARIABLE}={name!r} is not available: {_missing(name)} is missing")
    return "torch" if name == "compiled" and device.type != "cpu" else name


def serving(parameters: Tensor, unserved: Mapping[str, bool] | None = None, *, fits: bool = True) -> str:
    """The back end for MLPs with these ``parameters``: :func:`backend`, or ``torch`` for what that does not serve.

    ``unserved`` says of each thing that only torch serves whether it is there. ``fits`` says whether the networks fit
    into registers, as ``triton`` needs it. The first cause to go by torch is logged once.
    """
    name = backend(parameters.device)
    plain = parameters.dtype == torch.float32 and parameters.is_contiguous()
    causes = {
        **(unserved or {}),
        "parameters that are not contiguous and float32": not plain,
        "networks or minibatches that are too large for registers": name == "triton" and not fits,
    }
    found = next((cause for cause, there in causes.items() if there), None)
    if name == "torch" or found is None:
        return name
    _log_torch(name, found)
    return "torch"


@cache
def _log_torch(name: str, reason: str) -> None:
    logging.getLogger(__name__).info("torch serves %s, which the back end %r does not", reason, name)


def kernels(name: str) -> Any:
    """The module with the kernels of ``compiled`` or ``triton``. Triton is imported only where it serves."""
    return import_module(f"paramarket_env.learning.kernels.{MODULES[name]}")


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Use the back end ``name`` inside the context, in all threads and in the processes that start there."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _missing(name: str) -> str | None:
    """Name what this machine lacks for the back end; None if it lacks nothing."""
    if name == "compiled":
        return None if build.library() else "a working C++ compiler (g++, clang++ or c++)"
    return _missing_package() if name == "triton" else None


@cache
def _missing_package() -> str | None:
    if not find_spec("triton"):
        return "the package triton"
    version: str = import_module("triton").__version__
    oldest = TRITON_INTERPRETER if os.environ.get("TRITON_INTERPRET") == "1" else TRITON
    served = tuple(map(int, version.split(".")[:2])) >= oldest
    return None if served else f"triton {oldest[0]}.{oldest[1]} or newer, which new versions of torch install,"
