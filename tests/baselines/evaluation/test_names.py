"""Names on one line, short, and still different."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from paramarket_baselines.evaluation.names import fit, printable, without_folders


def test_what_tells_names_apart_stays() -> None:
    assert without_folders(["train", "file:/long/path/a.py", "learned:runs/mine/"]) == ["train", "a.py", "mine"]
    assert without_folders(["learned:x/best", "learned:y/best"]) == ["x/best", "y/best"]
    assert without_folders(["paper+file:p/a.py(x=1)", "patient:7"]) == ["paper+a.py(x=1)", "patient:7"]
    assert without_folders(["file:a/b", "learned:a/b"]) == ["file:a/b", "learned:a/b"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["train", "patient(patience=7)+fixed(level=3)"], ["train", "patien…el=3)"]),
        (["one common beginning, a", "one common beginning, b"], ["one co…ng, a", "one co…ng, b"]),
        (["a: one common end of names", "b: one common end of names"], ["a: one…names", "b: one…names"]),
        (["a common part, 1 of several parts", "a common part, 2 of several parts"], ["…1 of sever…", "…2 of sever…"]),
        (["x" * 30 + "1" + "y" * 40 + "1" + "z" * 30, "x" * 30 + "2" + "y" * 40 + "1" + "z" * 30, "x" * 103], None),
    ],
)
def test_a_name_that_is_cut_keeps_what_tells_it_apart(names: list[str], shown: list[str] | None) -> None:
    found = fit(names, 12)
    assert len(set(found)) == len(names)
    assert shown is None or found == shown


@given(st.lists(st.text(max_size=40), unique=True, max_size=8), st.integers(6, 30))
def test_any_names_are_shown_on_one_line_of_the_width_and_stay_different(names: list[str], width: int) -> None:
    found = fit(names, width)
    assert all(name.isprintable() and cell_len(name) <= width for name in found)
    assert len(set(found)) == len(set(map(printable, names)))


def test_what_cannot_be_printed_becomes_an_escape() -> None:
    assert printable("a\n\x1b[31mb\udcff\u202ec") == r"a\n\x1b[31mb\udcff\u202ec"
