"""Tables for the terminal and in Markdown."""

from __future__ import annotations

import html
import io
import re

import pytest
from rich.console import Console, RenderableType

from paramarket_baselines.evaluation.display import PlainConsole, markdown, new_console, new_progress, table

ROWS = {"a name that is far too long for a narrow terminal": ["1.00 ± 0.10", "12"], "short": ["–"]}


HOSTILE = ["[red]", "[/]", "file:[x].py", ":smile:", "ends in \\", "two\nlines", "\x1b[31mred", "|a|", "`c`", "$x_1$"]
"""Names that are markup somewhere."""


def printed(renderable: RenderableType, width: int = 112, console: type[Console] = PlainConsole) -> str:
    file = io.StringIO()
    console(width=width, file=file).print(renderable)
    return file.getvalue()


def visible(name: str) -> str:
    """The name with control characters as escapes."""
    return name if name.isprintable() else repr(name)[1:-1]


def in_one_line(shown: str) -> str:
    """The printed text, without the places where lines break."""
    return re.sub(r"\s+", "", shown)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 112, 200])
@pytest.mark.parametrize("columns", [2, 9])
def test_names_give_way_and_figures_are_never_cut(width: int, columns: int) -> None:
    rows = {name: ["-1234.56 ± 0.10", "12"] + ["0.00 [-0.10, 0.10]"] * 7 for name in (*ROWS, "another name " * 9)}
    labels = ["mean", "count", *(f"column {place}" for place in range(7))][:columns]
    shown = printed(table({name: cells[:columns] for name, cells in rows.items()}, labels, "title", "name"), width)
    assert all(len(line) <= width for line in shown.splitlines())
    words = shown.split()
    assert [words.count(word) for word in ("-1234.56", "12")] == [3, 3]
    assert words.count("[-0.10,") == words.count("0.10]") == 3 * (columns - 2)
    for label in labels:
        assert in_one_line(label) in in_one_line(shown)


def test_a_name_is_shown_in_full_where_there_is_room() -> None:
    assert next(iter(ROWS)) in printed(table(ROWS, ["mean", "count"], "title"))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("console", [PlainConsole, Console])
def test_names_are_shown_as_they_are_in_titles_headings_and_rows(name: str, console: type[Console]) -> None:
    shown = printed(table({name: ["1"]}, [name], f"against {name}", name), console=console)
    assert shown.count(visible(name)) == 4
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", HOSTILE)
def test_a_message_is_shown_as_it_is_on_one_line(name: str) -> None:
    shown = printed(f"saved in {name}")
    assert shown.count("\n") == 1
    assert visible(name) in shown


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_progress_bars_show_names_as_they_are_and_whole_counts(width: int) -> None:
    file = io.StringIO()
    console = PlainConsole(width=width, file=file, force_terminal=True)
    with new_progress(console) as progress:
        progress.add_task("[red]", total=40, completed=12)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", file.getvalue())
    assert "[red]" in shown
    assert "12/40" in shown


def test_there_is_no_progress_bar_outside_a_terminal() -> None:
    file = io.StringIO()
    with new_progress(PlainConsole(file=file)) as progress:
        progress.add_task("name")
    assert file.getvalue().strip() == ""  # older versions of rich end the line


@pytest.mark.parametrize(("columns", "width"), [("64", 64), ("3", 20), ("0", 112), ("wide", 112)])
def test_the_console_has_the_width_that_the_shell_says(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert new_console().width == width


def test_markdown_has_the_same_cells_and_fills_up_rows() -> None:
    assert markdown(ROWS, ["mean", "count"], "name").split("\n") == [
        "| name | mean | count |",
        "| --- | --: | --: |",
        "| a name that is far too long for a narrow terminal | 1.00 ± 0.10 | 12 |",
        "| short | – |  |",
    ]


@pytest.mark.parametrize("name", [*HOSTILE, "**bold**", "[a](b)", "<b>", "&amp;", "_a_", "1 < 2", "0.1 [0.0, 0.2]"])
def test_markdown_shows_names_as_they_are(name: str) -> None:
    page = markdown({name: ["1"]}, [name], name)
    assert page.count("\n") == 2
    assert [line.count("|") for line in page.split("\n")] == [3, 3, 3]
    assert html.unescape(page.split("\n")[0]) == f"| {visible(name)} | {visible(name)} |"
    assert not re.search(r"[\\`*_<]|\[a\]|:smile:|\$", page)
