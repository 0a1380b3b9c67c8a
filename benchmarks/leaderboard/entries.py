"""The entries: files that define one policy, a training, or several rules.

``NAME.json`` contains a policy (``{"policy": "patient:7"}``), the settings of a training, which are fields of
``paramarket_baselines.training.plan.Plan`` (``{"train": {"algo": "ppo"}}``), or rules that differ in their parameters
(``{"policies": ["patient:5+fixed:3", ...]}``). ``NAME.py`` defines ``policy(seat)``.

A policy that was trained elsewhere is ``{"policy": "learned:FOLDER"}``. The folder has a numbered folder for each
training, and ``{scenario}`` in its name stands for the scenario.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paramarket_baselines.evaluation.results import read_json
from paramarket_env.validation import require

LEARNED = "learned:"
KINDS = ("policy", "policies", "train")


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard."""

    name: str
    policy: str = ""
    """The textual form of a policy, or nothing if the leaderboard trains it."""
    settings: tuple[tuple[str, Any], ...] = ()
    """The settings of a training."""
    swept: bool = False
    """Whether it is one of many rules with other parameters. Only the best of them is shown."""

    @property
    def is_trained_here(self) -> bool:
        """Whether the leaderboard trains the policy."""
        return not self.policy

    @property
    def is_learned(self) -> bool:
        """Whether the policy has trainings."""
        return self.is_trained_here or self.policy.startswith(LEARNED)

    @property
    def is_rule(self) -> bool:
        """Whether the policy is a rule of this repository, and can thus be the best rule in hindsight."""
        return not self.is_learned and not self.policy.startswith("file:")


def read_entries(folder: Path) -> dict[str, Entry]:
    """All entries of a folder by name."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".py"))
    found = [entry for file in files for entry in _entries_of(file)]
    names = [entry.name for entry in found]
    require(len(set(names)) == len(names), "entries", names, "different names")
    return {entry.name: entry for entry in found}


def _entries_of(file: Path) -> Iterator[Entry]:
    if file.suffix == ".py":
        yield Entry(file.stem, f"file:{file}")
        return
    content = read_json(file)
    kinds = tuple(content) if isinstance(content, dict) else ()
    require(len(kinds) == 1 and kinds[0] in KINDS, str(file), content, f"an object with one of {', '.join(KINDS)}")
    if "policy" in content:
        yield Entry(file.stem, str(content["policy"]))
    elif "train" in content:
        yield Entry(file.stem, settings=tuple(_settings(content["train"]).items()))
    else:
        yield from (Entry(policy, policy, swept=True) for policy in content["policies"])


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a plan as JSON has them: its lists are tuples."""
    return {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}


def slug(name: str) -> str:
    """A name as part of a file's name: ``patient-5-fixed-3`` for ``patient:5+fixed:3``."""
    return re.sub(r"[^\w.]+", "-", name, flags=re.ASCII).strip("-")
