"""Names that users chose, such as the path of a policy, made fit for display: on one line, short and still different.

Files keep the full names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile

from rich.cells import cell_len, set_cell_size

PATH = re.compile(r"\b[\w-]+:([^+()]*/[^+()]*)")
"""A path in the textual form of a plug-in, such as ``file:a/b.py`` or ``learned:runs/mine``."""


def printable(text: str) -> str:
    """The text on one line. Control characters and others that cannot be printed become escapes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def without_folders(names: Sequence[str]) -> list[str]:
    """The names, whose paths keep only as many folders as tell the names apart."""
    for kept in range(1 + max((name.count("/") for name in names), default=0)):
        found = [PATH.sub(partial(_last_parts, kept=kept), name) for name in names]
        if _as_different(found, names):
            return found
    return list(names)


def _last_parts(path: re.Match[str], kept: int) -> str:
    return "/".join(path[1].rstrip("/").split("/")[-1 - kept :])


def _as_different(found: Sequence[str], names: Sequence[str]) -> bool:
    return len(set(found)) == len(set(names))


def fit(names: Sequence[str], width: int) -> list[str]:
    """The names, printable and cut to ``width`` columns. They lose what they have in common, and stay different."""
    short = without_folders([printable(name) for name in names])
    for cut in _cuts([name for name in short if cell_len(name) > width], width):
        found = [cut(name) if cell_len(name) > width else name for name in short]
        if _as_different(found, names):
            return found
    tags = [f"…{place}" for place, _ in enumerate(short, start=1)]
    return [f"{_head(name, width - len(tag))}{tag}" for name, tag in zip(short, tags, strict=True)]


def _cuts(long: Sequence[str], width: int) -> Iterator[Callable[[str], str]]:
    """Ways to cut names: out of the middle, then nearer to either end, then around the first difference."""
    for head in sorted(range(width), key=lambda head: abs(head - width // 2)):
        yield partial(_without_middle, head=head, tail=width - 1 - head)
    common = takewhile(lambda characters: len(set(characters)) == 1, zip(*long, strict=False))
    yield partial(_window, start=len(list(common)), width=width)


def _without_middle(name: str, head: int, tail: int) -> str:
    return f"{_head(name, head)}…{_head(name[::-1], tail)[::-1]}"


def _window(name: str, start: int, width: int) -> str:
    return f"…{_head(name[start:], width - 2)}…"


def _head(text: str, width: int) -> str:
    return set_cell_size(text, max(width, 0)).strip()
