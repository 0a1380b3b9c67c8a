"""Played cells in a folder, each in a file of its own that is there completely or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.paper.cells import Cell, Result
from paramarket_baselines.evaluation.results import read_json, write_json


@dataclass(frozen=True)
class Store:
    """A folder of played cells by their hashes."""

    folder: Path

    def write(self, cell: Cell, result: Result) -> None:
        """Keep the result of a cell."""
        write_json(self._file(cell), {"cell": cell.label, **result}, indent=None)

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that are not played, each market once."""
        return list({cell.hash: cell for cell in cells if not self._file(cell).is_file()}.values())

    def table(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """The tidy table of the played cells, a row for each seed and agent."""
        frames = [_rows(cell, read_json(self._file(cell))) for cell in self._played(cells)]
        table: pd.DataFrame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        return table

    def _played(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        return (cell for cell in cells if self._file(cell).is_file())

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.hash}.json"


def _rows(cell: Cell, result: Result) -> pd.DataFrame:
    versions = " ".join(f"{package} {version}" for package, version in result["versions"].items())
    origin = {"config_hash": cell.hash, "device": result["device"], "versions": versions}
    columns: dict[str, Any] = {**cell.setting, "arm": cell.arm.name, **result["columns"], **origin}
    rows: pd.DataFrame = pd.DataFrame(columns)
    return rows
