"""Policies and pricing rules in files: they play as if they were in the tables, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramarket_baselines.cli import main
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.pricing import PRICING
from paramarket_env.interface.policy import POLICIES
from tests.baselines.policies.test_decisions import OFFERS, seat, seated, trace, wants
from tests.baselines.test_cli import SMALL
from tests.helpers import priced_market

POLICY = "from paramarket_baselines.policies.decisions import Greedy\n\ndef policy(seat):\n    return Greedy()(seat)\n"
CONFIGURED_POLICY = """
from paramarket_baselines.policies.decisions import Patient
from paramarket_env.validation import configuration

@configuration
class policy:
    patience: int = 3

    def __call__(self, seat):
        return Patient(self.patience)(seat)
"""
RULE = """
import torch
from paramarket_baselines.policies.pricing import PricingRule
from paramarket_env.validation import configuration

@configuration
class pricing(PricingRule):
    level: int = 2

    def price(self, seat, memory, fields):
        return torch.full_like(fields["ask"], self.level, dtype=torch.int64)
"""


def written(folder: Path, source: str) -> str:
    """The name of a file with this source."""
    path = folder / "own+rule.py"
    path.write_text(source)
    return f"file:{path}"


def test_a_policy_in_a_file_plays_as_itself(tmp_path: Path) -> None:
    config = priced_market(max_cycles=8)
    assert trace(written(tmp_path, POLICY), config) == trace("greedy", config)


def test_the_fields_of_a_policy_in_a_file_are_given_behind_its_name(tmp_path: Path) -> None:
    config, name = priced_market(max_cycles=8), written(tmp_path, CONFIGURED_POLICY)
    assert trace(name, config) == trace("patient:3", config)
    assert trace(f"{name}(patience=1)", config) == trace("patient:1", config)
    assert POLICIES.text(POLICIES.parse(f"{name}(patience=1)")) == f"{name}(patience=1)"


@pytest.mark.parametrize(("fields", "expected"), [("", "tb0a2"), ("(level=0)", "tb0a0")])
def test_a_pricing_rule_in_a_file_sets_the_asks(tmp_path: Path, fields: str, expected: str) -> None:
    chair, name = seat(priced_market(action_mode="round")), f"{written(tmp_path, RULE)}{fields}"
    assert wants(seated(f"paper+{name}", chair), chair, offer_gain=[0.5, 0.1], **OFFERS) == expected
    assert PRICING.text(PRICING.parse(name)) == name


def test_a_function_is_no_pricing_rule(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pricing=<function .* is not allowed: it must be one of"):
        POLICIES.parse("paper+" + written(tmp_path, "def pricing(seat):\n    return None\n"))


def test_a_policy_in_a_file_plays_against_rules(tmp_path: Path) -> None:
    config = priced_market(max_cycles=4)
    steps = play(config, Arm("mixed", (written(tmp_path, POLICY), "paper", "train")), (0, 1), "cpu").steps
    assert len(steps) == 5 * 2 * 3


def test_the_command_evaluates_a_policy_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, POLICY)
    arguments = ["evaluate", name, "train", "--populations", "paper", *SMALL, "--out", str(tmp_path / "evaluated")]
    assert main(arguments) == 0
    assert name in (tmp_path / "evaluated" / "summary.json").read_text()
    assert "could not be played" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "what"), [("file:nowhere.py", "policy"), ("paper+file:nowhere.py", "pricing")])
def test_a_file_that_is_not_there_is_refused(name: str, what: str) -> None:
    message = rf"^{what}='file:nowhere\.py' cannot be used: there is no file 'nowhere\.py'$"
    with pytest.raises(ValueError, match=message):
        POLICIES.parse(name)


@pytest.mark.parametrize("source", ["", "policy = pricing = 3\n"])
@pytest.mark.parametrize(("plus", "what"), [("", "policy"), ("paper+", "pricing")])
def test_a_file_without_the_name_is_refused(tmp_path: Path, source: str, plus: str, what: str) -> None:
    with pytest.raises(ValueError, match=rf"own\+rule\.py' cannot be used: the file defines no {what}"):
        POLICIES.parse(plus + written(tmp_path, source))


def test_what_a_file_raises_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        POLICIES.parse(written(tmp_path, "1 / 0\n"))


def test_the_command_says_what_is_missing_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluated"
    assert main(["evaluate", "train", "file:nowhere.py", "--device", "cpu", "--out", str(out)]) == 2
    assert "no file 'nowhere.py'" in capsys.readouterr().err
    assert not out.exists()
