"""Terminal output: the console, progress bars and tables; tables also in Markdown.

Text that users chose reaches the screen only through here, and is shown as it is: nothing in it is markup.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from paramarket_baselines.evaluation.names import fit, printable

Rows = Mapping[str, Sequence[str]]
"""The cells of each row, by the name of the row. Short rows are filled with empty cells."""

LABEL_WIDTH = 20
"""Columns of a heading. Longer ones are cut."""

NAME_WIDTH = 12
"""Columns that names keep, on a console of at least three times that width. Other columns then follow below."""

MIN_WIDTH = 20
"""Narrower consoles are treated as if they had this width."""

BAR_WIDTH = 70
"""Width of a console from which there is room for a bar and the remaining time."""


class PlainConsole(Console):
    """A console that prints strings as they are: without markup, on one line, and without control characters."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """See ``Console.render_str``."""
        return super().render_str(printable(text), **settings)

    def on_broken_pipe(self) -> None:
        """See ``Console.on_broken_pipe``. By the error the command ends quietly (see ``process``)."""
        raise BrokenPipeError


def new_console(width: int = 112) -> Console:
    """A console as wide as the terminal or ``COLUMNS``, or else ``width`` characters wide."""
    console = PlainConsole()
    if "COLUMNS" in os.environ or not console.is_terminal:
        console.width = max(shutil.get_terminal_size((width, 0)).columns, MIN_WIDTH)
    return console


def new_progress(console: Console, *columns: ProgressColumn, transient: bool = False) -> Progress:
    """Progress bars, with ``columns`` at their end. There are none unless the console is a terminal."""
    name, count = TextColumn("{task.description}", markup=False), MofNCompleteColumn()
    narrow = console.width < BAR_WIDTH
    shown = (name, count) if narrow else (name, BarColumn(16), count, TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*shown, *columns, console=console, transient=transient, disable=not console.is_interactive)


def table(rows: Rows, labels: Sequence[str], title: str, header: str = "") -> RenderableType:
    """A table for the terminal. If space is short, names are cut and columns follow below; figures stay whole."""
    return _Fitted(_filled(rows, labels), labels, title, header)


@dataclass(frozen=True)
class _Fitted:
    """A table that is laid out for the width of the console on which it is printed."""

    rows: Rows
    labels: Sequence[str]
    title: str
    header: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(printable(self.title), style="italic", overflow="fold")
        labels = fit(self.labels, LABEL_WIDTH)
        cells = [[label, *(row[place] for row in self.rows.values())] for place, label in enumerate(labels)]
        widths = [_column(max(map(cell_len, column))) for column in cells]
        least, room = min(NAME_WIDTH, options.max_width // 3), options.max_width - 1 - _column(0)
        for part in _parts(widths, room - least):
            yield self._part(labels, part, max(least, room - sum(widths[place] for place in part)))

    def _part(self, labels: Sequence[str], part: Sequence[int], room: int) -> Table:
        """The columns ``part`` of figures, with names of at most ``room`` characters."""
        names = fit(list(self.rows), room)
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        made.add_column(Text(printable(self.header)), no_wrap=True)
        for place in part:
            made.add_column(Text(labels[place]), justify="right", overflow="fold")
        for name, row in zip(names, self.rows.values(), strict=True):
            made.add_row(Text(name), *(Text(printable(row[place])) for place in part))
        return made


def _column(width: int) -> int:
    """The width of a column of ``width`` characters with its padding and its divider."""
    return width + 2


def _parts(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """The columns in order, in parts of at most ``room`` columns of text; a part has at least one column."""
    part: list[int] = []
    for place, width in enumerate(widths):
        if part and sum(widths[other] for other in part) + width > room:
            yield part
            part = []
        part.append(place)
    if part:
        yield part


def markdown(rows: Rows, labels: Sequence[str], header: str = "") -> str:
    """The same table in Markdown."""
    body = [[name, *cells] for name, cells in _filled(rows, labels).items()]
    lines = [[header, *labels], ["---", *["--:"] * len(labels)], *body]
    return "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in lines)


MARKDOWN = re.compile(r"[\\`*_~<&|$]|\[(?=[^\]]*\][\[(])|:(?=[\w+-]+:)")
"""Markup in some dialect of Markdown: emphasis, code, HTML, mathematics, links and the codes of emoji."""


def _escaped(text: str) -> str:
    """The text of a cell, in which markup is replaced by HTML entities."""
    return MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", printable(text))


def _filled(rows: Rows, labels: Sequence[str]) -> dict[str, list[str]]:
    return {name: [*cells, *[""] * (len(labels) - len(cells))] for name, cells in rows.items()}
