"""Policies and pricing rules in files of their own, named ``file:PATH.py`` wherever a rule's name can be."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paramarket_env.interface.policy import Seat

FILE = "file:"


def from_file(path: str, function: str) -> Callable[[Seat], Any]:
    """The function of that name, ``policy`` or ``pricing``, that a Python file defines.

    The file is executed, so only name files that you trust. Raises ``ValueError`` if there is no such file, or no such
    function in it; what the file itself raises is passed on.
    """
    if not Path(path).is_file():
        raise ValueError(f"{function}='{FILE}{path}' is not there: no file {path!r}")
    found: Any = runpy.run_path(path).get(function)
    if not callable(found):
        raise ValueError(f"{function}='{FILE}{path}' cannot play: the file defines no function {function}(seat)")
    factory: Callable[[Seat], Any] = found
    return factory
