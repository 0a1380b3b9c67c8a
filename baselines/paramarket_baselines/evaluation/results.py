"""Saving results: folders with configuration, tables, summary and pictures, and JSON files with their provenance."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from paramarket_env import __version__
from paramarket_env.config import MarketConfig
from paramarket_env.files import staged, write_file, write_together

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


def write_results(
    folder: Path,
    config: MarketConfig,
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
    pictures: Mapping[str, Figure] | None = None,
) -> list[str]:
    """Write ``config.json``, each table as CSV, each picture as PNG and ``summary.json``; returns the file names.

    The files replace those of before together. Results are complete if ``summary.json`` is there.
    """
    writers: dict[str, Callable[[Path], object]] = {
        "config.json": lambda file: file.write_text(_json(config)),
        **{f"{name}.csv": partial(table.to_csv, index=False) for name, table in tables.items()},
        **{f"{name}.png": picture.savefig for name, picture in (pictures or {}).items()},
        "summary.json": lambda file: file.write_text(_json(summary)),
    }
    write_together(folder, writers)
    return list(writers)


def write_json(file: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file (see :func:`plain`) and make its folder; without ``indent``, the JSON is on one line."""
    write_file(file, _json(content, indent))


def read_json(file: Path) -> Any:
    """The content of a JSON file; raises ``ValueError`` that names the file if it is not valid."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is not valid JSON: {error}") from error


def write_picture(file: Path, picture: Figure, **settings: Any) -> None:
    """Write a picture as PNG, with settings of matplotlib's ``savefig``."""
    with staged(file) as new:
        picture.savefig(new, format="png", **settings)


def _json(content: Any, indent: int | None = 2) -> str:
    return json.dumps(plain(content), indent=indent, allow_nan=False) + "\n"


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
