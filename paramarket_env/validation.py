"""Validation: frozen, checked dataclasses, and errors that name the field, the value and what is allowed."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, TypeVar

import numpy as np
import pydantic
from pydantic.dataclasses import dataclass as validated_dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")

CONFIG = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""Values are not converted, except numbers to floats. Unknown fields and infinite or NaN numbers are refused."""

INT64_MAX = 2**63 - 1

Count = Annotated[int, pydantic.Field(ge=1, le=INT64_MAX)]
"""An integer >= 1 that fits into an int64."""

LONGEST = 200
"""The number of characters to which the value in an error is shortened."""


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Unless ``ok``, raise a ``ValueError`` that names the field, the value and what is allowed."""
    if not ok:
        raise ValueError(f"{name}={shown(value)} is not allowed: it must be {allowed}")


def shown(value: object) -> str:
    """The ``repr`` of a value in one line of at most ``LONGEST`` characters, without the addresses of objects."""
    try:
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value).replace("\n", " "))
    except ValueError:  # an integer that is too long to print
        text = f"<a very large {type(value).__name__}>"
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def integer(name: str, value: Any, low: int, high: int = INT64_MAX) -> int:
    """The integer ``value``, of Python or NumPy, within [low, high]; raises ``ValueError`` for anything else."""
    number = plain(value)
    fits = isinstance(number, int) and not isinstance(number, bool) and low <= number <= high
    require(fits, name, value, f"an integer >= {low}" if high == INT64_MAX else f"an integer from {low} to {high}")
    return int(number)


def plain(value: Any) -> Any:
    """The value with NumPy's numbers, also those in tuples, as Python's: an ``np.int64`` becomes an ``int``."""
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    if isinstance(value, np.floating):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry ``name`` of a table; raises ``ValueError``, listing the entries, for an unknown name."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(sorted(table))}")
    return table[name]


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, type | np.generic)


@dataclass_transform(frozen_default=True, field_specifiers=(field, pydantic.Field))
def configuration(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are checked against their annotations at construction.

    A value that is not allowed raises ``ValueError``. NumPy's numbers become Python's. Annotations give the bounds of
    one field, such as ``Annotated[float, Field(ge=0, le=1)]``. ``__post_init__`` checks several fields together with
    :func:`require`.
    """
    made: Any = validated_dataclass(cls, frozen=True, config=CONFIG)
    checked, owner = made.__init__, cls.__name__.removesuffix("Config")
    names = list(inspect.signature(made).parameters)

    @functools.wraps(checked)
    def __init__(self: Any, *values: Any, **fields: Any) -> None:  # noqa: N807  # replaces the class's own method
        require(len(values) <= len(names), owner.lower(), values, f"at most {len(names)} values: {', '.join(names)}")
        given = dict(zip(names, values, strict=False))
        twice = sorted(given.keys() & fields.keys())
        require(not twice, owner.lower(), twice, "given once")
        for name, value in (given | fields).items():
            array = any(_is_array(each) for each in (value if isinstance(value, tuple) else (value,)))
            require(not array, f"{owner.lower()}.{name}", value, "without arrays and tensors")
        try:
            checked(self, **{name: plain(value) for name, value in (given | fields).items()})
        except pydantic.ValidationError as error:
            raise ValueError(explain(error, owner)) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]  # pydantic's decorator returns the same class


def explain(error: pydantic.ValidationError, owner: str) -> str:
    """The errors of a validation of the configuration ``owner`` in one line, worded as by :func:`require`."""
    found: dict[str, list[str]] = {}
    for cause in error.errors(include_url=False):
        raised = cause.get("ctx", {}).get("error")
        if isinstance(raised, ValueError):  # raised by a check in __post_init__, and already names the field
            found.setdefault(str(raised), [])
            continue
        name = _name([owner.lower(), *cause["loc"]]) or owner.lower()
        if cause["type"] in _WRONG_NAMES:
            *path, last = cause["loc"]
            name = ".".join(filter(None, (_name([owner.lower(), *path]), str(last))))  # the last may be no identifier
            found[f"{name} {_WRONG_NAMES[cause['type']]}"] = []
            continue
        allowed = cause["msg"].removeprefix("Input should be ").replace("Invalid JSON", "JSON")
        found.setdefault(f"{name}={shown(cause['input'])} is not allowed: it must be ", []).append(allowed)
    return "; ".join(subject + ", or ".join(causes) for subject, causes in found.items())


_WRONG_NAMES = {
    "missing": "must be given",
    "missing_argument": "must be given",
    "extra_forbidden": "is not a field",
    "unexpected_keyword_argument": "is not a field",
}
"""The wording of pydantic's errors about the names of fields."""


def _name(path: Sequence[str | int]) -> str:
    """The name of a field, such as ``economy.kappa``. The outermost ``market`` and members of unions are left out."""
    names = [part for part in path if isinstance(part, str) and part.isidentifier() and part != "market"]
    return ".".join(names[:2])
