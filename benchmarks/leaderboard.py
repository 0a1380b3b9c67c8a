"""The leaderboard of policies, over all short scenarios: ``python -m benchmarks.leaderboard``.

Each file of ``benchmarks/entries/`` is a policy. ``NAME.json`` contains the name of a policy (``{"policy":
"patient:7"}``) or the settings of a training (``{"train": {"algo": "ppo"}}``: fields of
``paramarket_baselines.training.sb3.Plan``); ``NAME.py`` defines ``policy(seat)``. ``benchmarks/results/leaderboard/``
stores one JSON file for each scenario and policy. The command plays what is missing there, and makes the page and the
picture from all files. The page shows a dash for a policy that could not play, or that played in another
configuration.

Each policy plays in every seat against the populations of ``paramarket evaluate``, and against a trained one: the entry
``self-play``. Its policy for each scenario is in ``benchmarks/policies/``, so that all entries meet the same opponent.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.progress import track

from paramarket_baselines.evaluation.display import markdown, new_console
from paramarket_baselines.evaluation.estimates import STATISTICS, Estimate
from paramarket_baselines.evaluation.results import provenance, read_json, write_json, write_picture
from paramarket_baselines.evaluation.statistics import MEANS, POPULATIONS, evaluate, summary
from paramarket_baselines.files import expanded, write_file
from paramarket_baselines.policies.learned import MANIFEST
from paramarket_baselines.training.sb3 import TRAINING_OPPONENTS, learn, tuned
from paramarket_env.config import MarketConfig
from paramarket_env.market.engine import resolve_device
from paramarket_env.scenarios import SCENARIOS, scenario
from paramarket_env.validation import lookup

HERE = Path(__file__).parent
REFERENCE = "train"
"""The policy out of the market. The page shows the probability of improvement over it."""
PROBABILITY = f"P(> {REFERENCE})"
TRAINED = "self-play"
"""The entry that is also a population."""

HEAD = f"""# Leaderboard

`python -m benchmarks.leaderboard` makes this page from the runs in `leaderboard/`, which state their seeds, versions
and configuration. Every policy plays in every seat while one of {", ".join((*POPULATIONS, TRAINED))}
has all other seats, on the same seeds. The 95 % intervals are from a bootstrap stratified by seat and population.
Learned policies were trained against {", ".join(TRAINING_OPPONENTS)}; the other populations are new to them.
`{TRAINED}`, and in `crowd-short` every learned policy, was trained against copies of itself. Policies are ordered by
the probability of a higher return than that of `{REFERENCE}` on the same task, averaged over all scenarios. A dash
marks a missing result, which counts as 0; the scenario's table gives the reason.

To submit a policy, add one file to `benchmarks/entries/`: `NAME.py` with a function `policy(seat)` (see
[docs/examples.md](../../docs/examples.md)), or `NAME.json` with the settings of a training, such
as `{{"train": {{"algo": "ppo"}}}}`. Run `python -m benchmarks.leaderboard --entries NAME`, and send the file and the
runs that it stored.

![Mean returns with their intervals, scenario by scenario](leaderboard.png)"""


@dataclass(frozen=True)
class Leaderboard:
    """Play what is missing, and make the page."""

    entries: tuple[str, ...] = ()
    """Names of entries, which are files without their suffixes. Without any: all."""
    scenarios: tuple[str, ...] = tuple(name for name in SCENARIOS if name.endswith("-short"))
    """Names that `paramarket list` shows."""
    runs: int = 40
    """Number of runs of a policy against each population, over all seats, on seeds from 0 on."""
    folder: Path = HERE / "entries"
    """Folder of the entries."""
    out: Path = HERE / "results"
    """Folder for the runs, the page and the picture."""
    policies: Path = Path("benchmarks") / "policies"
    """Folder of the policies that are trained here."""
    again: bool = False
    """Play entries again whose results are stored."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""


def _config_hash(config: MarketConfig) -> str:
    """Twelve hex digits that identify a configuration."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def entries(folder: Path) -> dict[str, Path]:
    """The files that define a policy, by name; the reference comes first."""
    found = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".py")}
    lookup(found, REFERENCE, "entry")
    return {REFERENCE: found.pop(REFERENCE), **found}


def _settings(kept: dict[str, Any]) -> dict[str, Any]:
    """Fields of a plan as JSON has them: its lists are tuples."""
    return {field: tuple(value) if isinstance(value, list) else value for field, value in kept.items()}


def _policy_of(file: Path, name: str, options: Leaderboard) -> str:
    """The textual form of an entry's policy in a scenario. Trains the policy first if it is missing."""
    if file.suffix == ".py":
        return f"file:{file}"
    entry = read_json(file)
    if "policy" in entry:
        return str(entry["policy"])
    folder = options.policies / name / file.stem
    if not (folder / MANIFEST).is_file():
        learn(replace(tuned(name), **_settings(entry["train"])), folder, options.device)
    return f"learned:{folder}"


def play_entry(file: Path, name: str, options: Leaderboard) -> dict[str, Any]:
    """The runs of one entry in one scenario, in their stored form. It has no date, so that files can be compared."""
    config = scenario(name)
    seeds = range(math.ceil(options.runs / config.agents))
    trained = _policy_of(lookup(entries(options.folder), TRAINED, "entry"), name, options)
    runs = evaluate(config, [_policy_of(file, name, options)], (*POPULATIONS, trained), seeds, options.device)
    runs = runs.replace({"population": {trained: TRAINED}}).drop(columns="policy")
    origin = provenance(seeds, resolve_device(options.device), dated=False)
    table = json.loads(runs.to_json(orient="split", index=False, double_precision=9))
    return {"entry": file.stem, "scenario": name, "config_hash": _config_hash(config), **origin, "runs": table}


def _fill(options: Leaderboard) -> None:
    """Play what is not stored."""
    known = entries(options.folder)
    chosen = [lookup(known, name, "entry") for name in options.entries or known]
    tasks = [(file, name) for name in options.scenarios for file in chosen]
    for file, name in track(tasks, "entries and scenarios", console=new_console()):
        target = options.out / "leaderboard" / name / f"{file.stem}.json"
        if options.again or not target.is_file():
            write_json(target, play_entry(file, name, options), indent=None)


EXACT = (*STATISTICS, PROBABILITY)
"""Measures that are shown with their intervals."""

LABELS = {"mean": "mean return", **MEANS}

Board = dict[str, dict[str, Estimate] | str]
"""The estimates of every entry in a scenario, best first, or the reason why there are none."""


def _stored(file: Path, current: str) -> pd.DataFrame | str:
    """The runs of an entry, or the reason why there are none."""
    if not file.is_file():
        return "not played"
    stored = read_json(file)
    if stored["config_hash"] != current:
        return "played in another configuration"
    runs = pd.DataFrame(stored["runs"]["data"], columns=stored["runs"]["columns"]).assign(policy=file.stem)
    errors = sorted(set(runs.error) - {""})
    return str(errors[0]) if errors else runs


def standings(store: Path, name: str, names: Sequence[str]) -> Board:
    """The board of one scenario, from the stored runs."""
    found = {entry: _stored(store / name / f"{entry}.json", _config_hash(scenario(name))) for entry in names}
    played = [runs for runs in found.values() if isinstance(runs, pd.DataFrame)]
    missing = {entry: why for entry, why in found.items() if isinstance(why, str)}
    if REFERENCE in missing:
        return dict.fromkeys(names, f"{REFERENCE}: {missing[REFERENCE]}")
    estimates = summary(pd.concat(played, ignore_index=True))
    best = sorted(estimates, key=lambda entry: -estimates[entry]["mean"].value)
    return {**{entry: estimates[entry] for entry in best}, **missing}


def page(boards: dict[str, Board]) -> str:
    """The leaderboard in Markdown: a table of mean returns in all scenarios, then a table for each scenario."""
    names = sorted(
        dict.fromkeys(entry for board in boards.values() for entry in board), key=lambda entry: -_overall(boards, entry)
    )
    overall = {
        entry: [f"{_overall(boards, entry):.2f}", *(_brief(board.get(entry, "")) for board in boards.values())]
        for entry in names
    }
    parts = [HEAD, markdown(overall, [PROBABILITY, *boards], "policy")]
    for name, board in boards.items():
        measures = next((list(row) for row in board.values() if not isinstance(row, str)), ["mean"])
        rows = {entry: _cells(row, measures) for entry, row in board.items()}
        labels = [LABELS.get(measure, measure) for measure in measures]
        parts += [f"## {name}", markdown(rows, labels, "policy")]
    return "\n\n".join(parts) + "\n"


def _overall(boards: dict[str, Board], entry: str) -> float:
    """The probability of improvement over the reference, averaged over the scenarios; missing ones count as 0."""
    rows = [board.get(entry, "") for board in boards.values()]
    return sum(0.0 if isinstance(row, str) else row[PROBABILITY].value for row in rows) / len(rows)


def _brief(row: dict[str, Estimate] | str) -> str:
    return "–" if isinstance(row, str) else row["mean"].brief()


def _cells(row: dict[str, Estimate] | str, measures: Sequence[str]) -> list[str]:
    if isinstance(row, str):
        return [f"– ({row})"]
    return [str(row[measure]) if measure in EXACT else row[measure].brief() for measure in measures]


def draw(boards: dict[str, Board]) -> Figure:
    """Mean returns with their intervals, a panel for each scenario."""
    figure = Figure(figsize=(12, 3.2 * -(-len(boards) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(boards) // 2), 2, squeeze=False).flatten()
    for panel, (name, board) in zip(panels, boards.items(), strict=False):
        rows = [(entry, row["mean"]) for entry, row in board.items() if not isinstance(row, str)][::-1]
        for place, (_, mean) in enumerate(rows):
            panel.errorbar(
                mean.value,
                place,
                xerr=[[mean.value - mean.low], [mean.high - mean.value]],
                fmt="o",
                capsize=3,
                color="C0",
            )
        panel.set_yticks(range(len(rows)), [entry for entry, _ in rows])
        panel.set_title(name, loc="left", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    for panel in panels[len(boards) :]:
        panel.axis("off")
    figure.supxlabel("return of a seat, mean and 95 % interval")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Play what is missing, and make the page and the picture from all stored runs."""
    given = tyro.cli(Leaderboard, args=arguments)
    options = replace(given, folder=expanded(given.folder), out=expanded(given.out), policies=expanded(given.policies))
    for name in options.scenarios:
        scenario(name)  # refuse unknown names before playing
    _fill(options)
    names = list(entries(options.folder))
    boards = {name: standings(options.out / "leaderboard", name, names) for name in options.scenarios}
    write_file(options.out / "leaderboard.md", page(boards))
    write_picture(options.out / "leaderboard.png", draw(boards), dpi=100)
    new_console().print(f"made {options.out / 'leaderboard.md'} and leaderboard.png", highlight=False)


if __name__ == "__main__":
    main()
