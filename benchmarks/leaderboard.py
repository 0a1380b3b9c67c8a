"""The leaderboard of policies, over all short scenarios: ``python -m benchmarks.leaderboard``.

Each file of ``benchmarks/entries/`` is a policy. ``NAME.json`` contains the name of a policy (``{"policy":
"patient:7"}``) or the settings of a training (``{"train": {"algo": "ppo"}}``: fields of
``paramarket_baselines.training.sb3.Plan``); ``NAME.py`` defines ``policy(seat)``. ``benchmarks/results/leaderboard/``
stores one JSON file for each scenario and policy. The command plays what is missing there, and makes the page and the
picture from all files. The page shows a dash for a policy that could not play, or that played in another
configuration.

Each policy plays in every seat against the populations of ``paramarket evaluate``, and against a trained one: the entry
``self-play``. Its policy for each scenario is in ``benchmarks/policies/``, so that all entries meet the same opponent.

A policy is good against what it was trained against. The page therefore compares each learned policy with the best
rule twice: against the opponents of its training, and against populations that its training did not meet.
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

from paramarket_baselines.evaluation.display import markdown, new_console, table
from paramarket_baselines.evaluation.estimates import STATISTICS, Estimate, mean, probability_of_improvement
from paramarket_baselines.evaluation.results import provenance, read_json, write_json, write_picture
from paramarket_baselines.evaluation.statistics import MEANS, POPULATIONS, evaluate, scores, summary
from paramarket_baselines.policies.learned import MANIFEST
from paramarket_baselines.training.sb3 import TRAINING_OPPONENTS, learn, tuned
from paramarket_env.config import MarketConfig
from paramarket_env.files import expanded, write_file
from paramarket_env.market.devices import resolve_device
from paramarket_env.scenarios import SCENARIOS, scenario
from paramarket_env.validation import lookup

HERE = Path(__file__).parent
REFERENCE = "train"
"""The policy out of the market. The page shows the probability of improvement over it."""
PROBABILITY = f"P(> {REFERENCE})"
TRAINED = "self-play"
"""The entry that is also a population."""
HELD_OUT = tuple(name for name in (*POPULATIONS, TRAINED) if name not in TRAINING_OPPONENTS)
"""The populations that the default training does not meet."""
MET, NEW = "training opponents", "held out"
"""The labels of the mean returns against the opponents of a training and against held-out populations."""
NEW_PROBABILITY = f"{PROBABILITY}, {NEW}"
LEAD = {group: f"{group}: lead" for group in (MET, NEW)}
"""The measures, by group, of an entry's mean return minus that of the best rule."""

HEAD = f"""# Leaderboard

`python -m benchmarks.leaderboard` makes this page from the runs in `leaderboard/`, which state their seeds, versions
and configuration. Every policy plays in every seat while one of {", ".join((*POPULATIONS, TRAINED))}
has all other seats, on the same seeds. The 95 % intervals are over seeds, since a seed is the same market in every task
([how](../../docs/evaluation.md#intervals)). Policies are ordered by the probability of a higher return than that of
`{REFERENCE}` on the same task and seed, averaged over all scenarios. A dash marks a missing result, which counts as 0
in that average; the scenario's table gives the reason.

Learned policies were trained against {", ".join(TRAINING_OPPONENTS)}. The populations {" and ".join(HELD_OUT)} are
held out: no training of another entry met them. `{TRAINED}`, and in `crowd-short` every learned policy, was trained
against copies of itself. *{MET}* and *{NEW}* are the mean returns against the two groups.
For a rule the first group is the opponents of the default training. An average over all populations mixes both groups,
so it says less about a learned policy than the column *{NEW}*.

To submit a policy, add one file to `benchmarks/entries/`: `NAME.py` with a function `policy(seat)` (see
[docs/examples.md](../../docs/examples.md)), or `NAME.json` with the settings of a training, such
as `{{"train": {{"algo": "ppo"}}}}`. Run `python -m benchmarks.leaderboard --entries NAME`, and send the file and the
runs that it stored.

![Mean returns with their intervals, scenario by scenario](leaderboard.png)"""

LEADS = f"""## Learned policies and the best rule

Mean return of a learned policy minus that of the best rule, paired by seat, population and seed, with 95 % intervals
over seeds. The best rule is the one with the highest mean return in these runs, separately in each cell. It is thus
chosen with hindsight, which favours it a little. A dash under *{MET}* says that the policy met none of
the populations in training. The row *above the best rule* counts the scenarios in which the difference is positive."""


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
    kept = json.loads(runs.to_json(orient="split", index=False, double_precision=9))
    return {"entry": file.stem, "scenario": name, "config_hash": _config_hash(config), **origin, "runs": kept}


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


def standings(store: Path, name: str, known: dict[str, Path]) -> Board:
    """The board of one scenario, from the stored runs of the known entries."""
    found = {entry: _stored(store / name / f"{entry}.json", _config_hash(scenario(name))) for entry in known}
    reference = found[REFERENCE]
    if isinstance(reference, str):
        return dict.fromkeys(known, f"{REFERENCE}: {reference}")
    found = {entry: _on_same_seeds(runs, reference) for entry, runs in found.items()}
    runs = pd.concat([played for played in found.values() if isinstance(played, pd.DataFrame)], ignore_index=True)
    missing = {entry: why for entry, why in found.items() if isinstance(why, str)}
    estimates = summary(runs)
    best = sorted(estimates, key=lambda entry: -estimates[entry]["mean"].value)
    met = {entry: training_opponents(known[entry], name) for entry in best}
    rules = [entry for entry in best if met[entry] is None]
    return {**{entry: estimates[entry] | _by_group(runs, entry, met[entry], rules) for entry in best}, **missing}


def _on_same_seeds(runs: pd.DataFrame | str, reference: pd.DataFrame) -> pd.DataFrame | str:
    """The runs, or the reason why they cannot be compared with the reference."""
    if isinstance(runs, str) or set(runs.seed) == set(reference.seed):
        return runs
    return f"played on other seeds than {REFERENCE}"


def training_opponents(file: Path, name: str) -> tuple[str, ...] | None:
    """The policies that a learned entry met in training, or None for a rule. Of an entry in Python none are known."""
    entry = json.loads(file.read_text()) if file.suffix == ".json" else {}
    if "train" in entry:
        return replace(tuned(name), **_settings(entry["train"])).against or (file.stem,)
    return () if entry.get("policy", "learned:").startswith("learned:") else None


def _by_group(runs: pd.DataFrame, entry: str, met: tuple[str, ...] | None, rules: Sequence[str]) -> dict[str, Estimate]:
    """An entry's results against the opponents of its training and against held-out populations."""
    new = set(HELD_OUT) - set(met or ())
    groups = {MET: runs[runs.population.isin(TRAINING_OPPONENTS if met is None else met)]}
    groups[NEW] = runs[runs.population.isin(new)]
    mine, reference = (scores(groups[NEW], policy) for policy in (entry, REFERENCE))
    return {
        **{group: mean(scores(rows, entry)) for group, rows in groups.items()},
        NEW_PROBABILITY: probability_of_improvement(mine, reference),
        **{LEAD[group]: _lead(rows, entry, rules) for group, rows in groups.items()},
    }


def _lead(runs: pd.DataFrame, entry: str, rules: Sequence[str]) -> Estimate:
    """The return of an entry minus that of the best rule, paired by seat, population and seed."""
    best = max((scores(runs, rule) for rule in rules), key=lambda found: mean(found).value)
    return mean(scores(runs, entry) - best)


def page(boards: dict[str, Board], learned: Sequence[str]) -> str:
    """The leaderboard in Markdown: all scenarios, the learned policies and the best rule, then each scenario."""
    names = sorted(
        dict.fromkeys(entry for board in boards.values() for entry in board),
        key=lambda entry: -_overall(boards, entry, PROBABILITY),
    )
    overall = {
        entry: [
            *(f"{_overall(boards, entry, measure):.2f}" for measure in (PROBABILITY, NEW_PROBABILITY)),
            *(_brief(board.get(entry, "")) for board in boards.values()),
        ]
        for entry in names
    }
    parts = [HEAD, markdown(overall, [PROBABILITY, NEW_PROBABILITY, *boards], "policy"), LEADS]
    for entry in learned:
        parts += [f"### {entry}", markdown(leads(boards, entry), list(LEAD), "scenario")]
    for name, board in boards.items():
        measures = next((list(row) for row in board.values() if not isinstance(row, str)), ["mean"])
        measures = [measure for measure in measures if measure not in (NEW_PROBABILITY, *LEAD.values())]
        rows = {entry: _cells(row, measures) for entry, row in board.items()}
        labels = [LABELS.get(measure, measure) for measure in measures]
        parts += [f"## {name}", markdown(rows, labels, "policy")]
    return "\n\n".join(parts) + "\n"


def leads(boards: dict[str, Board], entry: str) -> dict[str, list[str]]:
    """An entry's lead over the best rule in each scenario, by group, and the number of scenarios in which it leads."""
    rows = {name: row for name, board in boards.items() if not isinstance(row := board.get(entry, ""), str)}
    found = {group: [row[measure] for row in rows.values()] for group, measure in LEAD.items()}
    above = [_count_above(estimates) for estimates in found.values()]
    by_scenario = zip(*([str(one) for one in estimates] for estimates in found.values()), strict=True)
    return {**dict(zip(rows, map(list, by_scenario), strict=True)), "above the best rule": above}


def _count_above(estimates: Sequence[Estimate]) -> str:
    given = [estimate.value for estimate in estimates if not math.isnan(estimate.value)]
    return f"{sum(value > 0 for value in given)} of {len(given)}"


def _overall(boards: dict[str, Board], entry: str, measure: str) -> float:
    """A probability of improvement over the reference, averaged over the scenarios; missing ones count as 0."""
    rows = [board.get(entry, "") for board in boards.values()]
    return sum(0.0 if isinstance(row, str) else row[measure].value for row in rows) / len(rows)


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
        for place, (_, found) in enumerate(rows):
            panel.errorbar(
                found.value,
                place,
                xerr=[[found.value - found.low], [found.high - found.value]],
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
    known, console = entries(options.folder), new_console()
    boards = {name: standings(options.out / "leaderboard", name, known) for name in options.scenarios}
    learned = [entry for entry, file in known.items() if training_opponents(file, options.scenarios[0]) is not None]
    write_file(options.out / "leaderboard.md", page(boards, learned))
    write_picture(options.out / "leaderboard.png", draw(boards), dpi=100)
    for entry in learned:
        console.print(table(leads(boards, entry), list(LEAD), f"{entry}: mean return minus that of the best rule"))
    console.print(f"made {options.out / 'leaderboard.md'} and leaderboard.png")


if __name__ == "__main__":
    main()
