"""The command line, as a user types it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from paramarket_baselines.cli import List, Train, _parse, main
from paramarket_baselines.evaluation.names import printable
from paramarket_baselines.policies.decisions import RULES
from paramarket_env.config import SECTIONS, MarketConfig
from paramarket_env.interface.policy import POLICIES
from paramarket_env.plugins import REGISTRIES, Registry
from paramarket_env.scenarios import SCENARIOS, scenario

SMALL = [
    *("--train-samples", "120", "--validation-samples", "60", "--test-samples", "60", "--batch-size", "16"),
    *("--architecture", "mlp(hidden=(8,))", "--max-cycles", "2", "--seeds", "2", "--device", "cpu"),
]


def assert_refused(arguments: list[str], message: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with a message in one line, and leaves no folder."""
    assert main([*arguments, "--out", str(out)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_run_plays_the_papers_comparison_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *SMALL, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    for arm in ("out of market", "market unaligned", "market aligned", "fed. averaging"):
        assert arm in printed
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "config.json",
        "steps.csv",
        "trades.csv",
        "classes.csv",
        "confusions.csv",
        "merge_curves.csv",
        "summary.json",
        "curves.png",
        "classes.png",
        "merge_curves.png",
    }


def test_run_with_one_verb_a_step_plays_every_rule(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["run", *SMALL, "--action-mode", "verb", "--out", str(out)]) == 0
    assert set(json.loads((out / "summary.json").read_text())["arms"]) == set(RULES)


def test_options_change_the_scenario(tmp_path: Path) -> None:
    out = tmp_path / "run"
    chosen = ["--scenario", "three-firms", "--policies", "train", "patient:1"]
    chosen += ["--optimizer", "sgd(lr=0.3)", "--aligner", "none"]
    assert main(["run", *SMALL, *chosen, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["agents"], config["broker"]["aligner"]) == (3, "none")
    assert config["training"]["optimizer"] == "sgd(lr=0.3, momentum=0.0)"
    assert list(json.loads((out / "summary.json").read_text())["arms"]) == ["train", "patient:1"]


def test_the_authors_protocol_is_marked_wherever_its_figures_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["run", *SMALL, "--protocol", "authors", "--policies", "train", "--out", str(out)]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("validated on the TEST set") == 2
    assert "validated on the TEST set" in json.loads((out / "summary.json").read_text())["title"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenario", "nowhere"], "unknown scenario 'nowhere': choose from cifar10, cifar10-resnet, costly-training"),
        (["--policies", "train", "train"], "policies=('train', 'train') is not allowed"),
        (["--first-seed", str(2**63)], "is not allowed: it must be an integer within [0, 2**63)"),
        (["--device", "mps"], "device='mps' is not allowed"),
        (["--policies", "nobody"], "unknown policy 'nobody': choose from choosy, early"),
        (["--agents", "1"], "agents=1 is not allowed: it must be greater than or equal to 2"),
        (["--device", "cuda:99"], "device='cuda:99' is not available"),
        (["--batch-size", "500"], "training.batch_size=500 is not allowed"),
        (["--optimizer", "sgd(lr=-1)"], "sgd.lr=-1 is not allowed: it must be greater than 0"),
        (["--architecture", "mlp(hidden=(0,))"], "mlp.hidden=0 is not allowed: it must be greater than or equal to 1"),
        (["--dataset", "letters"], "unknown dataset 'letters': choose from cifar10, digits"),
        (["--dataset", "fashion-mnist:nowhere"], "data_dir='nowhere' lacks train-images-idx3-ubyte"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_leaves_no_folder(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(["run", *SMALL, *arguments], message, tmp_path / "run", capsys)


NUMBERS = [
    field.name
    for part in (MarketConfig, *(type(getattr(MarketConfig(), section)) for section in SECTIONS))
    for field in fields(part)
    if type(field.default) in (int, float)
]


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("run", name) for name in NUMBERS), ("run", "seeds"), ("evaluate", "seeds"), ("train", "timesteps")],
)
def test_a_number_out_of_range_is_said_in_one_line(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, f"--{name.replace('_', '-')}", "-1"]) == 2
    printed = capsys.readouterr().err
    assert re.fullmatch(rf"error: (\w+\.)?{name}=-1(\.0)? is not allowed: it must be .*\n", printed)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["run", *SMALL, "--seeds", "1", "--policies", "train", "--out", str(out)]) == 0
    assert json.loads((out / "summary.json").read_text())["arms"]["train"]["return"]["low"] is None


def test_a_missing_extra_is_named_with_its_brackets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr("paramarket_env.learning.data.datasets.DEFAULT_DATA_DIR", tmp_path)
    assert main(["run", "--scenario", "kmnist"]) == 2
    assert "pip install 'paramarket-env[vision]'" in capsys.readouterr().err


def test_a_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", *SMALL, "--policies", "hold", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


def test_list_shows_everything_that_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in (*SCENARIOS, *POLICIES, "fashion-mnist", "dirichlet", "mlp", "adam", "prefixes"):
        assert name in printed


def test_the_default_folder_of_a_scenario_in_a_file_is_one_folder_under_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from paramarket_env.scenarios import digits as scenario")
    Path("a/b").mkdir(parents=True)
    assert main(["run", "--scenario", "file:a/b/../../mine.py", *SMALL, "--policies", "hold"]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("file-a-b-..-..-mine.py-round-")
    assert (folder / "summary.json").is_file()


POLICY = """
from paramarket_baselines.policies.decisions import Hold as policy
"""
SCENARIO = "from paramarket_env.scenarios import digits_priced as scenario"
HOSTILE = ["[red]", "[/]", "a [x] b", "$x_$", "_y_", "two\nlines", "\x1b[31mred", "|`c`|", "שלום", "n" * 200, "\\"]
"""Names of files that are markup somewhere, or do not fit."""
FOLDER = "[red] [/b] $x_$ two\nlines \x1b[31m |`c`| \\"


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_names_of_files_and_folders_may_be_anything(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*HOSTILE, FOLDER):
        file = Path(f"{name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(POLICY + SCENARIO)
    policies = ["train", *(f"file:{name}.py" for name in HOSTILE)]
    chosen = ["--policies", *policies] if command == "run" else [*policies, "--populations", *policies[:3]]
    assert main([command, "--scenario", f"file:{FOLDER}.py", *SMALL, *chosen, "--out", FOLDER]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert f"saved in {printable(FOLDER)}: " in printed
    for name in policies:
        assert f"played {printable(name)}\n" in printed
    summary = json.loads((Path(FOLDER) / "summary.json").read_text())
    assert list(summary["arms" if command == "run" else "policies"]) == policies
    assert summary["market"] == f"file:{FOLDER}.py"


@pytest.mark.parametrize("columns", ["20", "80"])
def test_every_figure_of_a_run_is_shown_whole(
    columns: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    (tmp_path / "mine.py").write_text(POLICY)
    policies = ["train", f"file:{tmp_path}/mine.py", "patient(patience=1)+fixed(level=0)"]
    chosen = ["--scenario", "digits-priced", "--policies", *policies]
    assert main(["run", *SMALL, *chosen, "--out", str(tmp_path / "run")]) == 0
    words = capsys.readouterr().out.split()
    for estimates in json.loads((tmp_path / "run" / "summary.json").read_text())["arms"].values():
        found = estimates["return"]
        assert f"{found['value']:.2f}" in words
        assert f"{(found['high'] - found['low']) / 2:.2f}" in words


def test_a_run_is_repeated_from_its_configuration(tmp_path: Path) -> None:
    chosen = [
        "--scenario",
        "digits-priced-short",
        "--kappa",
        "1.5",
        "--budget",
        "70",
        "80",
        "--policies",
        "train",
        "paper",
    ]
    assert main(["run", *SMALL, *chosen, "--out", str(tmp_path / "first")]) == 0
    again = ["--config", str(tmp_path / "first" / "config.json"), "--seeds", "2", "--device", "cpu"]
    assert main(["run", *again, "--policies", "train", "paper", "--out", str(tmp_path / "second")]) == 0
    for file in ("config.json", *(file.name for file in (tmp_path / "first").glob("*.csv"))):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("command", ["run", "evaluate", "train"])
def test_other_options_override_the_file(command: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(scenario("three-firms", max_cycles=2, train_samples=120).to_dict()))
    options = _parse([command, "--config", str(file), "--agents", "4"])
    assert not isinstance(options, List)
    config = options.plan.config if isinstance(options, Train) else options.config
    assert config == scenario("three-firms", max_cycles=2, train_samples=120, agents=4)


@pytest.mark.parametrize("command", ["run", "evaluate", "train"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be used: "),
        (b'{"agents": 1}', "cannot be used: agents=1 is not allowed"),
        (b'{"agenst": 2}', "cannot be used: agenst is not a field"),
        (b"[]", "cannot be used: "),
        (b"\xff\xfe", "cannot be used: "),
        (None, "No such file or directory"),
    ],
)
def test_a_broken_configuration_is_one_line_with_its_name(
    command: str, content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "[x].json"
    if content is not None:
        file.write_bytes(content)
    assert main([command, "--config", str(file)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(file) in printed
    assert message in printed


def test_a_scenario_and_a_file_are_not_given_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", "x.json", "--scenario", "digits"]) == 2
    assert "config='x.json' is not allowed: it must be given without --scenario" in capsys.readouterr().err


PLUGIN_OPTIONS = {
    "dataset": "dataset",
    "endowment": "endowment",
    "network": "architecture",
    "optimizer": "optimizer",
    "parameter set rule": "parameter-sets",
    "aligner": "aligner",
    "merger": "merger",
    "mechanism": "mechanism",
    "reward term": "reward-terms",
    "scenario": "scenario",
}


@pytest.mark.parametrize("registry", [r for r in REGISTRIES.values() if r.kind in PLUGIN_OPTIONS], ids=lambda r: r.kind)
@pytest.mark.parametrize("text", ["[x]", "nobody", "train-cost", "file:nowhere.py", "nobody(", "{known}(nothing=1)"])
def test_every_error_of_a_plugin_is_shown_in_one_line(
    registry: Registry[Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = text.format(known=next(iter(registry)))
    with pytest.raises(ValueError, match=registry.kind.split()[0] + "|is not allowed") as refused:
        registry.parse(given)
    assert main(["run", f"--{PLUGIN_OPTIONS[registry.kind]}", given]) == 2
    assert capsys.readouterr().err == f"error: {refused.value}\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_shows_a_name_as_it_is_on_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--policies", f"file:nowhere/{name}.py"]) == 2
    shown = f"file:nowhere/{printable(name)}.py"
    assert capsys.readouterr().err.startswith(f"error: policy='{shown}' cannot be used: there is no file ")


def test_the_list_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "`" not in capsys.readouterr().out


def test_a_training_says_what_each_evaluation_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [
        *SMALL[: SMALL.index("--seeds")],
        "--device",
        "cpu",
        "--num-markets",
        "2",
        "--timesteps",
        "40",
        "--against",
        "train",
    ]
    assert main(["train", "--algo", "a2c", *small, "--out", str(tmp_path / "[a]")]) == 0
    lines = capsys.readouterr().out.splitlines()
    scores = pd.read_csv(tmp_path / "[a]" / "evaluations.csv")
    assert sum("steps: return" in line for line in lines) == len(scores)
    assert f"learned:{tmp_path / '[a]'}" in lines[-1]


PLAYED = [["run", "--policies", "hold"], ["evaluate", "hold", "--populations", "hold"]]


@pytest.mark.parametrize("command", PLAYED, ids=lambda command: command[0])
def test_results_go_to_the_home_folder(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main([*command, *SMALL, "--out=~/mine"]) == 0
    assert (tmp_path / "home" / "mine" / "summary.json").is_file()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("command", PLAYED, ids=lambda command: command[0])
def test_figures_are_printed_although_they_cannot_be_saved(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"paramarket_baselines.commands.{command[0]}.write_results", full)
    assert main([*command, *SMALL, "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert re.search(r"hold +.*0\.00", printed.out)
    assert "No space left on device" in printed.err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_playing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main(["run", *SMALL, "--policies", "hold", "--seeds", "1000000", "--out", str(out)]) == 2
        assert str(tmp_path / "file") in "".join(capsys.readouterr().err.split("\n"))
