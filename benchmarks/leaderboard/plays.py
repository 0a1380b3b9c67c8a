"""Trainings and plays are independent jobs, whose results are stored in files of their own."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.leaderboard.fingerprints import fingerprint, fingerprints
from benchmarks.leaderboard.venue import Player, Populations, Training, Venue
from paramarket_baselines.evaluation.matches import play_matches, returns_outside
from paramarket_baselines.evaluation.protocol import met, trained_against
from paramarket_baselines.evaluation.results import machine, provenance, read_json, write_json
from paramarket_baselines.policies.learned import MANIFEST
from paramarket_baselines.training.sb3 import learn
from paramarket_env.market.devices import resolve_device

Stored = dict[str, Any]
"""A stored file in JSON's types."""

OUTSIDE = "out-of-market"
"""The player and the population of the returns out of the market."""

# --- trainings ------------------------------------------------------------------------------------------------------


def run_training(training: Training, device: str) -> Stored:
    """Train a policy, keep it in its folder, and return the course and the cost of the training.

    The folder is complete or not there: the training itself is in a folder next to it, which is removed at the end.
    ``hole`` says why the policy cannot be trained: the scenario refuses the plan, or an extra is missing.
    """
    workplace, began = training.folder.with_name(f"{training.folder.name}.unfinished"), time.monotonic()
    try:
        plan = training.plan
        steps = [0]
        learn(plan, workplace, device, lambda taken, _: steps.append(taken))
    except (ValueError, ImportError) as error:
        return {"hole": str(error)}
    opponents = {"against": fingerprints(plan.against)}
    cost = {"steps": steps[-1], "minutes": round((time.monotonic() - began) / 60, 2)}
    curve = pd.read_csv(workplace / "evaluations.csv")
    _move_policy(workplace, training.folder)
    origin = provenance([plan.seed], resolve_device(device))
    settings = {name: value for name, value in plan.to_dict().items() if name != "config"}
    return {"plan": settings, **origin, **opponents, **cost, "curve": curve.to_dict("list")}


def _move_policy(source: Path, target: Path) -> None:
    """Move a saved policy, its manifest last, and remove what else is there and what else the training has left."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in (*source.glob("weights*"), source / MANIFEST):
        shutil.move(file, target / file.name)
    shutil.rmtree(source)


# --- plays ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A player against some populations."""

    venue: Venue
    player: Player
    populations: Populations

    @property
    def file(self) -> Path:
        """The file of everything that the player has played."""
        return play_file(self.venue, self.player.name)


def play_file(venue: Venue, player: str) -> Path:
    """The file of a player's returns."""
    return venue.folder / "plays" / f"{player}.json"


def play_job(job: Job, device: str) -> Stored:
    """The returns of a player, ``[seats, seeds]`` for each population, or the reason why there are none: ``hole``."""
    venue = job.venue
    about = {**venue.stamp, "player": job.player.name, "policy": fingerprint(job.player.policy)}
    try:
        returns = _returns(job, device)
    except (ValueError, ImportError) as error:
        return {**about, "hole": str(error)}
    origin = provenance(venue.seeds, resolve_device(device), dated=False)
    kept = {name: np.round(found, 6).tolist() for name, found in returns.items()}
    return {**about, "met": _met(job), **origin, "against": _fingerprints(job.populations), "returns": kept}


def _returns(job: Job, device: str) -> dict[str, np.ndarray]:
    venue = job.venue
    if job.player.name == OUTSIDE:
        return {OUTSIDE: returns_outside(venue.config, venue.seeds, device)}
    return play_matches(venue.config, job.player.policy, job.populations, venue.seeds, device)


def _met(job: Job) -> list[str]:
    """The held-out populations that the player was trained against."""
    populations = {name: texts[0] for name, texts in job.venue.held_out.items()}
    return met(trained_against(job.player.policy), populations) if job.player.policy else []


def _fingerprints(populations: Populations) -> dict[str, list[str]]:
    return {name: fingerprints(texts) for name, texts in populations.items()}


def missing(job: Job, *, again: bool) -> list[Job]:
    """The job with the populations that are not played or are others by now, or nothing if there are none."""
    stored = _stored_of(job)
    if again or stored is None:
        return [job]
    known, now = stored.get("against", {}), _fingerprints(job.populations)
    left = {name: texts for name, texts in job.populations.items() if known.get(name) != now[name]}
    return [Job(job.venue, job.player, left)] if left and "hole" not in stored else []


def _stored_of(job: Job) -> Stored | None:
    """The stored plays of the same policy under the same conditions."""
    stored = read_json(job.file) if job.file.is_file() else {}
    same = is_current(stored, job.venue) and stored.get("policy") == fingerprint(job.player.policy)
    return stored if same else None


def is_current(stored: Stored, venue: Venue) -> bool:
    """Whether a file was made under this protocol, in this market and on these seeds."""
    return all(stored.get(name) == value for name, value in venue.stamp.items())


def keep(job: Job, played: Stored) -> None:
    """Store what was played next to what the player has played before. A hole does not replace returns.

    ``elsewhere`` names the machine of the populations that were met on another one than the last.
    """
    known = _stored_of(job) or {}
    if "returns" in known:
        if "hole" in played:
            return
        before = dict.fromkeys(known["returns"], machine(known)) | known.get("elsewhere", {})
        others = {name: at for name, at in before.items() if name not in played["returns"] and at != machine(played)}
        parts = {part: {**known[part], **played[part]} for part in ("against", "returns")}
        played = {**played, **parts, **({"elsewhere": others} if others else {})}
    write_json(job.file, played, indent=None)
