"""The sealed populations: the salt and its hash, and what is drawn with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import sealed
from benchmarks.sealed import COUNT, PUBLISHED, draw, hash_of, main, make_salt, read_salt
from paramarket_baselines.evaluation.protocol import PROTOCOL, TRAINING_SET, held_out_rules
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.scenarios import SCENARIOS, scenario

SHORT = [name for name in SCENARIOS if name.endswith("-short")]


def test_the_repository_publishes_a_hash_and_nothing_else() -> None:
    published = json.loads(PUBLISHED.read_text())
    assert set(published) == {"protocol", "populations", "sha256"}
    assert published["protocol"] == PROTOCOL
    assert len(published["sha256"]) == 64


def test_only_the_salt_of_the_published_hash_opens(tmp_path: Path) -> None:
    file, published = tmp_path / "salt", tmp_path / "sealed.json"
    make_salt(file, published)
    salt = read_salt(file, published)
    assert json.loads(published.read_text())["sha256"] == hash_of(salt)
    assert salt not in published.read_text()
    assert file.stat().st_mode & 0o77 == 0
    with pytest.raises(FileExistsError):
        make_salt(file, published)
    file.write_text("another")
    with pytest.raises(ValueError, match=r"the salt of sealed\.json"):
        read_salt(file, published)


def test_nothing_about_the_rules_is_printed_with_a_wrong_salt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "draw", None)
    (tmp_path / "salt").write_text("wrong")
    with pytest.raises(ValueError, match=r"the salt of sealed\.json"):
        main(["--salt-file", str(tmp_path / "salt")])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", SHORT)
def test_the_salt_draws_different_rules_that_are_new_and_can_play(name: str) -> None:
    batch = MarketBatch(scenario(name), 1, "cpu")
    rules = draw("a salt", name, batch.config)
    assert rules == draw("a salt", name, batch.config)
    assert rules != draw("another salt", name, batch.config)
    policies = {POLICIES.parse(rule) for rule in rules}
    assert len(policies) == COUNT
    assert not policies & {POLICIES.parse(rule) for rule in (*TRAINING_SET, *held_out_rules(batch.config))}
    for policy in policies:
        policy(seat_of(batch, 1))
