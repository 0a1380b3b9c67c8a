"""Tables for the terminal and in Markdown."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from paramarket_baselines.evaluation.display import markdown, table

ROWS = {"a name that is far too long for a narrow terminal": ["1.00 ± 0.10", "12"], "short": ["–"]}


def printed(renderable: RenderableType, width: int = 112) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", [30, 40, 112])
def test_names_give_way_and_figures_are_never_cut(width: int) -> None:
    shown = printed(table(ROWS, ["mean", "count"], "title", "name"), width)
    for cell in ("1.00 ± 0.10", " 12 ", "mean", "count", "–"):
        assert cell in shown
    assert ("a name that is far too long for a narrow terminal" in shown) == (width == 112)


def test_markdown_has_the_same_cells_and_fills_up_rows() -> None:
    assert markdown(ROWS, ["mean", "count"], "name").split("\n") == [
        "| name | mean | count |",
        "| --- | --: | --: |",
        "| a name that is far too long for a narrow terminal | 1.00 ± 0.10 | 12 |",
        "| short | – |  |",
    ]


def test_names_are_shown_as_they_are() -> None:
    assert "file:[bold]mine.py" in printed(table({"file:[bold]mine.py": ["1"]}, ["one"], "title"))
