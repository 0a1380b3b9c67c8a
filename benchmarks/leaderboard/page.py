"""The page of the leaderboard in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan, nan

from benchmarks.leaderboard.boards import TRAINED, Board
from benchmarks.leaderboard.pictures import training_records
from paramarket_baselines.evaluation.display import markdown
from paramarket_baselines.evaluation.estimates import Estimate
from paramarket_baselines.evaluation.protocol import LEAST_GAIN, PROTOCOL, TRAININGS
from paramarket_baselines.games.equilibria import Equilibrium, estimated_incentives, symmetric_equilibria
from paramarket_baselines.games.ratings import deviation_ratings

EQUILIBRIA = 3
"""The number of equilibria that are described."""
DEVIATIONS = 3
"""The number of entries outside of an equilibrium whose incentives are stated."""

HEAD = f"""# Leaderboard

`python -m benchmarks.leaderboard` makes this page from the runs in `leaderboard/`, which state their seeds, versions
and configuration. It follows version {PROTOCOL} of the [protocol](../../docs/protocol.md).

The *headline* of an entry is its mean score against the held-out populations, which no training may meet. A score of 0
is the return out of the market in the same seat and on the same seed; 1 is that of the best response that was found to
this population when the scale was fixed. The 95 % intervals are over trainings and seeds. A learned entry has
{TRAININGS} trainings. In the mean over the scenarios a missing result counts as 0. A dash marks a missing result. The
scenario's section gives the reason, but not for rules that differ only in patience and price.

The scale is fixed once. So a best response in the tables of populations is one of that day; if it is a learned entry,
the entry can have other trainings now.

To submit a policy, add one file to `benchmarks/entries/`: `NAME.py` with a function `policy(seat)` (see
[docs/examples.md](../../docs/examples.md)), or `NAME.json` with the settings of a training, such
as `{{"train": {{"algo": "ppo"}}}}`. Run `python -m benchmarks.leaderboard --entries NAME`, and send the file and the
runs that it stored."""

LEADS = """## The best rule in hindsight

The best rule of a scenario is the one with the highest headline in these runs. Many values of its patience and of its
price are tried, so it is chosen with hindsight, which favours it. The table shows the headline of each learned entry,
and of each Python file, minus that of the best rule, paired by population, seat and seed."""

PAYOFFS = """## Payoffs

The mean return of a seat with the row's entry while the column's entry has all other seats. With more than two firms
this is the deviation-preserving reduction to two players. The highest and the lowest tenth have the outer colours.

![The payoffs of all entries against all, scenario by scenario](leaderboard.png)"""

CURVES = """## Trainings

Each line shows the returns in the evaluations of one training. They are against its own opponents, so the lines of
different entries do not compare. A league trains two candidates one after the other (in `crowd-short` only one), and
the second one begins anew.

![The returns in the evaluations of every training, scenario by scenario](leaderboard-curves.png)"""

COLUMNS = (
    "headline",
    "return",
    "training set",
    "sealed",
    "lead over the best rule",
    "deviation rating",
    "exploitability, at least",
    "best known response",
)


def page(boards: Mapping[str, Board]) -> str:
    """The whole page."""
    parts = [HEAD, _overall(boards), LEADS, _leads(boards), PAYOFFS, CURVES, _costs(boards)]
    for board in boards.values():
        parts += _section(board)
    return "\n\n".join(part for part in parts if part) + "\n"


def _overall(boards: Mapping[str, Board]) -> str:
    """The headlines of all shown entries in all scenarios, by their mean; entries without any come last."""
    names = dict.fromkeys(name for board in boards.values() for name in _rows(board))
    found = {name: [_headline(board, name) for board in boards.values()] for name in names}
    means = {name: _mean(row) for name, row in found.items()}
    rows = {
        name: ["–" if isnan(means[name]) else f"{means[name]:.2f}", *("–" if one is None else str(one) for one in row)]
        for name, row in sorted(found.items(), key=lambda pair: (isnan(means[pair[0]]), -means[pair[0]]))
    }
    return markdown(rows, ["mean", *boards], "policy")


def _mean(headlines: Sequence[Estimate | None]) -> float:
    """The mean, in which a missing headline counts as 0; NaN if all are missing."""
    there = [one.value for one in headlines if one is not None]
    return sum(there) / len(headlines) if there else nan


def _rows(board: Board) -> list[str]:
    """The entries of a table: those that are shown, and those without a result."""
    return [*board.shown, *(name for name in board.holes if not board.entries[name].swept)]


def _headline(board: Board, entry: str) -> Estimate | None:
    """The headline, or None if it is missing."""
    found = board.headline(entry) if entry in board.complete else None
    return None if found is None or isnan(found.value) else found


def _leads(boards: Mapping[str, Board]) -> str:
    """The leads of the learned entries over the best rule of each scenario."""
    learned = dict.fromkeys(name for board in boards.values() for name, one in board.entries.items() if not one.is_rule)
    rows = {
        name: [board.best_rule or "–", *(_lead(board, entry) for entry in learned)] for name, board in boards.items()
    }
    return markdown(rows, ["best rule", *learned], "scenario")


def _lead(board: Board, entry: str) -> str:
    return str(board.lead(entry)) if entry in board.complete else "–"


def _costs(boards: Mapping[str, Board]) -> str:
    """The cost of the trainings of every entry, as means over them."""
    rows = {}
    for name, board in boards.items():
        for entry in (name for name, one in board.entries.items() if one.is_trained_here):
            records = training_records(board, entry)
            if records:
                steps, minutes = (sum(one[key] for one in records) / len(records) for key in ("steps", "minutes"))
                device = records[0]["device"]
                rows[f"{entry}, {name}"] = [str(len(records)), f"{steps:,.0f}", f"{minutes:.1f}", device]
    return markdown(rows, ["trainings", "agent-steps", "minutes", "device"], "entry") if rows else ""


# --- one scenario ---------------------------------------------------------------------------------------------------


def _section(board: Board) -> Iterator[str]:
    """The section of a scenario."""
    yield f"## {board.venue.name}"
    ratings = deviation_ratings(board.payoffs) if board.strategies else {}
    rows = {name: _cells(board, name, ratings) for name in board.shown}
    holes = {name: [f"– ({reason})"] for name, reason in board.holes.items() if not board.entries[name].swept}
    yield markdown({**rows, **holes}, COLUMNS, "policy")
    yield _populations(board)
    yield _hardest_rule(board)
    if board.strategies:
        yield from _equilibria(board)


def _cells(board: Board, entry: str, ratings: Mapping[str, float]) -> list[str]:
    rating = f"{ratings[entry]:.3f}" if entry in ratings else "–"
    taken, by = board.exploitability(entry)
    scores = [str(board.headline(entry, name)) for name in ("held out", "training set", "sealed")]
    return [scores[0], str(board.mean_return(entry)), *scores[1:], str(board.lead(entry)), rating, str(taken), by]


def _hardest_rule(board: Board) -> str:
    """The rule of which the least is taken, of all rules that have met a copy of themselves."""
    taken = {name: board.exploitability(name) for name in board.rules}
    found = {name: pair for name, pair in taken.items() if not isnan(pair[0].value)}
    if not found:
        return ""
    hardest = min(found, key=lambda name: found[name][0].value)
    amount, by = found[hardest]
    response = "a trained best response" if by == TRAINED else by
    taken_by = "no entry takes anything" if by == hardest else f"{response} takes {amount}"
    return f"Of {len(found)} rules, {hardest} is the least exploitable: {taken_by} from it."


def _populations(board: Board) -> str:
    """The populations with their families and anchors, and those that have no scale."""
    families = board.venue.families
    rows = {
        name: [label, families.get(name, "–"), *_anchor(board, name)]
        for label, names in board.sets.items()
        for name in names
    }
    found = markdown(rows, ["set", "family", "advantage of the best response", "best response"], "population")
    refused = [name for name, anchor in board.anchors.items() if not anchor.has_scale]
    why = f"Nobody gains {LEAST_GAIN} or more against {', '.join(refused)}, so these populations have no scale."
    return f"{found}\n\n{why}" if refused else found


def _anchor(board: Board, population: str) -> list[str]:
    anchor = board.anchors.get(population)
    return ["– (not fixed)", ""] if anchor is None else [f"{anchor.gain:.2f}", anchor.by]


def _equilibria(board: Board) -> Iterator[str]:
    """The symmetric equilibria of the entries, with the strongest incentives to deviate from each."""
    equilibria = symmetric_equilibria(board.payoffs)
    whole = "all" if equilibria.complete else "perhaps not all"
    lines = [_equilibrium(board, one) for one in equilibria.found[:EQUILIBRIA]]
    yield f"Symmetric equilibria of the entries: {len(equilibria.found)} ({whole}).\n\n" + "\n".join(lines)


def _equilibrium(board: Board, found: Equilibrium) -> str:
    inside = [f"{chance:.2f} {name}" for name, chance in found.mixture.items() if chance > 0]
    incentives = estimated_incentives(board.by_seed, found.mixture)
    outside = [name for name, chance in found.mixture.items() if chance == 0]
    closest = sorted(outside, key=lambda name: -incentives[name].value)[:DEVIATIONS]
    deviations = "; ".join(f"{name} {incentives[name]}" for name in closest)
    return f"- {' + '.join(inside)}: value {found.value:.2f}; incentives to deviate: {deviations or 'none'}"
