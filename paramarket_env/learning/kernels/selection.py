"""The choice of the back end that trains networks, evaluates them, tries their merges and assigns their units.

``PARAMARKET_KERNELS`` names it. ``auto`` (the default) is ``compiled`` on a CPU and ``triton`` on a GPU, or ``torch``
where these are missing. A back end hands over to ``torch`` what it does not serve, such as networks other than MLPs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch

from paramarket_env.learning.kernels import build
from paramarket_env.validation import require

VARIABLE = "PARAMARKET_KERNELS"
"""The environment variable that names the back end."""

BACKENDS = ("auto", "torch", "compiled", "triton")


def backend(device: torch.device) -> str:
    """The back end for tensors on ``device``: ``torch``, ``compiled`` or ``triton``.

    Raises ``ValueError`` for an unknown name, and for a back end that was asked for by name and is missing.
    """
    name = os.environ.get(VARIABLE, "auto")
    require(name in BACKENDS, VARIABLE, name, f"one of {', '.join(BACKENDS)}")
    if name == "auto":
        best = "triton" if device.type == "cuda" else "compiled"
        return "torch" if _missing(best) else best
    if _missing(name):
        raise ValueError(f"{VARIABLE}={name!r} is not available: {_missing(name)} is missing")
    return name


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
    """What this machine lacks for the back end; None if it lacks nothing."""
    if name == "compiled":
        return None if build.library() else "a working C++ compiler (g++, clang++ or c++)"
    return _missing_package() if name == "triton" else None


@cache
def _missing_package() -> str | None:
    return None if find_spec("triton") else "the package triton"
