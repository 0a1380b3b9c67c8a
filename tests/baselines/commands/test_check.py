"""The command ``paramarket check``."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramarket_baselines.checks import POLICY_CHECKS
from paramarket_baselines.cli import main

FILE = """
import torch
from paramarket_env.interface.policy import Policy

class Own(Policy):
    def __init__(self, seat):
        if seat.num_agents > 2:
            raise ValueError("it plays markets of two firms only")

    def act(self, observation, mask):
        return torch.{chosen}

def policy(seat):
    return Own(seat)
"""


def written(folder: Path, chosen: str) -> str:
    """The name of a policy in a file."""
    file = folder / "own.py"
    file.write_text(FILE.format(chosen=chosen))
    return f"file:{file}"


def checked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit status and the lines of the command."""
    status = main(["check", *arguments])
    return status, capsys.readouterr().out.splitlines()


def row(lines: list[str], check: str) -> list[str]:
    """The figures of a check in the table."""
    return next(line.split()[1:] for line in lines if line.split()[:1] == [check])


def test_a_policy_that_passes_is_shown_with_all_checks_and_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = checked(["hold+fixed:3", "--scenarios", "digits-priced-short"], capsys)
    assert status == 0
    assert lines[0] == "hold+fixed:3 in 11 markets"
    assert all(row(lines, str(check)) == ["11"] for check in POLICY_CHECKS)
    assert lines[-2].startswith("illegal actions: 0 of ")
    assert "agent-steps/s" in lines[-1]
    assert lines[-1].endswith(" times the time of train")


def test_a_policy_that_fails_is_told_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, "randint(2, (len(mask),))")
    status, lines = checked([name, "--scenarios", "digits-short"], capsys)
    assert status == 1
    assert row(lines, "leaves-global-randomness-alone")[:2] == ["7", "4"]  # in round mode it returns no actions
    assert row(lines, "acts-in-the-space")[:2] == ["7", "4"]
    assert any(line.startswith("failed in 4: Actions are int64") for line in lines)
    assert any(line.startswith("failed in 7: The same observations, masks and keys lead to the same") for line in lines)


def test_markets_that_a_policy_does_not_claim_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, "zeros(len(mask), dtype=torch.int64) if mask.shape[1] == 0 else mask.long().argmax(1) * 0")
    _, lines = checked([name, "--scenarios", "digits-short", "three-firms-short"], capsys)
    refusal = "not claimed: 11 of 22 markets; the first is three-firms-short: it plays markets of two firms only"
    assert refusal in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "unknown policy 'nobody': choose from choosy, early"),
        (["hold", "--scenarios", "nowhere"], "unknown scenario 'nowhere': choose from cifar10"),
        (
            ["hold", "--scenarios", "digits-short", "digits-short"],
            "it must be one or more different names",
        ),
        (["hold+fixed:99", "--scenarios", "digits-short"], "fixed.level=99 is not allowed: it must be from 0 to 0"),
        (["file:nowhere.py"], "there is no file 'nowhere.py'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
