"""Figures that need no display. Matplotlib is imported when the first one is made, not with the package."""

from __future__ import annotations

import os
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
    """Import matplotlib, also if ``MPLBACKEND`` has a value that makes this import fail."""
    try:
        import matplotlib  # noqa: PLC0415
    except ValueError:
        backend = os.environ.pop("MPLBACKEND")
        try:
            import matplotlib  # noqa: F401, PLC0415
        finally:
            os.environ["MPLBACKEND"] = backend


def literal(text: str) -> str:
    """The text for a label, which shows it as it is: without mathematics, on one line, a box for a missing glyph."""
    _import_matplotlib()
    from matplotlib.font_manager import FontProperties, findfont, get_font  # noqa: PLC0415

    font = get_font(findfont(FontProperties()))
    shown = "".join(character if font.get_char_index(ord(character)) else "□" for character in text)
    # A legend leaves out labels that begin with an underscore.
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")
