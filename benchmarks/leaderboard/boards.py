"""The standings of one scenario, from what is stored: headlines, leads, payoffs and what a best response takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import inf, isnan
from pathlib import Path

import numpy as np

from benchmarks.leaderboard.entries import Entry, slug
from benchmarks.leaderboard.plays import OUTSIDE, Stored, is_current, play_file
from benchmarks.leaderboard.venue import RESPONSES, Venue, population_of
from paramarket_baselines.evaluation import trainings
from paramarket_baselines.evaluation.estimates import MISSING, Estimate
from paramarket_baselines.evaluation.protocol import (
    PROTOCOL,
    TRAINING_SET,
    TRAININGS,
    Anchor,
    best_response,
    headline,
    lead,
)
from paramarket_baselines.evaluation.results import read_json, write_json
from paramarket_baselines.evaluation.trainings import Trainings
from paramarket_baselines.games.payoffs import Payoffs
from paramarket_env.validation import require

SEALED = "sealed "
"""The beginning of the names of sealed populations, which are numbered."""

TRAINED = "trained best response"
"""The name of a best response that was trained for its purpose."""

Returns = dict[str, Trainings]
"""The returns against each population by name, ``[trainings, seats, seeds]``."""


@dataclass(frozen=True, eq=False)
class Board:
    """The stored results of the entries in one scenario."""

    venue: Venue
    entries: Mapping[str, Entry]
    returns: Mapping[str, Returns]
    """The returns of every entry that has played."""
    responses: Mapping[str, Returns]
    """The returns of the best response to a population against it, by the population."""
    outside: np.ndarray | None
    """The returns out of the market, ``[seats, seeds]``."""
    holes: Mapping[str, str]
    """The reasons why entries have no headline."""

    @cached_property
    def anchors(self) -> dict[str, Anchor]:
        """The anchors that are fixed, by population; none if they are of another protocol, market or other seeds."""
        stored = read_json(anchors_file(self.venue)) if anchors_file(self.venue).is_file() else {}
        fixed = stored["anchors"] if is_current(stored, self.venue) else {}
        return {name: Anchor(anchor["gain"], anchor["by"]) for name, anchor in fixed.items()}

    @property
    def sets(self) -> dict[str, list[str]]:
        """The populations of each set by its name."""
        sealed = sorted(name for name in self.anchors if name.startswith(SEALED))
        return {"held out": list(self.venue.held_out), "training set": list(TRAINING_SET), "sealed": sealed}

    @cached_property
    def complete(self) -> list[str]:
        """The entries that have a headline, best first."""
        found = [name for name in self.entries if name not in self.holes]
        return sorted(found, key=lambda name: -np.nan_to_num(self.headline(name).value, nan=-inf))

    @property
    def shown(self) -> list[str]:
        """The entries of the tables, best first: of the swept rules only the best."""
        swept = [name for name in self.complete if self.entries[name].swept]
        return [name for name in self.complete if name not in swept[1:]]

    def advantages(self, entry: str, populations: Iterable[str]) -> Returns:
        """The returns of an entry less those out of the market, against those of the populations that it has met."""
        assert self.outside is not None
        played = self.returns[entry]
        return {name: played[name] - self.outside for name in populations if name in played}

    def headline(self, entry: str, populations: str = "held out") -> Estimate:
        """The mean scaled score against a set of populations; missing if some of them are not played."""
        chosen = self.sets[populations]
        found = self.advantages(entry, chosen)
        whole = chosen and len(found) == len(chosen) and all(name in self.anchors for name in chosen)
        return headline(found, self.anchors) if whole else MISSING

    def mean_return(self, entry: str) -> Estimate:
        """The mean return against the held-out populations, in units of reward."""
        return trainings.mean(np.concatenate([self.returns[entry][name] for name in self.sets["held out"]], axis=1))

    @cached_property
    def rules(self) -> list[str]:
        """The rules that have a headline, best first."""
        return [name for name in self.complete if self.entries[name].is_rule]

    @cached_property
    def best_rule(self) -> str | None:
        """The rule with the highest headline: the best in hindsight."""
        return next((name for name in self.rules if not isnan(self.headline(name).value)), None)

    def lead(self, entry: str) -> Estimate:
        """The headline of an entry minus that of the best rule, paired by population, seat and seed."""
        if self.best_rule is None or isnan(self.headline(entry).value):
            return MISSING
        mine, theirs = (self.advantages(name, self.sets["held out"]) for name in (entry, self.best_rule))
        return lead(mine, theirs, self.anchors)

    # --- the game between the entries --------------------------------------------------------------------------------

    def population(self, entry: str) -> str:
        """The name of the population that consists of an entry."""
        return population_of(self.entries[entry], len(next(iter(self.returns[entry].values()))))

    @cached_property
    def strategies(self) -> tuple[str, ...]:
        """The entries that have met each other, without swept ones."""
        chosen = [name for name in self.complete if not self.entries[name].swept]
        while strangers := Counter(
            name for pair in product(chosen, repeat=2) if not self._have_met(*pair) for name in pair
        ):
            chosen.remove(strangers.most_common(1)[0][0])
        return tuple(chosen)

    def _have_met(self, mine: str, theirs: str) -> bool:
        return self.population(theirs) in self.returns[mine]

    @cached_property
    def by_seed(self) -> list[Payoffs]:
        """The payoffs of each seed: the mean return of one seat with a strategy while all others have another one."""
        names = self.strategies
        cells = [[self.returns[mine][self.population(theirs)].mean((0, 1)) for theirs in names] for mine in names]
        return [Payoffs(names, 2, table) for table in np.moveaxis(np.array(cells), 2, 0)]

    @cached_property
    def payoffs(self) -> Payoffs:
        """The payoffs, which are means over the seeds."""
        return Payoffs(self.strategies, 2, np.mean([payoffs.table for payoffs in self.by_seed], axis=0))

    def exploitability(self, entry: str) -> tuple[Estimate, str]:
        """The amount that the best of all known responses takes from an entry, and the name of that response.

        It is the response's return minus the entry's own, both against copies of the entry: a lower bound.
        """
        if entry not in self.complete or not self._have_met(entry, entry):
            return MISSING, ""
        population = self.population(entry)
        responses = {name: self.returns[name][population] for name in self.complete if self._have_met(name, entry)}
        if population in self.responses:
            responses[TRAINED] = self.responses[population][population]
        by = max(responses, key=lambda name: float(responses[name].mean()))
        return trainings.difference(responses[by], responses[entry]), by


def read_board(venue: Venue, entries: Mapping[str, Entry]) -> Board:
    """The board of a scenario, from the stored plays of the entries."""
    stored = {name: stored_plays(venue, entry) for name, entry in entries.items()}
    outside = _outside(venue)
    reasons = {name: _hole(venue, entries[name], plays) for name, plays in stored.items()}
    if outside is None:
        reasons = dict.fromkeys(entries, "the returns out of the market are not played")
    return Board(
        venue,
        entries,
        {name: _returns(plays) for name, plays in stored.items() if _is_played(venue, plays)},
        _responses(venue),
        outside,
        {name: reason for name, reason in reasons.items() if reason},
    )


def _outside(venue: Venue) -> np.ndarray | None:
    """The returns out of the market, if they are played."""
    found = _read(venue, OUTSIDE)
    return np.array(found["returns"][OUTSIDE]) if found is not None and _is_played(venue, [found]) else None


def _read(venue: Venue, player: str) -> Stored | None:
    file = play_file(venue, player)
    return read_json(file) if file.is_file() else None


def stored_plays(venue: Venue, entry: Entry) -> list[Stored]:
    """The stored plays of an entry's players."""
    name = slug(entry.name)
    if not entry.is_learned:
        found = _read(venue, name)
        return [] if found is None else [found]
    files = play_file(venue, name).parent.glob(f"{name}.*.json")
    numbers = sorted(int(part) for file in files if (part := file.name[len(name) + 1 : -len(".json")]).isdecimal())
    return [read_json(play_file(venue, f"{name}.{number}")) for number in numbers]


def _is_played(venue: Venue, plays: Sequence[Stored]) -> bool:
    return bool(plays) and all(is_current(play, venue) and "returns" in play for play in plays)


def _returns(plays: Sequence[Stored]) -> Returns:
    """The returns against the populations that all of the players have met."""
    common = [name for name in plays[0]["returns"] if all(name in play["returns"] for play in plays)]
    return {name: np.array([play["returns"][name] for play in plays]) for name in common}


def _responses(venue: Venue) -> dict[str, Returns]:
    files = sorted(play_file(venue, "x").parent.glob(f"{RESPONSES}.*.json"))
    plays = [play for file in files if _is_played(venue, [play := read_json(file)])]
    return {name: _returns([play]) for play in plays for name in play["returns"]}


def _hole(venue: Venue, entry: Entry, plays: Sequence[Stored]) -> str:
    """Why an entry has no headline, or an empty text."""
    needed = TRAININGS if entry.is_learned else 1
    for play in plays:
        if reason := _refusal(venue, play):
            return reason
    if len(plays) < needed:
        return f"{len(plays)} of {needed} trainings" if entry.is_learned else "not played"
    left = [name for name in venue.held_out if name not in _returns(plays)]
    return f"not played against {', '.join(left)}" if left else ""


def _refusal(venue: Venue, play: Stored) -> str:
    """Why a player's runs cannot count, or an empty text."""
    if play.get("protocol") != PROTOCOL:
        return f"played under protocol {play.get('protocol', 1)} instead of {PROTOCOL}"
    if not is_current(play, venue):
        return "played in another configuration or on other seeds"
    if "hole" in play:
        return str(play["hole"])
    return f"was trained against {', '.join(play['met'])}, which is held out" if play["met"] else ""


# --- anchors --------------------------------------------------------------------------------------------------------


def anchors_file(venue: Venue) -> Path:
    """The file of a scenario's anchors."""
    return venue.folder / "anchors.json"


def fix_anchors(board: Board, only: str = "") -> None:
    """Fix the anchors of the populations whose names begin with ``only``, from all that is stored.

    The file states who was best and the budget of the trained best response. Later entries move no anchor.
    """
    venue, file = board.venue, anchors_file(board.venue)
    before = read_json(file) if file.is_file() else {}
    kept = before.get("anchors", {}) if only and is_current(before, venue) else {}
    names = dict.fromkeys(name for played in board.returns.values() for name in played if name.startswith(only))
    allowed = (*venue.held_out, *TRAINING_SET)
    new = {name: _anchor(board, name) for name in names if name in allowed or name.startswith(SEALED)}
    require(bool(new), "scenarios", venue.name, "played before its anchors are fixed")
    write_json(file, {**venue.stamp, "anchors": {**kept, **new}})


def _anchor(board: Board, population: str) -> Stored:
    """The anchor of a population with its provenance."""
    assert board.outside is not None
    found = {name: played[population] for name, played in board.returns.items() if population in played}
    response = board.responses.get(population, {}).get(population)
    if response is not None:
        found[TRAINED] = response
    anchor = best_response({name: returns - board.outside for name, returns in found.items()})
    record = board.venue.folder / "trainings" / f"{RESPONSES}.{slug(population)}.json"
    trained = {key: value for key, value in read_json(record).items() if key != "curve"} if record.is_file() else None
    own = None if response is None else float((response - board.outside).mean())
    return {"gain": anchor.gain, "by": anchor.by, "gain_of_best_response": own, "best_response": trained}
