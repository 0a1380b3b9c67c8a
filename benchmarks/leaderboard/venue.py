"""A venue: one scenario with its seeds, its populations and the files of its players."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.leaderboard.entries import LEARNED, Entry, slug
from benchmarks.leaderboard.fingerprints import fingerprints
from paramarket_baselines.evaluation.protocol import HELD_OUT_LEARNED, PROTOCOL, TRAINING_SET, held_out_rules
from paramarket_baselines.evaluation.results import read_json
from paramarket_baselines.policies.learned import MANIFEST, trainings_of
from paramarket_baselines.training.plan import Plan, tuned, tuned_league
from paramarket_env.config import MarketConfig
from paramarket_env.scenarios import scenario

Populations = dict[str, list[str]]
"""The policies of each population by its name: one, or the trainings of one policy."""

OPPONENTS: dict[str, dict[str, Any]] = {
    "self-play": {"timesteps": 100_000, "against": ()},
    "exploiter": {"algo": "a2c", "timesteps": 60_000, "seed": 1, "against": ("patient:11",)},
}
"""The trainings of the held-out learned policies. The exploiter has another algorithm and opponent than any entry."""

BEST_RESPONSE: dict[str, Any] = {
    "league": True,
    "candidates": 1,
    "timesteps": 60_000,
    "num_markets": 192,
    "seed": 0,
}
"""The training of a best response: a league whose only opponents are the policies of the population. All have the
same budget. In so short a training, more markets would leave too few updates."""

RESPONSES = "best-responses"
"""The folder of the best responses, and the first part of their names."""


@dataclass(frozen=True)
class Player:
    """A rule, one training of an entry, or one best response. Each has a name, and a file of its own."""

    name: str
    """The name of its file, without a suffix."""
    policy: str


@dataclass(frozen=True)
class Training:
    """A training that the leaderboard runs and keeps."""

    scenario: str
    settings: Mapping[str, Any]
    """The fields of the plan that differ from those of the scenario's own."""
    folder: Path
    record: Path
    """The file of its course and cost."""

    @property
    def plan(self) -> Plan:
        """The plan. Raises ``ValueError`` if the scenario refuses the settings."""
        league = self.settings.get("league", False)
        plan = tuned_league(scenario(self.scenario), self.scenario) if league else tuned(self.scenario)
        return replace(plan, **self.settings)

    @property
    def is_complete(self) -> bool:
        """Whether the policy is there, and was trained against the opponents as they are now."""
        if not (self.folder / MANIFEST).is_file():
            return False
        now = fingerprints(self.plan.against)
        return not self.record.is_file() or read_json(self.record).get("against") == now


@dataclass(frozen=True)
class Venue:
    """A scenario in which the entries play."""

    name: str
    runs: int
    """Number of runs of a player against each population, over all seats."""
    store: Path
    """Folder of all scenarios' results."""
    policies: Path
    """Folder of all scenarios' policies."""
    sealed: Populations = field(default_factory=dict)
    """The sealed populations, if they are opened."""

    @cached_property
    def config(self) -> MarketConfig:
        """The market."""
        return scenario(self.name)

    @property
    def seeds(self) -> range:
        """The seeds of the market."""
        return range(math.ceil(self.runs / self.config.agents))

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return self.store / self.name

    @cached_property
    def stamp(self) -> dict[str, Any]:
        """The protocol, the market and the seeds, which two plays must share to be compared."""
        content = json.dumps(self.config.to_dict(), sort_keys=True)
        market = hashlib.sha256(content.encode()).hexdigest()[:12]
        return {"protocol": PROTOCOL, "scenario": self.name, "config_hash": market, "seeds": list(self.seeds)}

    # --- populations -------------------------------------------------------------------------------------------------

    @cached_property
    def families(self) -> dict[str, str]:
        """The families of the held-out populations."""
        return {**held_out_rules(self.config), **HELD_OUT_LEARNED}

    @property
    def held_out(self) -> Populations:
        """The held-out populations."""
        rules = {rule: [rule] for rule in held_out_rules(self.config)}
        return rules | {name: [f"{LEARNED}{self.policies / self.name / name}"] for name in HELD_OUT_LEARNED}

    @property
    def populations(self) -> Populations:
        """All populations of the protocol."""
        return {**{name: [name] for name in TRAINING_SET}, **self.held_out, **self.sealed}

    # --- players -----------------------------------------------------------------------------------------------------

    def players(self, entry: Entry) -> list[Player]:
        """The players of an entry: one, or its trainings that are complete."""
        if not entry.is_learned:
            return [Player(slug(entry.name), entry.policy)]
        given = entry.policy.replace("{scenario}", self.name) or f"{LEARNED}{self.policies / self.name / entry.name}/*"
        found = trainings_of(given)
        if found == [given]:
            return [] if entry.is_trained_here else [Player(f"{entry.name}.0", given)]
        return [Player(f"{entry.name}.{Path(policy).name}", policy) for policy in found]

    def trainings(self, entry: Entry, count: int) -> list[Training]:
        """The first trainings of an entry; none if it is not trained here."""
        settings = dict(entry.settings)
        first = int(settings.get("seed", 0))
        seeds = range(first, first + count if entry.is_trained_here else first)
        return [self._training(f"{entry.name}/{seed}", {**settings, "seed": seed}) for seed in seeds]

    def opponents(self) -> list[Training]:
        """The trainings of the held-out learned policies."""
        return [self._training(name, settings) for name, settings in OPPONENTS.items()]

    def best_response(self, population: str, policies: Sequence[str]) -> Training:
        """The training against one population alone."""
        settings = {**BEST_RESPONSE, "against": tuple(policies)}
        return self._training(f"{RESPONSES}/{slug(population)}", settings)

    def responder(self, population: str, policies: Sequence[str]) -> Player:
        """The player that is the best response to a population."""
        return Player(f"{RESPONSES}.{slug(population)}", f"{LEARNED}{self.best_response(population, policies).folder}")

    def _training(self, folder: str, settings: dict[str, Any]) -> Training:
        record = self.folder / "trainings" / f"{folder.replace('/', '.')}.json"
        return Training(self.name, settings, self.policies / self.name / folder, record)


def population_of(entry: Entry, players: int) -> str:
    """The name of the population that consists of an entry's players. A rule may be one of the protocol's too."""
    return entry.policy if entry.is_rule else f"entry {entry.name} ({players})"
