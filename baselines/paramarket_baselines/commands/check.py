"""The command ``paramarket check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
import tyro
from rich.console import Console, RenderableType

from paramarket_baselines.checks.check import Outcome, Status, outcome
from paramarket_baselines.checks.markets import DEFAULT_SCENARIOS
from paramarket_baselines.checks.policy import POLICY_CHECKS, PolicyTrial, policy_trials, steps_per_second
from paramarket_baselines.evaluation.display import new_progress, table
from paramarket_baselines.evaluation.names import without_folders
from paramarket_env.interface.policy import POLICIES
from paramarket_env.validation import require


@dataclass(frozen=True)
class CheckPolicy:
    """Check that a policy keeps the rules of its interface. The exit status is 1 if a check fails."""

    policy: tyro.conf.Positional[str]
    """The policy to check, such as `patient:7`, `paper+fixed:3` or `file:PATH.py`."""
    scenarios: tuple[str, ...] = DEFAULT_SCENARIOS
    """The policy plays in each of these scenarios and in variants of it, with every mechanism and in both modes."""

    def __post_init__(self) -> None:
        require(
            0 < len(set(self.scenarios)) == len(self.scenarios),
            "scenarios",
            self.scenarios,
            "one or more different names",
        )


def check(options: CheckPolicy, console: Console) -> int:
    """Run all checks and print their results. Returns the exit status: 0, or 1 if a check fails.

    Raises ``ValueError`` for an unknown policy or scenario, and for a policy that refuses all markets.
    """
    trials = [trial for name in options.scenarios for trial in policy_trials(options.policy, name)]
    found: list[Outcome] = []
    with new_progress(console, transient=True) as progress:
        for trial in progress.track(trials, description="markets"):
            found += [outcome(check, trial) for check in POLICY_CHECKS]
    failed = any(each.status == "failed" for each in found)
    if not failed:
        _require_claims(options, found)
    console.print(_results(found, f"{without_folders([options.policy])[0]} in {len(trials)} markets"))
    for line in (*_failures(found), *_refusals(found, len(trials)), *_figures(trials)):
        console.print(line, soft_wrap=True)
    return 1 if failed else 0


def _require_claims(options: CheckPolicy, found: Sequence[Outcome]) -> None:
    """Raise ``ValueError`` for a policy that refuses all markets."""
    claims = any(each.status == "passed" for each in found)
    require(claims, "policy", options.policy, f"one that plays in some of the markets ({found[0].reason})")


STATUSES = get_args(Status)


def _results(found: Sequence[Outcome], title: str) -> RenderableType:
    """The table of the checks, with the number of markets for each status."""
    counts = Counter((each.check, each.status) for each in found)
    rows = {str(each): [f"{counts[str(each), status] or ''}" for status in STATUSES] for each in POLICY_CHECKS}
    return table(rows, STATUSES, title, "check")


def _failures(found: Sequence[Outcome]) -> Iterator[str]:
    """A line for each check that fails: its sentence and its first failure."""
    for each in POLICY_CHECKS:
        reasons = [outcome.reason for outcome in found if (outcome.check, outcome.status) == (str(each), "failed")]
        if reasons:
            yield f"failed in {len(reasons)}: {each.sentence} {reasons[0]}"


def _refusals(found: Sequence[Outcome], num_markets: int) -> Iterator[str]:
    """A line for the markets that the policy refuses, with the reason for the first of them."""
    refused = {each.setting: each.reason for each in found if each.status == "not claimed"}
    if refused:
        name, reason = next(iter(refused.items()))
        yield f"not claimed: {len(refused)} of {num_markets} markets; the first is {name}: {reason}"


def _figures(trials: Sequence[PolicyTrial]) -> Iterator[str]:
    """Lines for the policy's illegal actions, and for its cost in the first market that it plays."""
    played = [trial for trial in trials if trial.plays]
    if played:
        legal = torch.cat([trial.recording.legal.flatten() for trial in played])
        yield f"illegal actions: {int((~legal).sum())} of {len(legal)}"
        yield f"cost in {played[0]}: {_cost(played[0])}"


def _cost(trial: PolicyTrial) -> str:
    """The steps that a policy plays in a second, in relation to those of the rule that only trains."""
    try:
        mine, train = (steps_per_second(each, trial.recording) for each in (trial.policy, POLICIES.parse("train")))
    except Exception as error:  # whatever the policy raises in more markets than before
        return f"not measured ({type(error).__name__}: {error})"
    return f"{mine:,.0f} agent-steps/s, {train / mine:.1f} times the time of train"
