"""The sealed populations: rules that are drawn with a secret salt, so that nobody can prepare for them.

``sealed.json`` publishes the SHA-256 of the salt. ``python -m benchmarks.sealed --salt-file FILE`` checks the salt
against it, plays the entries of the leaderboard against the populations, and makes the leaderboard's page with them.
``python -m benchmarks.sealed --new FILE`` makes a new salt and publishes its hash.
"""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from benchmarks.leaderboard.__main__ import Leaderboard, play, protocol_jobs, resolved, write_page
from benchmarks.leaderboard.boards import SEALED, fix_anchors, read_board
from benchmarks.leaderboard.entries import Entry, read_entries
from benchmarks.leaderboard.venue import Venue
from paramarket_baselines.evaluation.display import new_console
from paramarket_baselines.evaluation.protocol import PROTOCOL, TRAINING_SET, held_out_rules
from paramarket_baselines.evaluation.results import read_json, write_json
from paramarket_env.config import MarketConfig
from paramarket_env.files import expanded
from paramarket_env.interface.policy import POLICIES
from paramarket_env.validation import lookup, require

COUNT = 8
"""The number of sealed populations of a scenario."""

PUBLISHED = Path(__file__).parent / "sealed.json"
"""The file with the hash of the salt."""


@dataclass(frozen=True)
class Sealed:
    """Open the sealed populations, or make new ones."""

    salt_file: Path | None = None
    """File with the salt. Plays what is missing against the populations that are drawn with it."""
    new: Path | None = None
    """File for a new salt. It must not exist, and must never be published before the populations are opened."""
    board: Leaderboard = field(default_factory=Leaderboard)

    def __post_init__(self) -> None:
        require((self.salt_file is None) != (self.new is None), "salt_file", self.salt_file, "given, or else new")


def make_salt(file: Path, published: Path = PUBLISHED) -> None:
    """Write a new salt to a file that only its owner can read, and publish its hash."""
    salt = secrets.token_hex(32)
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(f"{salt}\n", encoding="utf-8")
    write_json(published, {"protocol": PROTOCOL, "populations": COUNT, "sha256": hash_of(salt)})


def hash_of(salt: str) -> str:
    """The hash of a salt that is published."""
    return hashlib.sha256(salt.encode()).hexdigest()


def read_salt(file: Path, published: Path = PUBLISHED) -> str:
    """The salt in a file. Raises ``ValueError`` if it is not the one whose hash is published."""
    salt = file.read_text(encoding="utf-8").strip()
    require(hash_of(salt) == read_json(published)["sha256"], "salt_file", str(file), "the salt of sealed.json")
    return salt


def draw(salt: str, name: str, config: MarketConfig) -> list[str]:
    """The sealed rules of a scenario: different ones, none of them in the training set or held out."""
    source = random.Random(f"{salt} {name}")  # the salt is secret, not the generator
    known = [POLICIES.parse(rule) for rule in (*TRAINING_SET, *held_out_rules(config))]
    drawn: list[str] = []
    while len(drawn) < COUNT:
        rule = _draw_one(source, config)
        if POLICIES.parse(rule) not in known:
            known.append(POLICIES.parse(rule))
            drawn.append(rule)
    return drawn


def _draw_one(source: random.Random, config: MarketConfig) -> str:
    """A decision rule and a pricing rule, each with drawn parameters. Without prices, a rule may only withhold."""
    buyers = (
        "greedy",
        f"patient:{source.randrange(config.max_cycles)}",
        f"choosy:{round(source.uniform(0.05, 1), 2)}",
        f"early:{round(source.uniform(0.1, 0.9), 2)}",
    )
    levels = len(config.economy.ask_levels)
    sellers = (
        f"fixed:{source.randrange(levels)}",
        f"cost-plus:{round(source.uniform(0, 4), 2)}",
        *("random", "bayesian", "thompson", "ratchet", "mirror", "reciprocal"),
    )
    priced = config.economy.ask_levels[-1] > 0
    buyer = source.choice(buyers)
    return f"{buyer}+{source.choice(sellers)}" if priced else source.choice((buyer, f"{buyer}+reciprocal"))


def opened(venue: Venue, salt: str) -> Venue:
    """The venue with its sealed populations."""
    rules = draw(salt, venue.name, venue.config)
    return replace(venue, sealed={f"{SEALED}{number}": [rule] for number, rule in enumerate(rules, 1)})


def open_sealed(options: Leaderboard, salt: str) -> None:
    """Play the entries against the sealed populations, fix their anchors once, and make the page."""
    entries = read_entries(options.folder)
    chosen = [lookup(entries, name, "entry") for name in options.entries or entries]
    venues = [opened(venue, salt) for venue in options.venues(options.scenarios)]
    play(options, [job for venue in venues for job in protocol_jobs(venue, chosen)])
    for venue in venues:
        _fix_once(venue, entries, again=options.fix_anchors)
        for name, (rule,) in venue.sealed.items():
            new_console().print(f"{venue.name}: {name} is {rule}")
    write_page(options, entries)


def _fix_once(venue: Venue, entries: dict[str, Entry], *, again: bool) -> None:
    board = read_board(venue, entries)
    if again or not board.sets["sealed"]:
        fix_anchors(board, only=SEALED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Open the sealed populations, or make new ones."""
    options = tyro.cli(Sealed, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    if options.new is not None:
        make_salt(expanded(options.new))
        new_console().print(f"made a salt in {options.new}; its hash is in {PUBLISHED.name}: keep the salt secret")
    elif options.salt_file is not None:
        open_sealed(resolved(options.board), read_salt(expanded(options.salt_file)))


if __name__ == "__main__":
    main()
