"""Terminal output: the console, progress bars and tables; tables also in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

Rows = Mapping[str, Sequence[str]]
"""The cells of each row, by the name of the row. Short rows are filled with empty cells."""

COLUMNS = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
"""The columns of progress bars; commands append the remaining time."""


def new_console(width: int = 112) -> Console:
    """A console as wide as the terminal, or ``width`` characters wide if the output is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else width)


def table(rows: Rows, labels: Sequence[str], title: str, header: str = "") -> Table:
    """A table for the terminal. If space is short, the names of rows are cut, never the figures."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column(header)
    for label in labels:
        made.add_column(label, justify="right", no_wrap=True)
    for name, cells in _filled(rows, labels).items():
        # Rich narrows columns that may wrap first. Only the column of names may, and its names are cut instead.
        made.add_row(Text(name, no_wrap=True, overflow="ellipsis"), *cells)
    return made


def markdown(rows: Rows, labels: Sequence[str], header: str = "") -> str:
    """The same table in Markdown."""
    body = [[name, *cells] for name, cells in _filled(rows, labels).items()]
    lines = [[header, *labels], ["---", *["--:"] * len(labels)], *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _filled(rows: Rows, labels: Sequence[str]) -> dict[str, list[str]]:
    return {name: [*cells, *[""] * (len(labels) - len(cells))] for name, cells in rows.items()}
