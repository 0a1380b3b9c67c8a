"""Docstrings on the site: Sphinx's roles, such as ``:meth:``, are shown as the code that they name."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Takes the roles out of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object of the packages."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r":(?:meth|func|class|data|mod):(`[^`]+`)", r"\1", obj.docstring.value)
