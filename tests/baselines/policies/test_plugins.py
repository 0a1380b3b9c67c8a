"""Policies and pricing rules in files: they play as if they were in the tables, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines.cli import main
from baselines.evaluation.play import Arm, play
from baselines.policies.decisions import build_policy, policy_factory
from tests.baselines.policies.test_decisions import OFFERS, seat, trace, wants
from tests.baselines.test_cli import SMALL
from tests.helpers import priced_market, tiny_market

POLICY = "from baselines.policies.decisions import Greedy\n\ndef policy(seat):\n    return Greedy(seat)\n"
PRICING = "from baselines.policies.pricing import Fixed\n\ndef pricing(seat):\n    return Fixed(seat, 2)\n"


def written(folder: Path, source: str) -> str:
    """The name of a file with this source."""
    path = folder / "own+rule.py"
    path.write_text(source)
    return f"file:{path}"


def test_a_policy_in_a_file_plays_as_itself(tmp_path: Path) -> None:
    config = priced_market(max_cycles=8)
    assert trace(written(tmp_path, POLICY), config) == trace("greedy", config)


def test_a_pricing_rule_in_a_file_sets_the_asks(tmp_path: Path) -> None:
    chair = seat(priced_market(action_mode="round"))
    policy = build_policy(f"paper+{written(tmp_path, PRICING)}", chair)
    assert wants(policy, chair, offer_gain=[0.5, 0.1], **OFFERS) == "tb0a2"


def test_a_policy_in_a_file_sits_beside_rules(tmp_path: Path) -> None:
    config = priced_market(max_cycles=4)
    steps = play(config, Arm("mixed", (written(tmp_path, POLICY), "paper", "train")), (0, 1), "cpu").steps
    assert len(steps) == 5 * 2 * 3


def test_the_command_evaluates_a_policy_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, POLICY)
    arguments = ["evaluate", name, "train", "--populations", "paper", *SMALL, "--out", str(tmp_path / "judged")]
    assert main(arguments) == 0
    assert name in (tmp_path / "judged" / "summary.json").read_text()
    assert "could not be played" not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "what"), [("file:nowhere.py", "policy"), ("paper+file:nowhere.py", "pricing")])
def test_a_file_that_is_not_there_is_refused(name: str, what: str) -> None:
    with pytest.raises(ValueError, match=rf"^{what}='file:nowhere\.py' is not there: no file 'nowhere\.py'$"):
        policy_factory(name)


@pytest.mark.parametrize("source", ["", "policy = pricing = 3\n"])
@pytest.mark.parametrize(("plus", "what"), [("", "policy"), ("paper+", "pricing")])
def test_a_file_without_the_function_is_refused(tmp_path: Path, source: str, plus: str, what: str) -> None:
    with pytest.raises(ValueError, match=rf"own\+rule\.py' cannot play: the file defines no function {what}\(seat\)"):
        policy_factory(plus + written(tmp_path, source))


def test_what_a_file_raises_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        build_policy(written(tmp_path, "1 / 0\n"), seat(tiny_market()))


def test_the_command_says_what_is_missing_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judged"
    assert main(["evaluate", "train", "file:nowhere.py", "--device", "cpu", "--out", str(out)]) == 2
    assert "no file 'nowhere.py'" in capsys.readouterr().err
    assert not out.exists()
