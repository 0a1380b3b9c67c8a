"""Validation: frozen, checked dataclasses, and errors that name the field, the value and what is allowed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, TypeVar

import pydantic
from pydantic.dataclasses import dataclass as validated_dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")

CONFIG = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
"""Values are not converted, except integers to floats. Unknown fields and infinite or NaN numbers are refused."""


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Unless ``ok``, raise a ``ValueError`` that names the field, the value and what is allowed."""
    if not ok:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry ``name`` of a table; raises ``ValueError``, listing the entries, for an unknown name."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(sorted(table))}")
    return table[name]


@dataclass_transform(frozen_default=True, field_specifiers=(field, pydantic.Field))
def configuration(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are checked against their annotations at construction.

    A value that is not allowed raises ``ValueError``. Annotations give the bounds of one field, such as
    ``Annotated[float, Field(ge=0, le=1)]``. ``__post_init__`` checks several fields together with :func:`require`.
    """
    made: Any = validated_dataclass(cls, frozen=True, config=CONFIG)
    checked, owner = made.__init__, cls.__name__.removesuffix("Config")

    @functools.wraps(checked)
    def __init__(self: Any, *values: Any, **fields: Any) -> None:  # noqa: N807  # replaces the class's own method
        try:
            checked(self, *values, **fields)
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
        name = _name([owner.lower(), *cause["loc"]])
        if cause["type"] in _WRONG_NAMES:
            found[f"{name} {_WRONG_NAMES[cause['type']]}"] = []
            continue
        allowed = cause["msg"].removeprefix("Input should be ")
        found.setdefault(f"{name}={cause['input']!r} is not allowed: it must be ", []).append(allowed)
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
