"""The leaderboard: ``python -m benchmarks.leaderboard``.

It trains and plays what is missing, and makes the page and the pictures from all that is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tyro
from rich.progress import track

from benchmarks.leaderboard.boards import fix_anchors, read_board, stored_plays
from benchmarks.leaderboard.entries import Entry, read_entries
from benchmarks.leaderboard.page import page
from benchmarks.leaderboard.pictures import draw_curves, draw_payoffs
from benchmarks.leaderboard.plays import OUTSIDE, Job, keep, missing, play_job, run_training
from benchmarks.leaderboard.venue import Player, Populations, Training, Venue, population_of
from benchmarks.runner import Runner
from paramarket_baselines.evaluation.display import new_console
from paramarket_baselines.evaluation.protocol import TRAININGS
from paramarket_baselines.evaluation.results import write_json, write_picture
from paramarket_env.files import expanded, write_file
from paramarket_env.scenarios import SCENARIOS, scenario
from paramarket_env.validation import lookup, require

HERE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Leaderboard:
    """Train and play what is missing, and make the page."""

    entries: tuple[str, ...] = ()
    """Names of the entries to train and to play. Without any: all."""
    scenarios: tuple[str, ...] = tuple(name for name in SCENARIOS if name.endswith("-short"))
    """Names that `paramarket list` shows."""
    trainings: int = TRAININGS
    """Number of trainings of a learned entry."""
    exploit: tuple[str, ...] = ()
    """Names of entries against which a best response is trained, for their exploitability."""
    runs: int = 80
    """Number of runs of a player against each population, over all seats, on seeds from 0 on."""
    fix_anchors: bool = False
    """Fix the upper anchors of these scenarios from all that is stored. This moves all scores."""
    page_only: bool = False
    """Train and play nothing."""
    again: bool = False
    """Play again what is stored."""
    folder: Path = HERE / "entries"
    """Folder of the entries."""
    out: Path = HERE / "results"
    """Folder for the results, the page and the pictures."""
    policies: Path = Path("benchmarks") / "policies"
    """Folder of the policies that are trained here. All machines of a Ray cluster must share it."""
    ray: str | None = None
    """Address of a Ray cluster, such as `auto`. None: this machine."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        require(self.trainings >= 0, "trainings", self.trainings, "an integer >= 0")
        require(self.runs >= 1, "runs", self.runs, "an integer >= 1")
        for name in self.scenarios:
            scenario(name)  # refuse unknown names before playing

    def venues(self, names: Iterable[str]) -> list[Venue]:
        """The scenarios of these names."""
        return [Venue(name, self.runs, self.out / "leaderboard", self.policies) for name in names]


# --- what is missing ------------------------------------------------------------------------------------------------


def fill(options: Leaderboard, venues: Sequence[Venue], entries: Mapping[str, Entry]) -> None:
    """Train and play what is missing. What is trained or played later depends on what was before."""
    chosen = [lookup(entries, name, "entry") for name in options.entries or entries]
    exploited = [lookup(entries, name, "entry") for name in options.exploit]
    train_opponents(options, venues)
    train(options, [training for venue in venues for training in _trainings(options, venue, chosen)])
    play(options, [job for venue in venues for job in protocol_jobs(venue, chosen)])
    train(options, [venue.best_response(*pair) for venue in venues for pair in _populations(venue, exploited).items()])
    play(options, [job for venue in venues for job in table_jobs(venue, list(entries.values()), exploited)])


def train_opponents(options: Leaderboard, venues: Sequence[Venue]) -> None:
    """Train the held-out opponents. Raises ``ValueError`` if one cannot be trained, since nothing could be compared."""
    opponents = [training for venue in venues for training in venue.opponents()]
    train(options, opponents)
    left = [str(training.folder) for training in opponents if not training.is_complete]
    require(not left, "policies", left, "complete: the held-out opponents must be there")


def _trainings(options: Leaderboard, venue: Venue, entries: Sequence[Entry]) -> Iterator[Training]:
    for entry in entries:
        yield from venue.trainings(entry, options.trainings)
    for name, policies in venue.held_out.items():
        yield venue.best_response(name, policies)


def protocol_jobs(venue: Venue, entries: Iterable[Entry]) -> Iterator[Job]:
    """The returns out of the market, every player against the protocol's populations, and the best responses."""
    yield Job(venue, Player(OUTSIDE, ""), {OUTSIDE: []})
    for entry in entries:
        for player in venue.players(entry):
            yield Job(venue, player, venue.populations)
    for name, policies in venue.held_out.items():
        yield Job(venue, venue.responder(name, policies), {name: policies})


def table_jobs(venue: Venue, entries: Sequence[Entry], exploited: Iterable[Entry]) -> Iterator[Job]:
    """Every entry's players against all entries, without those that cannot play."""
    able = [entry for entry in entries if _can_play(venue, entry)]
    populations = _populations(venue, able)
    for entry in able:
        for player in venue.players(entry):
            yield Job(venue, player, populations)
    for name, policies in _populations(venue, exploited).items():
        yield Job(venue, venue.responder(name, policies), {name: policies})


def _can_play(venue: Venue, entry: Entry) -> bool:
    plays = stored_plays(venue, entry)
    return bool(plays) and not any("hole" in play for play in plays)


def _populations(venue: Venue, entries: Iterable[Entry]) -> Populations:
    """The populations that consist of the entries."""
    players = [(entry, venue.players(entry)) for entry in entries]
    return {population_of(entry, len(found)): [one.policy for one in found] for entry, found in players if found}


def train(options: Leaderboard, trainings: Sequence[Training]) -> None:
    """Run the trainings that are not complete, and keep their courses."""
    console = new_console()
    left = [training for training in trainings if not training.is_complete]
    runs = Runner(options.device, options.ray).run(partial(run_training, device=options.device), left)
    for training, record in track(runs, "trainings", total=len(left), console=console):
        if "hole" in record:
            console.print(f"{training.folder} was not trained: {record['hole']}", soft_wrap=True)
        else:
            write_json(training.record, record)


def play(options: Leaderboard, jobs: Iterable[Job]) -> None:
    """Play what is not stored."""
    left = [part for job in jobs for part in missing(job, again=options.again)]
    runs = Runner(options.device, options.ray).run(partial(play_job, device=options.device), left)
    for job, played in track(runs, "players", total=len(left), console=new_console()):
        keep(job, played)


# --- the page -------------------------------------------------------------------------------------------------------


def write_page(options: Leaderboard, entries: Mapping[str, Entry]) -> None:
    """Make the page and the pictures from what is stored of any scenario."""
    venues = options.venues(name for name in SCENARIOS if (options.out / "leaderboard" / name).is_dir())
    boards = {venue.name: read_board(venue, entries) for venue in venues}
    write_picture(options.out / "leaderboard.png", draw_payoffs(boards), dpi=100)
    write_picture(options.out / "leaderboard-curves.png", draw_curves(boards), dpi=100)
    write_file(options.out / "leaderboard.md", page(boards))


def resolved(given: Leaderboard) -> Leaderboard:
    """The options with folders that can lie in the home folder."""
    return replace(given, folder=expanded(given.folder), out=expanded(given.out), policies=expanded(given.policies))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and play what is missing, and make the page."""
    options = resolved(tyro.cli(Leaderboard, args=arguments))
    venues, entries = options.venues(options.scenarios), read_entries(options.folder)
    for name in (*options.entries, *options.exploit):
        lookup(entries, name, "entry")
    if not options.page_only:
        fill(options, venues, entries)
    for venue in venues if options.fix_anchors else ():
        fix_anchors(read_board(venue, entries))
    write_page(options, entries)
    new_console().print(f"made {options.out / 'leaderboard.md'}, leaderboard.png and leaderboard-curves.png")


if __name__ == "__main__":
    main()
