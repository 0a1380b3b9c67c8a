"""Plug-ins on the command line: the rule that reads them from options, and their list."""

from __future__ import annotations

import inspect
import re
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from paramarket_env.plugins import REGISTRIES, Registry, usage


class UsageError(Exception):
    """A plug-in on the command line cannot be made. It is no ``ValueError``, whose message tyro would replace."""


PLUGINS = tyro.constructors.ConstructorRegistry()
"""The rules by which the command line reads plug-ins."""


@PLUGINS.primitive_rule
def _plugin(given: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Read a plug-in from its textual form, for fields whose type is the interface of a kind of plug-in."""

    def read(words: list[str]) -> Any:
        assert registry is not None
        try:
            return registry.parse(words[0])
        except ValueError as error:
            raise UsageError(str(error)) from error

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
