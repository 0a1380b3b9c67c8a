"""Saving results: folders with configuration, tables, summary and pictures, and JSON files with their provenance."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from paramarket_env import __version__
from paramarket_env.config import MarketConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Provenance = dict[str, Any]
"""``seeds``, ``device``, ``python``, ``versions`` and, unless results are compared byte by byte, ``date``."""


def provenance(seeds: Sequence[int], device: torch.device, *, dated: bool = True) -> Provenance:
    """The seeds, device and versions that figures depend on besides the configuration."""
    packages = ("torch", "numpy", "scipy", "gymnasium", "pettingzoo")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "seeds": list(seeds),
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "python": platform.python_version(),
        "versions": {"paramarket-env": __version__} | {package: version(package) for package in packages},
    } | ({"date": datetime.now(timezone.utc).isoformat(timespec="seconds")} if dated else {})


def machine(origin: Provenance) -> str:
    """The device and the version of torch, in one line."""
    return f"{origin['device']}, torch {origin['versions']['torch']}"


def claim_folder(folder: Path, *, overwrite: bool) -> None:
    """Make a folder for results. Raises ``FileExistsError`` if it exists and ``overwrite`` is false."""
    if folder.exists() and not overwrite:
        raise FileExistsError(f"out={str(folder)!r} exists already: choose another folder, or pass --overwrite")
    folder.mkdir(parents=True, exist_ok=True)


def write_results(
    folder: Path,
    config: MarketConfig,
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
    pictures: Mapping[str, Figure] | None = None,
) -> list[str]:
    """Write ``config.json``, each table as CSV, ``summary.json`` and each picture as PNG; returns the file names."""
    write_json(folder / "config.json", config)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    write_json(folder / "summary.json", summary)
    for name, picture in (pictures or {}).items():
        picture.savefig(folder / f"{name}.png")
    return [
        "config.json",
        *(f"{name}.csv" for name in tables),
        "summary.json",
        *(f"{name}.png" for name in pictures or {}),
    ]


def write_json(file: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file (see :func:`plain`) and make its folder; without ``indent``, the JSON is on one line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plain(content), indent=indent, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A value in JSON's types: dataclasses become objects, sequences lists, paths strings, and NaN null."""
    if isinstance(value, MarketConfig):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and isnan(value) else value
