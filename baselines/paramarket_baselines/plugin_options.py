"""Plug-ins and settings on the command line: the rules that read them from options, and the list of plug-ins."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from paramarket_env.plugins import REGISTRIES, Registry, usage


class UsageError(Exception):
    """A value on the command line is not allowed. It is no ``ValueError``, whose message tyro would replace."""


PLUGINS = tyro.constructors.ConstructorRegistry()
"""The rules by which the command line reads plug-ins."""


@PLUGINS.primitive_rule
def _plugin(given: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Read a plug-in from its textual form, for fields whose type is the interface of a kind of plug-in."""

    def read(words: list[str]) -> Any:
        assert registry is not None
        return _made(registry.parse, words[0])

    registry: Registry[Any] | None = REGISTRIES.get(given.type)
    if registry is None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=registry.kind.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, registry.interface),
        str_from_instance=lambda plugin: [registry.text(plugin)],
    )


_asked: set[Any] = set()
"""The dataclasses for which tyro's own rule is being asked."""


@PLUGINS.struct_rule
def _settings(given: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """Make a dataclass as tyro does, but let its errors end the command like those of plug-ins."""
    if not is_dataclass(given.type) or given.type in _asked:
        return None
    _asked.add(given.type)
    spec = PLUGINS.get_struct_spec(given)
    _asked.remove(given.type)
    assert isinstance(spec, tyro.constructors.StructConstructorSpec)
    return replace(spec, instantiate=partial(_made, spec.instantiate))


def _made(make: Callable[..., Any], *values: Any, **fields: Any) -> Any:
    try:
        return make(*values, **fields)
    except ValueError as error:
        raise UsageError(str(error)) from error


def list_names(console: Console) -> None:
    """Print every plug-in by kind, with its fields and the first line of its docstring."""
    for registry in REGISTRIES.values():
        rows = Table(title=registry.plural, title_justify="left", show_header=False, box=box.SIMPLE)
        rows.add_column(overflow="fold")
        rows.add_column(overflow="fold")
        for name, entry in registry.items():
            rows.add_row(usage(name, entry), _first_line(entry))
        console.print(rows)


def _first_line(entry: object) -> str:
    """The first line of a docstring without its markup."""
    line = (inspect.getdoc(entry) or "").split("\n")[0]
    return re.sub(r"`+|\*\b|\b\*", "", line)
