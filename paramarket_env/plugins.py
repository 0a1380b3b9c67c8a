"""Plug-ins: what a configuration chooses by name, one registry for each kind.

A plug-in is an object with the interface of its kind, such as a dataset, a mechanism or a policy. Its class is a frozen
dataclass whose fields are its configuration (:func:`paramarket_env.validation.configuration` checks them). Where the
interface is a call, a plain function can be a plug-in too; it has no configuration.

Every plug-in has one textual form. The command line, configuration files and the leaderboard use it::

    dirichlet                                a plug-in with its defaults
    dirichlet(concentration=0.3)             with a field of its own
    dirichlet:0.3                            short: the value of its first field
    patient(patience=7)+fixed(level=3)       a policy with a pricing rule
    file:PATH.py, file:PATH.py(field=1)      what a Python file defines under the name of the kind

A file is executed, so name only files that you trust.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import runpy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache, partial
from typing import Any, Generic, TypeVar

from pydantic_core import core_schema

from paramarket_env.validation import require

P = TypeVar("P")
Entry = TypeVar("Entry", bound=Callable[..., Any])

FILE = "file:"

REGISTRIES: dict[type, Registry[Any]] = {}
"""Every registry by the interface of its plug-ins."""


class Registry(Generic[P]):
    """The plug-ins of one kind by name: classes, and functions that are plug-ins themselves.

    ``kind`` is its name in errors. ``interface`` is a runtime-checkable protocol. ``attribute`` is the name under which
    a file defines one, by default the kind with underscores. The value of the field ``joined`` may stand behind ``+``.
    """

    def __init__(self, kind: str, interface: type[P], *, attribute: str = "", joined: str = "") -> None:
        self.kind, self.interface, self.joined = kind, interface, joined
        self.attribute = attribute or kind.replace(" ", "_")
        self._entries: dict[str, Callable[..., Any]] = {}
        self._names: dict[Callable[..., Any], str] = {}
        REGISTRIES[interface] = self

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The class or function of that name; ``ValueError`` that lists the names for one that does not exist."""
        found = self._entries.get(name.replace("_", "-"))
        if found is None:
            raise ValueError(f"unknown {self.kind} {name!r}: choose from {', '.join(sorted(self))}")
        return found

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of registration."""
        return iter(self._entries)

    def __len__(self) -> int:
        """How many plug-ins there are."""
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether there is a plug-in of that name."""
        return isinstance(name, str) and name.replace("_", "-") in self._entries

    def items(self) -> Iterable[tuple[str, Callable[..., Any]]]:
        """The names with their classes or functions."""
        return self._entries.items()

    @property
    def plural(self) -> str:
        """What a list of them is called."""
        return f"{self.kind.removesuffix('y')}ies" if self.kind.endswith("y") else f"{self.kind}s"

    def register(self, entry: Entry, name: str | None = None) -> Entry:
        """Add a class or a function; also as a decorator.

        Without a ``name`` it is that of the class or function with hyphens: ``DoubleAuction`` is ``double-auction``.
        """
        if name is None:
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", entry.__name__).lower()
        name = name.replace("_", "-")
        what = f"name of a {self.kind}"
        require(re.fullmatch(r"[\w-]+", name) is not None, what, name, "letters, digits and hyphens")
        require(name not in self._entries, what, name, "one that is not taken")
        self._require_readable(entry)
        self._entries[name], self._names[entry] = entry, name
        return entry

    def _require_readable(self, entry: Callable[..., Any]) -> None:
        """Raise ``ValueError`` for a class whose values a textual form would lose."""
        readable = is_dataclass(entry) or not parameters(entry)
        require(readable, self.kind, entry, "a dataclass, or a function")

    # --- the textual form ------------------------------------------------------------------------------------------

    def parse(self, text: str) -> P:
        """The plug-in of a textual form (see the module).

        Raises ``ValueError``, naming what exists, for an unknown name or field, and for a value that is not allowed.
        """
        place = self._place_of_plus(text)
        joined = [] if place < 0 else [(self.joined, text[place + 1 :])]
        name, positional, named = _split(text if place < 0 else text[:place], self.kind)
        entry = self._from_file(name.removeprefix(FILE)) if name.startswith(FILE) else self[name]
        known = parameters(entry)
        require(len(positional) <= len(known), self.kind, text, f"{usage(name, entry)}, without further values")
        values = {field: _read(value, known[field]) for field, value in zip(known, positional, strict=False)}
        for field, value in (*named, *joined):
            new = field in known and field not in values
            require(new, self.kind, text, f"{usage(name, entry)}, each field once; {field!r} is not one or given twice")
            values[field] = value
        missing = [field for field in known if known[field].default is inspect.Parameter.empty and field not in values]
        require(not missing, self.kind, text, f"{usage(name, entry)}, with a value for {', '.join(missing)}")
        # A function is the plug-in itself.
        return self.check(entry(**values) if isinstance(entry, type) else entry)

    def _place_of_plus(self, text: str) -> int:
        """Where the ``+`` outside of brackets stands, -1 without one; a path may contain others."""
        name = re.match(r"[\w-]*", text)
        assert name is not None
        rest = text[name.end() :]
        takes_it = name.group() in self and self.joined in parameters(self[name.group()])
        if not (takes_it or rest.startswith("+")):
            return -1
        depth = 0
        for place, character in enumerate(text):
            depth += (character == "(") - (character == ")")
            if character == "+" and depth == 0:
                return place
        return -1

    def _from_file(self, path: str) -> Callable[..., Any]:
        """What a file defines under the name of the kind; registered under ``file:PATH``."""
        entry = _defined(os.path.expanduser(path), self.attribute)
        self._require_readable(entry)
        self._names.setdefault(entry, f"{FILE}{path}")
        return entry

    def text(self, plugin: P, *, complete: bool = False) -> str:
        """The textual form of a plug-in: its name, and the fields that differ from their defaults.

        ``complete``: all fields, as files keep it, so that they mean the same when a default changes. Raises
        ``ValueError`` for a plug-in that is not registered.
        """
        kind: Any = type(plugin)
        name = self._names.get(kind) or self._names.get(plugin)  # type: ignore[call-overload]  # a function is a key
        if name is None:
            raise ValueError(f"{self.kind}={plugin!r} has no name: register it, or name the file that defines it")
        values = _values(plugin, complete)
        # Behind a file a plus would be part of its path.
        joins = values.get(self.joined) is not None and not name.startswith(FILE)
        behind = f"+{text_of(values.pop(self.joined), complete=complete)}" if joins else ""
        inside = ", ".join(f"{field}={_plain(value, complete)!r}" for field, value in values.items())
        return name + (f"({inside})" if inside else "") + behind

    # --- a field of a configuration --------------------------------------------------------------------------------

    def check(self, value: Any) -> P:
        """A plug-in, given itself or its textual form; raises ``ValueError`` for what is neither."""
        if isinstance(value, str):
            return self.parse(value)
        fits = isinstance(value, self.interface) and not isinstance(value, type)
        allowed = f"one of {', '.join(self)}, or an object with the interface of a {self.kind}"
        require(fits, self.attribute, value, allowed)
        plugin: P = value
        return plugin

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """So that ``Annotated[Interface, REGISTRY]`` is a field of a configuration, in JSON its textual form."""
        complete = partial(self.text, complete=True)
        serialization = core_schema.plain_serializer_function_ser_schema(complete)
        return core_schema.no_info_plain_validator_function(self.check, serialization=serialization)

    def __hash__(self) -> int:
        """By identity."""
        return id(self)


def parameters(entry: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The fields of a plug-in's class, by name; a function has none."""
    return dict(inspect.signature(entry).parameters) if isinstance(entry, type) else {}


def usage(name: str, entry: Callable[..., Any]) -> str:
    """How a plug-in is written, with all of its fields and their defaults."""
    known = parameters(entry).values()
    inside = [
        found.name if found.default is found.empty else f"{found.name}={_shown(found.default)}" for found in known
    ]
    return name + (f"({', '.join(inside)})" if inside else "")


def _shown(default: object) -> str:
    try:
        return repr(_plain(default))
    except ValueError:  # a default that has no textual form
        return repr(default)


def text_of(plugin: object, *, complete: bool = False) -> str:
    """The textual form of a plug-in of whichever kind; see :meth:`Registry.text`."""
    for registry in REGISTRIES.values():
        if type(plugin) in registry._names or (callable(plugin) and plugin in registry._names):
            return registry.text(plugin, complete=complete)
    raise ValueError(f"{plugin!r} has no name: register it, or name the file that defines it")


def _plain(value: object, complete: bool = False) -> object:
    """The value of a field with plug-ins by their textual form."""
    if isinstance(value, tuple):
        return tuple(_plain(each, complete) for each in value)
    plain = value is None or isinstance(value, (bool, int, float, str))
    return value if plain else text_of(value, complete=complete)


def _values(plugin: object, complete: bool) -> dict[str, Any]:
    """The fields of a dataclass: all of them, or those that differ from their defaults."""
    known: tuple[Field[Any], ...] = fields(plugin) if is_dataclass(plugin) else ()
    values = {field: getattr(plugin, field.name) for field in known if field.init}
    return {field.name: value for field, value in values.items() if complete or value != field.default}


def _split(text: str, kind: str) -> tuple[str, list[Any], list[tuple[str, Any]]]:
    """Name, positional values and named values of one plug-in's textual form."""
    prefix = FILE if text.startswith(FILE) else ""
    found = re.fullmatch(r"([^(:]+)(?::(.*)|\((.*)\))?", text.removeprefix(prefix), re.DOTALL)
    if found is None:
        raise ValueError(f"{kind}={text!r} is not allowed: it must be NAME, NAME:VALUE or NAME(field=VALUE, ...)")
    name, short, inside = found.groups()
    if short is not None:
        return prefix + name, [Short(short)], []
    try:
        return prefix + name, *_arguments(inside or "")
    except NOT_LITERAL as error:
        raise ValueError(f"{kind}={text!r} is not allowed: its values must be Python literals ({error})") from error


NOT_LITERAL = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)
"""What ``ast`` raises for a text that is not a literal."""


def _arguments(inside: str) -> tuple[list[Any], list[tuple[str, Any]]]:
    """The positional and the named values between the brackets of a textual form."""
    call = ast.parse(f"_({inside})", mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise SyntaxError("the brackets end before the text does")
    positional = [ast.literal_eval(value) for value in call.args]
    return positional, [(str(keyword.arg), ast.literal_eval(keyword.value)) for keyword in call.keywords]


class Short(str):
    """The value of ``NAME:VALUE``, as it was written."""

    __slots__ = ()


def _read(value: Any, field: inspect.Parameter) -> Any:
    """The value of a field: of a short form the literal that it spells, or the text itself, such as a path."""
    if not isinstance(value, Short):
        return value
    if str(field.annotation).startswith("str"):
        return str(value)
    try:
        return ast.literal_eval(value)
    except NOT_LITERAL:
        return str(value)


@cache
def _defined(path: str, attribute: str) -> Callable[..., Any]:
    """What a Python file defines under a name; the file is executed once.

    Raises ``ValueError`` if there is no such file, or no such class or function in it; what the file itself raises is
    passed on.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{attribute}='{FILE}{path}' is not there: no file {path!r}")
    found: Any = runpy.run_path(path).get(attribute)
    if not callable(found):
        raise ValueError(f"{attribute}='{FILE}{path}' cannot be used: the file defines no {attribute}")
    return found  # type: ignore[no-any-return]
