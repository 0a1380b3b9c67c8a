"""Checks at the door: frozen, validated dataclasses, and errors that name the field, the value and what is allowed."""

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
"""No value is converted silently (an integer may stand for a float), no field is unknown, no number is infinite."""


def require(ok: bool, name: str, value: Any, allowed: str) -> None:
    """Raise a ``ValueError`` that names the field, the value and what is allowed, unless ``ok``."""
    if not ok:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry ``name`` of a table, or a ``ValueError`` that lists those that exist."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}: choose from {', '.join(sorted(table))}")
    return table[name]


@dataclass_transform(frozen_default=True, field_specifiers=(field, pydantic.Field))
def configuration(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked by their annotations at construction.

    What is not allowed raises ``ValueError``. Bounds stand in the annotations: ``Annotated[float, Field(ge=0, le=1)]``.
    Checks of several fields stand in ``__post_init__``, by :func:`require`.
    """
    made: Any = validated_dataclass(cls, frozen=True, config=CONFIG)
    checked, owner = made.__init__, cls.__name__.removesuffix("Config")

    @functools.wraps(checked)
    def __init__(self: Any, *values: Any, **fields: Any) -> None:  # noqa: N807  # replaces the class's own
        try:
            checked(self, *values, **fields)
        except pydantic.ValidationError as error:
            raise ValueError(explain(error, owner)) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]  # pydantic's decorator keeps the class


def explain(error: pydantic.ValidationError, owner: str) -> str:
    """What a validation of the configuration ``owner`` has found, as ``require`` says it, in one line."""
    found: dict[str, list[str]] = {}
    for cause in error.errors(include_url=False):
        said = cause.get("ctx", {}).get("error")
        if isinstance(said, ValueError):  # of a check in __post_init__, which has named the field
            found.setdefault(str(said), [])
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
"""What pydantic finds wrong with the names of the fields."""


def _name(path: Sequence[str | int]) -> str:
    """A field by its path; the market's sections are the outermost, and members of a union have no names here."""
    names = [part for part in path if isinstance(part, str) and part.isidentifier() and part != "market"]
    return ".".join(names[:2])
