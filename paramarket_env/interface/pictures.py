"""Figures that need no display. Matplotlib is imported when the first one is made, not with the package."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**settings: Any) -> Figure:
    """A figure that is drawn into memory or a file, whatever backend ``MPLBACKEND`` names.

    ``settings`` are those of ``matplotlib.figure.Figure``, such as ``figsize``.
    """
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # see _import_matplotlib
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(**settings)
    FigureCanvasAgg(figure)
    return figure


def _import_matplotlib() -> None:
    """Import matplotlib without ``MPLBACKEND``, since an unknown backend makes the import fail; then choose it."""
    backend = os.environ.get("MPLBACKEND")
    if "matplotlib" in sys.modules or not backend:
        return
    del os.environ["MPLBACKEND"]
    try:
        import matplotlib as mpl  # noqa: PLC0415
    finally:
        os.environ["MPLBACKEND"] = backend
    with suppress(ValueError):
        mpl.rcParams["backend"] = backend


def literal(text: str) -> str:
    """The text for a label, which shows it as it is: without mathematics, on one line, a box for a missing glyph."""
    _import_matplotlib()
    from matplotlib.font_manager import FontProperties, findfont, get_font  # noqa: PLC0415

    font = get_font(findfont(FontProperties()))
    shown = "".join(character if font.get_char_index(ord(character)) else "□" for character in text)
    # A legend leaves out labels that begin with an underscore.
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")
