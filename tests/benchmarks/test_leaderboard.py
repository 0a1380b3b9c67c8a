"""The leaderboard: what is stored, what the page makes of it, and that the same seeds give the same table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import leaderboard
from benchmarks.leaderboard import (
    HERE,
    LEAD,
    MET,
    NEW,
    NEW_PROBABILITY,
    Leaderboard,
    _config_hash,
    _settings,
    entries,
    leads,
    main,
    page,
    standings,
    training_opponents,
)
from paramarket_baselines.evaluation.estimates import student_mean
from paramarket_baselines.evaluation.results import write_json
from paramarket_baselines.evaluation.statistics import MEANS
from paramarket_baselines.training import sb3
from paramarket_env import scenarios
from paramarket_env.config import MarketConfig
from tests.helpers import tiny_market

NAMES = ("digits-short", "digits-layers-short")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenarios are tiny markets, and training is next to none."""
    for name, cycles in zip(NAMES, (2, 3), strict=True):
        monkeypatch.setitem(scenarios.SCENARIOS._entries, name, lambda cycles=cycles: tiny_market(max_cycles=cycles))
        monkeypatch.setitem(sb3.TUNED, name, {"timesteps": 1, "num_markets": 2})


def new_entries(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    given = {"train": {"policy": "train"}, "self-play": {"train": {"against": []}}, **files}
    for name, content in given.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def made(tmp_path: Path, folder: Path, out: str, *more: str) -> Path:
    """The folder that the command has filled, with one policy's training of its own."""
    target = tmp_path / out
    names = ["--scenarios", *NAMES, "--runs", "4", "--device", "cpu"]
    main([*names, "--folder", str(folder), "--out", str(target), "--policies", str(target / "policies"), *more])
    return target


@pytest.mark.slow
def test_the_same_seeds_give_the_same_table_of_rules_learned_and_own_policies(tmp_path: Path) -> None:
    folder = new_entries(tmp_path / "entries", hold={"policy": "hold"}, ppo={"train": {"algo": "ppo"}})
    (folder / "mine.py").write_text("from paramarket_baselines.policies.decisions import Hold as policy\n")
    first, second = (made(tmp_path, folder, out) for out in ("first", "second"))
    text = (first / "leaderboard.md").read_text()
    assert text == (second / "leaderboard.md").read_text()
    for entry in ("train", "self-play", "hold", "ppo", "mine"):
        assert text.count(f"\n| {entry} |") == 3  # over all, and in either scenario
        assert text.count(f"\n### {entry}\n") == (entry in ("self-play", "ppo", "mine"))
        for name in NAMES:
            stored = [json.loads((out / "leaderboard" / name / f"{entry}.json").read_text()) for out in (first, second)]
            assert stored[0] == stored[1]
            assert len(stored[0]["runs"]["data"]) == 6 * 2 * 2  # populations, seats, seeds
    assert "– (" not in text
    assert (first / "leaderboard.png").stat().st_size > 0


def test_what_is_stored_is_not_played_again_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_entries(tmp_path / "entries")
    out = made(tmp_path, folder, "out")
    played: list[str] = []

    def stored_runs(file: Path, name: str, _: Leaderboard) -> dict[str, Any]:
        played.append(name)
        stored: dict[str, Any] = json.loads((out / "leaderboard" / name / f"{file.stem}.json").read_text())
        return stored

    monkeypatch.setattr(leaderboard, "play_entry", stored_runs)
    made(tmp_path, folder, "out")
    assert played == []
    made(tmp_path, folder, "out", "--again")
    assert played == [name for name in NAMES for _ in ("train", "self-play")]


def test_what_was_not_played_is_shown_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"patient": {"policy": "patient"}, "gone": {"policy": "learned:nowhere"}, "late": {"policy": "hold"}}
    folder = new_entries(tmp_path / "entries", **files)
    out = made(tmp_path, folder, "out", "--entries", "train", "patient", "gone")
    board = standings(out / "leaderboard", NAMES[0], entries(folder))
    assert list(board)[-3:] == ["gone", "late", "self-play"]
    assert "is not there" in str(board["gone"])
    assert board["late"] == "not played"
    text = page({NAMES[0]: board}, ["gone"])
    assert "| late | – (not played) |" in text
    monkeypatch.setitem(scenarios.SCENARIOS._entries, NAMES[0], lambda: tiny_market(max_cycles=5))
    board = standings(out / "leaderboard", NAMES[0], entries(folder))
    assert board["patient"] == "train: played in another configuration"
    lines = page({NAMES[0]: board}, ["gone"]).split(f"## {NAMES[0]}")[1].strip().split("\n")
    assert {line.count("|") for line in lines} == {3}  # a name, and why there is nothing more


def test_the_best_comes_first(tmp_path: Path) -> None:
    folder = new_entries(tmp_path / "entries", hold={"policy": "hold"})
    out = made(tmp_path, folder, "out")
    board = standings(out / "leaderboard", NAMES[1], {name: entries(folder)[name] for name in ("train", "hold")})
    means = [row["mean"].value for row in board.values() if not isinstance(row, str)]
    assert means == sorted(means, reverse=True)
    assert len(means) == 2


def test_a_learned_entry_met_what_its_training_plays_against() -> None:
    folder, name = HERE / "entries", "digits-priced-short"
    assert training_opponents(folder / "ppo.json", name) == sb3.TRAINING_OPPONENTS
    assert training_opponents(folder / "ppo.json", "crowd-short") == ("ppo",)  # copies of itself
    assert training_opponents(folder / "self-play.json", name) == ("self-play",)
    assert training_opponents(folder / "patient.json", name) is None


def kept_runs(**returns: Sequence[float]) -> dict[str, Any]:
    """Stored runs of an entry: its returns on seeds 0, 1, ... against each population."""
    rows = [
        [seed, value, 0.0, 0.0, 0.0, 0.0, "", population.replace("_", "-"), 0]
        for population, values in returns.items()
        for seed, value in enumerate(values)
    ]
    columns = ["seed", "return", *MEANS, "error", "population", "seat"]
    return {"config_hash": _config_hash(scenarios.scenario(NAMES[0])), "runs": {"columns": columns, "data": rows}}


def test_each_group_of_populations_is_compared_with_the_rule_that_is_best_there(tmp_path: Path) -> None:
    folder = new_entries(tmp_path / "entries", hold={"policy": "hold"}, ppo={"train": {"algo": "ppo"}})
    sb3.TUNED[NAMES[0]]["against"] = ("train", "paper")
    runs = {
        "train": kept_runs(train=[1, 2], paper=[3, 4], random=[0, 1], self_play=[0, 1]),
        "hold": kept_runs(train=[0, 0], paper=[0, 0], random=[5, 9], self_play=[7, 9]),
        "ppo": kept_runs(train=[2, 3], paper=[4, 6], random=[5, 8], self_play=[5, 6]),
        "self-play": kept_runs(train=[0, 0], paper=[0, 0], random=[6, 10], self_play=[1, 1]),
    }
    for entry, kept in runs.items():
        write_json(tmp_path / NAMES[0] / f"{entry}.json", kept)
    board = standings(tmp_path, NAMES[0], entries(folder))
    rows = {entry: row for entry, row in board.items() if not isinstance(row, str)}
    assert (rows["ppo"]["training opponents"].value, rows["ppo"]["held out"].value) == (3.75, 6.0)
    # Over `train` on seeds 0 and 1: 1, 1, 1 and 2. Over `hold`: 0, -1, -2 and -3.
    assert rows["ppo"][LEAD[MET]] == student_mean([1.0, 1.5])
    assert rows["ppo"][LEAD[NEW]] == student_mean([-1.0, -2.0])
    assert rows["ppo"][NEW_PROBABILITY].value == 1.0
    assert rows["self-play"][LEAD[MET]].value == 1 - 8  # it met itself,
    assert rows["self-play"][LEAD[NEW]].value == 1.0  # so that only `random` is new to it
    assert rows["hold"][LEAD[NEW]].value == 0
    assert leads({NAMES[0]: board}, "ppo")["above the best rule"] == ["1 of 1", "0 of 1"]
    # Runs on other seeds cannot be paired.
    write_json(tmp_path / NAMES[0] / "ppo.json", kept_runs(train=[2, 3, 4], paper=[4, 6, 8]))
    assert standings(tmp_path, NAMES[0], entries(folder))["ppo"] == "played on other seeds than train"


def test_unknown_names_are_refused_before_anything_is_played(tmp_path: Path) -> None:
    folder = new_entries(tmp_path / "entries")
    with pytest.raises(ValueError, match="unknown entry 'nobody'"):
        made(tmp_path, folder, "out", "--entries", "nobody")
    with pytest.raises(ValueError, match="unknown scenario 'nowhere'"):
        main(["--scenarios", "nowhere", "--folder", str(folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_all_folders_can_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    filled: list[Leaderboard] = []
    monkeypatch.setattr(leaderboard, "_fill", filled.append)
    new_entries(tmp_path / "entries")
    main(["--folder", "~/entries", "--out", "~/out", "--policies", "~/policies"])
    assert [filled[0].folder, filled[0].out, filled[0].policies] == [
        *(tmp_path / name for name in ("entries", "out", "policies"))
    ]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"leaderboard.md", "leaderboard.png"}


def test_every_entry_of_the_repository_can_be_played() -> None:
    for file in entries(HERE / "entries").values():
        content = json.loads(file.read_text())
        assert set(content) in ({"policy"}, {"train"})
        if "train" in content:
            sb3.Plan(MarketConfig(), **_settings(content["train"]))
