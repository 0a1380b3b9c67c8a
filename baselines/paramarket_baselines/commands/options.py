"""Commands that play a market share options for its settings, and the folder of their results."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Annotated

import tyro
from rich.console import Console

from paramarket_baselines.evaluation.names import without_folders
from paramarket_env.files import expanded


@dataclass(frozen=True)
class MarketOptions:
    """The options that say where the settings of the market come from."""

    scenario: str = "digits"
    """The scenario that gives the defaults of the settings below: a name that `paramarket list` shows."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A file with these defaults instead of a scenario, such as the `config.json` of a run."""

    @property
    def market_name(self) -> str:
        """The scenario or the file that gives the defaults of the market."""
        return self.scenario if self.config_file is None else str(self.config_file)

    @property
    def shown_name(self) -> str:
        """The name without the folders of the file."""
        return without_folders([self.market_name])[0]


FOLDER_LENGTH = 100
"""Largest number of characters of a new folder's name, without the time."""


def result_folder(out: Path | None, name: str) -> Path:
    """The folder for results: the one that is given, or a new one under `runs/`."""
    if out is not None:
        return expanded(out)
    # The scenario may be the path of a file, which must not lead out of the folder.
    one_part = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:FOLDER_LENGTH]
    # Runs that begin in the same second have different folders.
    return Path("runs") / f"{one_part}-{datetime.now().strftime('%Y%m%d-%H%M%S')}-{token_hex(3)}"


def say_played(name: str, console: Console) -> None:
    """Report progress where there are no progress bars."""
    if not console.is_interactive:
        console.print(f"played {name}", soft_wrap=True)
