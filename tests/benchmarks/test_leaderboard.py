"""The leaderboard: what is trained, played and stored, and what the page makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.leaderboard import boards, fingerprints, pictures, plays, venue
from benchmarks.leaderboard.__main__ import HERE, Leaderboard, main
from benchmarks.leaderboard.boards import Board, read_board
from benchmarks.leaderboard.entries import read_entries
from benchmarks.leaderboard.page import page
from benchmarks.leaderboard.pictures import draw_curves
from benchmarks.leaderboard.venue import Venue
from benchmarks.runner import Runner
from benchmarks.sealed import open_sealed
from paramarket_baselines.evaluation import protocol
from paramarket_baselines.evaluation.estimates import MISSING, Estimate
from paramarket_baselines.training import callbacks, plan, sb3
from paramarket_env import scenarios
from paramarket_env.validation import require
from tests.helpers import tiny_market

NAME = "digits-short"
FILES: dict[str, Any] = {
    "train": {"policy": "train"},
    "hold": {"policy": "hold"},
    "greedy": {"policy": "greedy"},
    "sweep": {"policies": ["patient:1+fixed:0", "patient:2+fixed:0", "patient:1+fixed:7"]},
    "ppo": {"train": {"algo": "ppo"}},
    "cheat": {"train": {"against": ["choosy(gain=0.3)"]}},
    "gone": {"policy": "learned:nowhere"},
}
LEARN: dict[str, Any] = {"timesteps": 1, "num_markets": 2}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The scenario is a tiny market, training is next to none, and everything runs in this process."""

    def here(runner: Runner, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        return ((task, function(task)) for task in tasks)

    opponents = {"self-play": {**LEARN, "against": ()}, "exploiter": {**LEARN, "algo": "a2c", "against": ("hold",)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_local", here)
        patch.setitem(scenarios.SCENARIOS._entries, NAME, lambda: tiny_market(max_cycles=4))
        patch.setitem(plan.TUNED, NAME, {**LEARN, "against": ("train",)})
        patch.setitem(sb3.SETTINGS, "ppo", lambda _, rows: {"n_steps": 4, "batch_size": 4 * rows})
        patch.setattr(callbacks, "EVALUATION_SEEDS", range(2**41, 2**41 + 2))
        patch.setattr(venue, "BEST_RESPONSE", LEARN)
        patch.setattr(venue, "OPPONENTS", opponents)
        patch.setattr(protocol, "HELD_OUT_RULES", {"random": "noise", "choosy": "threshold"})
        patch.setattr(boards, "TRAININGS", 2)
        patch.setattr(protocol, "LEAST_GAIN", 1e-3)
        for module in (boards, venue):
            patch.setattr(module, "TRAINING_SET", ("train", "greedy"))
        yield


def new_entries(folder: Path, **files: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def run(folder: Path, *more: str) -> str:
    """The page that the command has made of a folder with entries, policies and results."""
    places = ["--folder", folder / "entries", "--out", folder / "out", "--policies", folder / "policies"]
    main(["--scenarios", NAME, "--runs", "4", "--device", "cpu", "--trainings", "2", *map(str, places), *more])
    return (folder / "out/leaderboard.md").read_text()


def board_of(folder: Path) -> Board:
    where = Venue(NAME, 4, folder / "out/leaderboard", folder / "policies")
    return read_board(where, read_entries(folder / "entries"))


def played(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / f"out/leaderboard/{NAME}/plays").iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    new_entries(folder / "entries", **FILES)
    run(folder, "--exploit", "hold", "--fix-anchors")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of what the command has made. Its learned policies are still where they were trained."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def changed(folder: Path, player: str, **changes: Any) -> None:
    """Change the stored play of a player."""
    file = folder / f"out/leaderboard/{NAME}/plays/{player}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_two_plays_are_the_same_to_the_byte_and_what_is_stored_is_not_played_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, page = played(folder), (folder / "out/leaderboard.md").read_text()
    assert run(folder, "--again", "--exploit", "hold") == page
    assert played(folder) == first
    monkeypatch.setattr(plays, "play_matches", None)
    monkeypatch.setattr(plays, "learn", None)
    assert run(folder) == page
    assert all((folder / f"out/{name}.png").stat().st_size > 0 for name in ("leaderboard", "leaderboard-curves"))


def test_only_scenarios_with_trainings_have_a_panel_of_curves(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards = {NAME: board_of(made)}
    [first, _] = draw_curves(boards).axes
    assert first.get_title(loc="left") == NAME
    assert len(first.lines) == 4  # two trainings each of ppo and of cheat
    monkeypatch.setattr(pictures, "training_records", lambda board, entry: [])
    assert not any(panel.get_title(loc="left") or panel.lines for panel in draw_curves(boards).axes)


def test_every_training_keeps_its_course_and_its_cost(made: Path) -> None:
    records = sorted((made / f"out/leaderboard/{NAME}/trainings").glob("ppo.*.json"))
    assert [file.name for file in records] == ["ppo.0.json", "ppo.1.json"]
    for seed, file in enumerate(records):
        record = json.loads(file.read_text())
        assert record["plan"]["seed"] == seed
        assert record["steps"] == record["curve"]["timesteps"][-1] > 0
        assert record["minutes"] >= 0
        assert set(record) >= {"device", "versions", "curve"}
    kept = {file.name.split("-")[0] for file in (made / f"policies/{NAME}/ppo/1").iterdir()}
    assert kept == {"policy.json", "weights"}


def test_a_new_entry_plays_alone_and_moves_no_score_of_the_others(folder: Path) -> None:
    before = {name: board_of(folder).headline(name) for name in board_of(folder).complete}
    stored = played(folder)
    new_entries(folder / "entries", paper={"policy": "paper"})
    page = run(folder, "--entries", "paper")
    assert "\n| paper | " in page
    after = board_of(folder)
    assert {name: after.headline(name) for name in before} == before
    assert "paper" in after.strategies
    for player, content in played(folder).items():
        known = json.loads(stored.get(player, b"{}")).get("returns", {})
        new = json.loads(content).get("returns", {})
        assert {name: new[name] for name in known} == known


def test_a_policy_that_has_changed_is_played_again(folder: Path) -> None:
    new_entries(folder / "entries", hold={"policy": "patient:1"})
    run(folder, "--entries", "hold")
    board = board_of(folder)
    np.testing.assert_array_equal(board.returns["hold"]["random"], board.returns["patient:1+fixed:0"]["random"])


def test_a_population_that_has_changed_is_met_again(folder: Path) -> None:
    policies = folder / f"policies/{NAME}"
    shutil.rmtree(policies / "self-play")
    shutil.copytree(policies / "exploiter", policies / "self-play")
    before = board_of(folder).returns
    run(folder, "--entries", "train", "ppo")
    after = board_of(folder).returns
    for name in ("train", "ppo"):
        np.testing.assert_array_equal(after[name]["self-play"], after[name]["exploiter"])
    assert any((before[name]["self-play"] != after[name]["self-play"]).any() for name in ("train", "ppo"))
    np.testing.assert_array_equal(after["greedy"]["self-play"], before["greedy"]["self-play"])


def test_another_family_of_rules_is_another_population(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprints.fingerprint("varied")
    monkeypatch.setattr(fingerprints, "OPPONENTS", replace(fingerprints.OPPONENTS, noise=(0.5,)))
    assert fingerprints.fingerprint("varied") != before


def test_a_best_response_to_a_policy_that_has_changed_is_trained_again(folder: Path) -> None:
    policies = folder / f"policies/{NAME}"
    run(folder, "--exploit", "ppo")
    record = folder / f"out/leaderboard/{NAME}/trainings/best-responses.entry-ppo-2.json"
    before, others = record.read_bytes(), (policies / "best-responses/hold/policy.json").stat().st_mtime_ns
    shutil.rmtree(policies / "ppo/1")
    shutil.copytree(policies / "exploiter", policies / "ppo/1")
    run(folder, "--entries", "train", "--exploit", "ppo")
    assert json.loads(record.read_text())["against"] != json.loads(before)["against"]
    assert len([*(policies / "best-responses/entry-ppo-2").iterdir()]) == 2  # the manifest and the new weights
    assert (policies / "best-responses/hold/policy.json").stat().st_mtime_ns == others


# --- the board --------------------------------------------------------------------------------------------------------


def test_a_score_is_0_out_of_the_market_and_1_for_the_best_response(made: Path) -> None:
    board = board_of(made)
    assert board.headline("train").value == pytest.approx(0)
    gains = {name: anchor.gain for name, anchor in board.anchors.items()}
    assert set(gains) == {"random", "choosy", "self-play", "exploiter", "train", "greedy"}
    for name, gain in gains.items():
        everyone = [returns[name].mean() for returns in board.returns.values()]
        best = max(*everyone, *(found.mean() for found in board.responses.get(name, {}).values()))
        assert gain == pytest.approx(best - board.outside.mean())  # type: ignore[union-attr]
    advantages = [board.returns["ppo"][name].mean() - board.outside.mean() for name in board.venue.held_out]  # type: ignore[union-attr]
    wanted = np.mean([mine / gains[name] for mine, name in zip(advantages, board.venue.held_out, strict=True)])
    assert board.headline("ppo").value == pytest.approx(wanted)


def test_the_best_rule_in_hindsight_is_no_learned_policy_and_leads_itself_by_nothing(made: Path) -> None:
    board = board_of(made)
    rules = [name for name in board.complete if board.entries[name].is_rule]
    assert board.best_rule == rules[0]
    assert board.lead(rules[0]).value == 0
    assert board.lead("ppo").value == pytest.approx(board.headline("ppo").value - board.headline(rules[0]).value)
    assert sum(board.entries[name].swept for name in board.shown) == 1


def test_the_payoffs_are_those_of_all_entries_against_all(made: Path) -> None:
    board = board_of(made)
    assert set(board.strategies) == {"train", "hold", "greedy", "ppo"}
    row, column = board.strategies.index("ppo"), board.strategies.index("greedy")
    assert board.payoffs.table[row, column] == pytest.approx(board.returns["ppo"]["greedy"].mean())


def test_exploitability_is_what_the_best_of_all_known_responses_takes(made: Path) -> None:
    board = board_of(made)
    swept = [name for name in board.complete if board.entries[name].swept]
    for name in (*board.strategies, *swept):
        population = board.population(name)
        met = {mine: board.returns[mine] for mine in board.complete if population in board.returns[mine]}
        found = {mine: played[population].mean() for mine, played in met.items()}
        if population in board.responses:
            found["trained best response"] = board.responses[population][population].mean()
        taken, by = board.exploitability(name)
        assert by == max(found, key=lambda mine: found[mine])
        assert taken.value == pytest.approx(found[by] - found[name])
        assert set(found) >= {*board.strategies, *swept}


def test_the_page_names_the_rule_of_which_the_least_is_taken(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = board_of(made)
    taken = {name: (Estimate(value, 0.1, 0.4), "ppo") for value, name in enumerate(sorted(board.rules))}
    least = min(taken, key=lambda name: taken[name][0].value)
    monkeypatch.setattr(Board, "exploitability", lambda _, name: taken.get(name, (MISSING, "")))
    line = f"Of {len(taken)} rules, {least} is the least exploitable: "
    assert f"{line}ppo takes 0.00 [0.10, 0.40] from it." in page({NAME: board})
    taken[least] = (Estimate(0.0, 0.0, 0.0), least)
    assert f"{line}no entry takes anything from it." in page({NAME: board})


def test_what_may_not_count_is_a_dash_with_its_reason(folder: Path) -> None:
    board = board_of(folder)
    assert board.holes["cheat"] == "was trained against choosy, which is held out"
    assert "is not there" in board.holes["gone"]
    assert "fixed.level=7" in board.holes["patient:1+fixed:7"]
    changed(folder, "greedy", protocol=1)
    changed(folder, "hold", config_hash="another")
    (folder / f"out/leaderboard/{NAME}/plays/ppo.1.json").unlink()
    new_entries(folder / "entries", late={"policy": "paper"})
    page = run(folder, "--page-only")
    for name, reason in {
        "cheat": "was trained against choosy, which is held out",
        "greedy": f"played under protocol 1 instead of {protocol.PROTOCOL}",
        "hold": "played in another configuration or on other seeds",
        "ppo": "1 of 2 trainings",
        "late": "not played",
    }.items():
        assert f"\n| {name} | – ({reason}) |" in page
        assert f"\n| {name} | – | – |" in page
    overall = page[page.index("| policy | mean |") : page.index("## The best rule")].strip().splitlines()[2:]
    missing = [row.split(" | ")[1] == "–" for row in overall]
    assert sum(missing) == 6  # those and `gone`
    assert missing == sorted(missing)


def test_in_the_mean_over_scenarios_a_missing_result_counts_as_0(made: Path, folder: Path) -> None:
    (folder / f"out/leaderboard/{NAME}/plays/ppo.1.json").unlink()
    whole, lacking = board_of(made), board_of(folder)
    headline = whole.headline("ppo").value
    made_of_both = page({"lacking": lacking, NAME: whole})
    row = f"\n| ppo | {headline / 2:.2f} | – | {whole.headline('ppo')} |"
    assert row in made_of_both
    assert made_of_both.index(row) < made_of_both.index("\n| cheat | – | – | – |")


def test_a_file_names_the_machine_of_plays_that_were_made_elsewhere(folder: Path) -> None:
    board = board_of(folder)
    job = plays.Job(board.venue, board.venue.players(board.entries["hold"])[0], {})
    here = json.loads(job.file.read_text())
    gpu = {**here, "device": "cuda (H200)"}

    def kept(origin: plays.Stored, *names: str) -> dict[str, str]:
        plays.keep(
            job, {**origin, **{part: {name: here[part][name] for name in names} for part in ("against", "returns")}}
        )
        return json.loads(job.file.read_text()).get("elsewhere", {})

    first, *others = here["returns"]
    was = f"{here['device']}, torch {here['versions']['torch']}"
    assert kept(gpu, first) == dict.fromkeys(others, was)
    assert kept(here, others[0]) == {first: f"cuda (H200), torch {here['versions']['torch']}"}
    assert kept(here, first) == {}
    assert json.loads(job.file.read_text()) == here


def test_a_hole_replaces_no_returns_and_opponents_must_be_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, stored = board_of(folder), played(folder)
    job = plays.Job(board.venue, board.venue.players(board.entries["hold"])[0], {})
    plays.keep(job, {**board.venue.stamp, "hole": "a reason"})
    assert played(folder) == stored
    shutil.rmtree(folder / f"policies/{NAME}/exploiter")
    monkeypatch.setitem(venue.OPPONENTS, "exploiter", {**LEARN, "against": ("paper+bounds",)})
    with pytest.raises(ValueError, match="the held-out opponents must be there"):
        run(folder)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pricing": ({"against": ["paper+bounds"]}, "pricing='bounds' cannot play here"),
    "alone": ({"candidates": 2}, "candidates=2 is not allowed: it must be 1 without a league"),
    "uneven": ({"league": True, "num_markets": 3}, "num_markets=3 is not allowed: it must be a multiple of 16"),
    "unknown": ({"patience": 3}, "plan.patience is not a field"),
}
"""Trainings that the scenario refuses: once it is played, or as soon as its settings are read."""


def test_a_training_that_is_refused_is_a_hole_with_its_reason_and_stops_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_entries(folder / "entries", **{name: {"train": settings} for name, (settings, _) in REFUSED.items()})
    new_entries(folder / "entries", zero={"train": {"seed": 7}})
    page = run(folder, "--entries", *REFUSED, "zero")
    printed = capsys.readouterr().out
    for name, (_, reason) in REFUSED.items():
        assert f"\n| {name} | – (0 of 2 trainings) |" in page
        assert f"{name}/1 was not trained: {reason}" in printed
    assert "zero" in board_of(folder).complete


def test_dqn_is_a_hole_in_a_scenario_with_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scenarios.SCENARIOS._entries, NAME, lambda: tiny_market(action_mode="round"))
    [training] = Venue(NAME, 4, tmp_path, tmp_path).trainings(read_entries(HERE / "entries")["dqn"], 1)
    hole = plays.run_training(training, "cpu")["hole"]
    assert hole == "algo='dqn' is not allowed: it must be an algorithm other than dqn in round mode"


def test_anchors_need_plays(folder: Path) -> None:
    shutil.rmtree(folder / f"out/leaderboard/{NAME}/plays")
    with pytest.raises(ValueError, match="played before its anchors are fixed"):
        run(folder, "--page-only", "--fix-anchors")
    assert "– (the returns out of the market are not played)" in run(folder, "--page-only")


def test_without_anchors_there_is_no_score(folder: Path) -> None:
    (folder / f"out/leaderboard/{NAME}/anchors.json").unlink()
    page = run(folder, "--page-only")
    assert "– (not fixed)" in page
    assert "\n| ppo | – | – |" in page


def test_populations_against_which_nobody_gains_have_no_scale(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LEAST_GAIN", 100.0)
    assert "random, choosy, self-play, exploiter" in run(folder, "--page-only")
    assert np.isnan(board_of(folder).headline("ppo").value)


def test_opened_sealed_populations_stand_next_to_the_headline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = board_of(folder)
    places = {"folder": folder / "entries", "out": folder / "out", "policies": folder / "policies"}
    options = Leaderboard(scenarios=(NAME,), runs=4, device="cpu", **places)
    open_sealed(options, "a salt")
    board = board_of(folder)
    assert board.sets["sealed"] == [f"sealed {number}" for number in range(1, 9)]
    assert board.headline("train", "sealed").value == pytest.approx(0)
    assert not np.isnan(board.headline("ppo", "sealed").value)
    assert {name: board.headline(name) for name in before.complete} == {
        name: before.headline(name) for name in before.complete
    }
    assert capsys.readouterr().out.count(" is ") == 8
    anchors = board.anchors
    new_entries(folder / "entries", late={"policy": "patient:1"})
    open_sealed(options, "a salt")
    assert board_of(folder).anchors == anchors


# --- the entries ------------------------------------------------------------------------------------------------------


def test_an_entry_is_a_policy_several_rules_a_training_or_a_file(tmp_path: Path) -> None:
    new_entries(tmp_path, **FILES)
    (tmp_path / "mine.py").write_text("from paramarket_baselines.policies.decisions import Hold as policy\n")
    entries = read_entries(tmp_path)
    assert {name for name, entry in entries.items() if entry.is_rule} == {
        "train",
        "hold",
        "greedy",
        *FILES["sweep"]["policies"],
    }
    assert {name for name, entry in entries.items() if entry.is_learned} == {"ppo", "cheat", "gone"}
    assert entries["mine"].policy == f"file:{tmp_path / 'mine.py'}"
    new_entries(tmp_path, bad={"policy": "train", "train": {}})
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_entries(tmp_path)


def test_the_trainings_of_a_policy_from_elsewhere_are_its_numbered_folders(made: Path, tmp_path: Path) -> None:
    new_entries(tmp_path, theirs={"policy": f"learned:{made}/policies/{{scenario}}/ppo"})
    found = Venue(NAME, 4, tmp_path, tmp_path).players(read_entries(tmp_path)["theirs"])
    assert [player.name for player in found] == ["theirs.0", "theirs.1"]
    assert [player.policy for player in found] == [f"learned:{made}/policies/{NAME}/ppo/{seed}" for seed in (0, 1)]


def test_every_entry_of_the_repository_can_be_trained_or_named() -> None:
    entries = read_entries(HERE / "entries")
    assert sum(entry.swept for entry in entries.values()) >= 20
    for entry in entries.values():
        trainings = Venue("crowd-short", 40, HERE, HERE).trainings(entry, 5)
        assert len({training.plan.seed for training in trainings}) == (5 if entry.is_trained_here else 0)
        require(bool(entry.policy) or bool(trainings), "entry", entry, "a policy or a training")


def test_unknown_names_are_refused_before_anything_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_entries(tmp_path / "entries", **FILES)
    with pytest.raises(ValueError, match="unknown entry 'nobody'"):
        run(tmp_path, "--entries", "nobody")
    with pytest.raises(SystemExit):
        main(["--scenarios", "nowhere", "--out", str(tmp_path / "out")])
    assert "unknown scenario 'nowhere'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- the old protocol -------------------------------------------------------------------------------------------------


def test_ppo_was_first_on_the_old_protocol_and_is_below_the_best_rule_against_held_out_populations() -> None:
    """The fixture has, for each scenario, policy and population, the mean return and the chance to beat ``train``."""
    old = json.loads((Path(__file__).parent / "old_protocol.json").read_text())
    chances = {
        name: np.mean([[cell[1] for cell in board[name].values()] for board in old.values()]) for name in old[NAME]
    }
    assert max(chances, key=lambda name: float(chances[name])) == "ppo"
    for board in old.values():
        new = {name: np.mean([board[name][population][0] for population in ("random", "self-play")]) for name in board}
        assert new["ppo"] < max(new.values())
