"""Results that are kept: folders, JSON, and where they come from."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from paramarket_baselines.evaluation.estimates import Estimate
from paramarket_baselines.evaluation.results import machine, plain, provenance, write_json, write_results
from paramarket_env.market.devices import resolve_device
from tests.helpers import priced_market


def test_a_folder_holds_configuration_tables_summary_and_pictures(tmp_path: Path) -> None:
    tables = {"steps": pd.DataFrame({"cycle": [0, 1]}), "trades": pd.DataFrame({"price": [5]})}
    summary = {"arms": {"train": {"return": Estimate(1.5)}}, **provenance(range(3), resolve_device("cpu"))}
    names = write_results(tmp_path, priced_market(), tables, summary, {"curves": Figure()})
    assert names == ["config.json", "steps.csv", "trades.csv", "curves.png", "summary.json"]
    assert {file.name for file in tmp_path.iterdir()} == set(names)
    assert json.loads((tmp_path / "config.json").read_text())["economy"]["ask_levels"] == [0, 10, 25, 60]
    assert pd.read_csv(tmp_path / "steps.csv").cycle.tolist() == [0, 1]
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept["arms"]["train"]["return"] == {"value": 1.5, "low": None, "high": None}
    assert kept["seeds"] == [0, 1, 2]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_provenance_names_device_and_versions_and_a_date_unless_results_are_compared() -> None:
    origin = provenance([0], resolve_device("cpu"))
    assert {"torch", "paramarket-env"} <= set(origin["versions"])
    assert "date" in origin
    assert "date" not in provenance([0], resolve_device("cpu"), dated=False)
    assert machine(origin) == f"{origin['device']}, torch {origin['versions']['torch']}"


def test_json_has_plain_types_and_null_for_what_is_missing(tmp_path: Path) -> None:
    content = {"estimate": Estimate(nan), "seeds": range(2), "folder": Path("runs"), "deep": [(nan, 1.0)], "text": "x"}
    expected = {
        "estimate": {"value": None, "low": None, "high": None},
        "seeds": [0, 1],
        "folder": "runs",
        "deep": [[None, 1.0]],
        "text": "x",
    }
    assert plain(content) == expected
    write_json(tmp_path / "new" / "folder" / "file.json", content, indent=None)
    [line] = (tmp_path / "new" / "folder" / "file.json").read_text().splitlines()
    assert json.loads(line) == expected
