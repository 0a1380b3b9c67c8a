"""Tables for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with a header row and rows of cells."""
    lines = [" | ".join(str(cell) for cell in row) for row in (head, *rows)]
    first, *rest = (f"| {line} |" for line in lines)
    return "\n".join([first, "|---" * len(head) + "|", *rest])
