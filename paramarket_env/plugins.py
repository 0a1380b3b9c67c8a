"""Plug-ins: the parts that a configuration chooses by name, with one registry for each kind.

A plug-in is an object with the interface of its kind, such as a dataset, a mechanism or a policy. Its class is a frozen
dataclass whose fields are its configuration (:func:`paramarket_env.validation.configuration` checks them). Where the
interface is a call, a plain function can be a plug-in too; it has no configuration.

Every plug-in has one textual form. The command line, configuration files and the leaderboard use it::

    dirichlet                                a plug-in with its defaults
    dirichlet(concentration=0.3)             with a value for a field
    dirichlet:0.3                            short form: the value of the first field
    patient(patience=7)+fixed(level=3)       a policy with a pricing rule
    file:PATH.py, file:PATH.py(field=1)      the object that a Python file defines under the name of the kind

The file is executed, so name only files that you trust.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import runpy
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache, partial
from typing import Any, Generic, TypeVar

from pydantic_core import core_schema

from paramarket_env.files import expanded
from paramarket_env.validation import require, shown

P = TypeVar("P")
Entry = TypeVar("Entry", bound=Callable[..., Any])

FILE = "file:"

REGISTRIES: dict[type, Registry[Any]] = {}
"""Every registry, by the interface of its plug-ins."""


class Registry(Generic[P]):
    """The plug-ins of one kind by name: classes of plug-ins, and functions that are plug-ins themselves.

    ``kind`` names a plug-in in errors. ``interface`` is a runtime-checkable protocol. ``attribute`` is the name under
    which a file defines a plug-in, by default the kind with underscores. The value of the field ``joined`` can be
    written after a ``+``. ``provider`` is a module of a layer above that registers plug-ins; the registry imports it
    when it is first read.
    """

    def __init__(
        self, kind: str, interface: type[P], *, attribute: str = "", joined: str = "", provider: str = ""
    ) -> None:
        self.kind, self.interface, self.joined, self._provider = kind, interface, joined, provider
        self.attribute = attribute or kind.replace(" ", "_")
        self._registered: dict[str, Callable[..., Any]] = {}
        self._names: dict[Callable[..., Any], str] = {}
        REGISTRIES[interface] = self

    @property
    def _entries(self) -> dict[str, Callable[..., Any]]:
        if self._provider:
            # It registers plug-ins here while it is imported, so it must not be imported again.
            provider, self._provider = self._provider, ""
            importlib.import_module(provider)
        return self._registered

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """The class or function of that name; raises ``ValueError``, listing the names, for an unknown name."""
        found = self._entries.get(name.replace("_", "-"))
        if found is None:
            raise ValueError(f"unknown {self.kind} {name!r}: choose from {', '.join(sorted(self))}")
        return found

    def __iter__(self) -> Iterator[str]:
        """The names in the order of registration."""
        return iter(self._entries)

    def __len__(self) -> int:
        """The number of plug-ins."""
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether a plug-in has that name."""
        return isinstance(name, str) and name.replace("_", "-") in self._entries

    def items(self) -> Iterable[tuple[str, Callable[..., Any]]]:
        """The names with their classes or functions."""
        return self._entries.items()

    @property
    def plural(self) -> str:
        """The kind in the plural."""
        return f"{self.kind.removesuffix('y')}ies" if self.kind.endswith("y") else f"{self.kind}s"

    def register(self, entry: Entry, name: str | None = None) -> Entry:
        """Add a class or a function and return it, so that this is also a decorator.

        The default ``name`` is that of the class or function with hyphens: ``double-auction`` for ``DoubleAuction``.
        """
        if name is None:
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", entry.__name__).lower()
        name = name.replace("_", "-")
        what = f"name of a {self.kind}"
        require(re.fullmatch(r"[\w-]+", name) is not None, what, name, "letters, digits and hyphens")
        require(name not in self._registered, what, name, "a name that is not yet taken")
        self._require_readable(entry)
        self._registered[name], self._names[entry] = entry, name
        return entry

    def _require_readable(self, entry: Callable[..., Any]) -> None:
        """Raise ``ValueError`` for a class whose values a textual form would lose."""
        readable = is_dataclass(entry) or not parameters(entry)
        require(readable, self.kind, entry, "a dataclass, or a function")

    # --- the textual form ------------------------------------------------------------------------------------------

    def parse(self, text: str) -> P:
        """The plug-in with this textual form; see the module.

        Raises ``ValueError`` for an unknown name or field, listing those that exist, and for a value that is not
        allowed.
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
            problem = f"{field!r} is given twice" if field in known else f"there is no field {field!r}"
            require(new, self.kind, text, f"{usage(name, entry)}, each field at most once; {problem}")
            values[field] = value
        missing = [field for field in known if known[field].default is inspect.Parameter.empty and field not in values]
        require(not missing, self.kind, text, f"{usage(name, entry)}, with a value for {', '.join(missing)}")
        # A class is called to make the plug-in; a function is the plug-in itself.
        return self.check(entry(**values) if isinstance(entry, type) else entry)

    def _place_of_plus(self, text: str) -> int:
        """The position of the ``+`` outside brackets, or -1. A path can contain other ``+``."""
        name = re.match(r"[\w-]*", text)
        assert name is not None
        rest = text[name.end() :]
        has_field = name.group() in self and self.joined in parameters(self[name.group()])
        if not (has_field or rest.startswith("+")):
            return -1
        depth = 0
        for place, character in enumerate(text):
            depth += (character == "(") - (character == ")")
            if character == "+" and depth == 0:
                return place
        return -1

    def _from_file(self, path: str) -> Callable[..., Any]:
        """The class or function that a file defines under ``attribute``; it gets the name ``file:PATH``."""
        entry = _defined(str(expanded(path)), self.attribute)
        self._require_readable(entry)
        self._names.setdefault(entry, f"{FILE}{path}")
        return entry

    def text(self, plugin: P, *, complete: bool = False) -> str:
        """The textual form of a plug-in: its name and the fields that differ from their defaults.

        With ``complete``, it has all fields. Files store this form, which keeps its meaning if a default changes.
        Raises ``ValueError`` for a plug-in that is not registered.
        """
        kind: Any = type(plugin)
        name = self._names.get(kind) or self._names.get(plugin)  # type: ignore[call-overload]  # a function is a key
        if name is None:
            raise ValueError(f"{self.kind}={shown(plugin)} has no name: register it, or name the file that defines it")
        values = _values(plugin, complete)
        # In the name of a file a plus would be part of the path.
        joins = values.get(self.joined) is not None and not name.startswith(FILE)
        suffix = f"+{text_of(values.pop(self.joined), complete=complete)}" if joins else ""
        inside = ", ".join(f"{field}={_plain(value, complete)!r}" for field, value in values.items())
        return name + (f"({inside})" if inside else "") + suffix

    # --- a field of a configuration --------------------------------------------------------------------------------

    def check(self, value: Any) -> P:
        """The plug-in, given as an object or in its textual form; raises ``ValueError`` for anything else."""
        if isinstance(value, str):
            return self.parse(value)
        # Where the interface is a call, a class whose instances are the result of the call has the interface itself.
        called = "__call__" in vars(self.interface)
        instance = not isinstance(value, type) or (called and not is_dataclass(value))
        fits = isinstance(value, self.interface) and instance and not self._is_other(value)
        fits = fits and (not called or _takes(value, self.interface))
        allowed = f"one of {', '.join(self)}, or an object with the interface of a {self.kind}"
        require(fits, self.attribute, value, allowed)
        plugin: P = value
        return plugin

    def _is_other(self, value: Any) -> bool:
        """Whether the value is registered as a plug-in of other kinds only: all calls have the same interface."""
        return not self._has(value) and any(registry._has(value) for registry in REGISTRIES.values())

    def _has(self, value: Any) -> bool:
        """Whether this registry has the class of the value, or the value itself."""
        return type(value) in self._names or (isinstance(value, Hashable) and callable(value) and value in self._names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Allows ``Annotated[Interface, REGISTRY]`` as a field of a configuration. In JSON it is the textual form."""
        complete = partial(self.text, complete=True)
        serialization = core_schema.plain_serializer_function_ser_schema(complete)
        return core_schema.no_info_plain_validator_function(self.check, serialization=serialization)

    def __hash__(self) -> int:
        """Registries are hashed by identity."""
        return id(self)


def _takes(value: Callable[..., Any], interface: Any) -> bool:
    """Whether a value can be called with the arguments of the interface."""
    arguments = list(inspect.signature(interface.__call__).parameters)[1:]
    # An object of a configuration's class has the signature of its class where pydantic is older than 2.10.
    call = getattr(value, "__call__") if is_dataclass(value) else value  # noqa: B004, B009  # bound to the object
    try:
        inspect.signature(call).bind(*arguments)
    except (TypeError, ValueError):  # ValueError: a function in C that does not describe its arguments
        return False
    return True


def parameters(entry: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The fields of a plug-in's class by name; a function has none."""
    return dict(inspect.signature(entry).parameters) if isinstance(entry, type) else {}


def usage(name: str, entry: Callable[..., Any]) -> str:
    """The textual form of a plug-in with all its fields and their defaults."""
    known = parameters(entry).values()
    inside = [
        field.name if field.default is field.empty else f"{field.name}={_shown(field.default)}" for field in known
    ]
    return name + (f"({', '.join(inside)})" if inside else "")


def _shown(default: object) -> str:
    try:
        return repr(_plain(default))
    except ValueError:  # a default that has no textual form
        return shown(default)


def text_of(plugin: object, *, complete: bool = False) -> str:
    """The textual form of a plug-in of any kind; see :meth:`Registry.text`."""
    for registry in REGISTRIES.values():
        if registry._has(plugin):
            return registry.text(plugin, complete=complete)
    raise ValueError(f"{shown(plugin)} has no name: register it, or name the file that defines it")


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
    """The name, positional values and named values in the textual form of one plug-in."""
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
"""The exceptions of ``ast`` for a text that is not a literal."""


def _arguments(inside: str) -> tuple[list[Any], list[tuple[str, Any]]]:
    """The positional and the named values between the brackets of a textual form."""
    call = ast.parse(f"_({inside})", mode="eval").body
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise SyntaxError("the brackets end before the text does")
    return [_literal(value) for value in call.args], [(str(each.arg), _literal(each.value)) for each in call.keywords]


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:  # its message has the address of an object
        raise ValueError(f"{ast.unparse(value)} is none") from None


class Short(str):
    """The value in ``NAME:VALUE``, verbatim."""

    __slots__ = ()


def _read(value: Any, field: inspect.Parameter) -> Any:
    """The value of a field. In a short form it is a Python literal, or else the text itself, such as a path."""
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
    """The class or function that a Python file defines under the name ``attribute``. The file is executed once.

    Raises ``ValueError`` if there is no such file, or no such class or function in it. Exceptions of the file itself
    are not caught.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{attribute}='{FILE}{path}' cannot be used: there is no file {path!r}")
    found: Any = runpy.run_path(path).get(attribute)
    if not callable(found):
        raise ValueError(f"{attribute}='{FILE}{path}' cannot be used: the file defines no {attribute}")
    return found  # type: ignore[no-any-return]
