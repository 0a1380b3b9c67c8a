"""Files that are kept: whatever fails and whenever, the last complete set is there; a folder has one owner."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from paramarket_baselines.cli import _parse
from paramarket_baselines.commands.options import result_folder
from paramarket_baselines.evaluation.results import write_json, write_picture, write_results
from paramarket_baselines.policies.learned import Learned
from paramarket_baselines.policies.saving import save_policy
from paramarket_baselines.training.callbacks import PATIENCE
from paramarket_baselines.training.checkpoint import load_checkpoint, save_checkpoint
from paramarket_baselines.training.plan import Plan, check_resume
from paramarket_baselines.training.sb3 import learn
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.files import claimed, expanded, read_member, write_file, write_set
from paramarket_env.interface.policy import POLICIES
from paramarket_env.market.engine import Engine
from paramarket_env.market.saved import load, save
from tests.baselines.policies.test_decisions import seat
from tests.helpers import priced_market

CONFIG = priced_market(max_cycles=4)


def new_model(kind: type[BaseAlgorithm] = A2C, seed: int = 0) -> tuple[Any, VecNormalize]:
    env = VecNormalize(VecMonitor(ParaMarketVecEnv(CONFIG, 2, "cpu")))
    settings: dict[str, Any] = {"n_steps": 4} if kind is A2C else {"buffer_size": 600, "learning_starts": 10}
    return kind("MlpPolicy", env, policy_kwargs={"net_arch": [5]}, seed=seed, device="cpu", **settings), env


# --- a disk that fills at any point -------------------------------------------------------------------------------

Writer = Callable[[Path, int], object]
"""Writes the version 1 or 2 of a set of files into a folder."""


def _results(folder: Path, version: int) -> object:
    tables = {"runs": pd.DataFrame({"return": [version]})}
    return write_results(folder, CONFIG, tables, {"version": version}, {"curves": Figure((version, 1))})


def _policy(folder: Path, version: int) -> object:
    return save_policy(folder, new_model(seed=version)[0], {"version": version})


def _checkpoint(folder: Path, version: int) -> object:
    model, env = new_model(seed=version)
    return save_checkpoint(folder, model, env, {"scores": [], "since": version}, {})


WRITERS: dict[str, Writer] = {
    "file": lambda folder, version: write_file(folder / "table.csv", f"{version}\n"),
    "json": lambda folder, version: write_json(folder / "new" / "summary.json", {"version": version}),
    "picture": lambda folder, version: write_picture(folder / "curves.png", Figure((version, 1))),
    "set": lambda folder, version: write_set(folder / "set.json", {}, {"a.bin": b"a%d" % version, "b.bin": b"b"}),
    "results": _results,
    "policy": _policy,
    "checkpoint": _checkpoint,
}


def content(folder: Path) -> dict[str, bytes]:
    """Read the files that stand alone, and those that a manifest names. Others were not finished."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    found = {str(file.relative_to(folder)): file.read_bytes() for file in files if file.suffix not in MEMBERS}
    for manifest in folder.rglob("*.json"):
        hashes = json.loads(manifest.read_text()).get("files", {})
        found |= {f"{manifest.relative_to(folder)}/{name}": read_member(manifest, hashes, name) for name in hashes}
    return found


MEMBERS = (".safetensors", ".bin")
"""The suffixes of files that a manifest names."""
CALLS = [(os, "replace"), (os, "fsync"), (Path, "write_bytes"), (Path, "write_text"), (Path, "mkdir"), (Path, "unlink")]


@pytest.fixture
def fails_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make the n-th call that changes the disk fail as on a full one, which still has room for half a file."""
    left = [10**9]

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if call.__name__.startswith("write_"):
                    call(args[0], args[1][: len(args[1]) // 2], **named)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **named)

        return wrapped

    for owner, name in CALLS:
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))

    def arm(n: int) -> list[int]:
        left[0] = n
        return left

    return arm


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_last_set_or_the_new_one_whenever_it_fills(
    name: str, tmp_path: Path, fails_at: Callable[[int], list[int]]
) -> None:
    write = WRITERS[name]
    write(tmp_path / "new", 2)
    write(tmp_path, 1) if name == "file" else write(tmp_path / "old", 1)
    folder = tmp_path if name == "file" else tmp_path / "old"
    old = content(folder) if name != "file" else {"table.csv": b"1\n"}
    new = content(tmp_path / "new")
    assert old != new
    for n in range(1, 200):
        left = fails_at(n)
        try:
            write(folder, 2)
        except OSError:
            left[0] = 10**9
            found = content(folder) if name != "file" else {"table.csv": (folder / "table.csv").read_bytes()}
            assert found in (old, new), n
            write(folder, 1)
        else:
            break
    left[0] = 10**9
    assert n > 2
    found = content(folder) if name != "file" else {"table.csv": (folder / "table.csv").read_bytes()}
    assert found == new
    assert not list(folder.rglob(".new-*"))


# --- a process that is killed -------------------------------------------------------------------------------------

TRAIN = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from paramarket_env import files
from paramarket_baselines.training import callbacks
from paramarket_baselines.training.plan import Plan
from paramarket_baselines.training.sb3 import learn
from tests.helpers import priced_market
import pandas as pd

real, left = os.replace, [int(sys.argv[2])]

def replace_or_die(*paths):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*paths)

os.replace = replace_or_die
callbacks.evaluate = lambda *_: pd.DataFrame({"return": [1.0], "error": [""]})
plan = Plan(priced_market(max_cycles=4), "a2c", timesteps=200, num_markets=2)
model = learn(plan, Path(sys.argv[1]), "cpu", resume="resume" in sys.argv)
print(model.num_timesteps)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "renames", [pytest.param(6, marks=pytest.mark.slow), 12]
)  # after the first checkpoint; within the second one
def test_a_training_that_was_killed_between_two_files_goes_on(renames: int, tmp_path: Path) -> None:
    def train(kill_at: int, *resume: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", TRAIN, str(tmp_path), str(kill_at), *resume]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    assert train(renames).returncode == -signal.SIGKILL
    assert Learned(str(tmp_path / "checkpoint"))(seat(CONFIG))
    done = train(10**9, "resume")
    assert done.returncode == 0, done.stderr
    assert Learned(str(tmp_path))(seat(CONFIG))
    scores = pd.read_csv(tmp_path / "evaluations.csv")["return"]
    assert len(scores) == 1 + PATIENCE  # as without the kill: evaluations of before count


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [A2C, DQN])
def test_a_checkpoint_brings_back_the_whole_model(kind: type[BaseAlgorithm], tmp_path: Path) -> None:
    model, env = new_model(kind)
    model.learn(80)
    save_checkpoint(tmp_path / "one", model, env, {"scores": [(80, 0.5)], "since": 3}, {})
    other, other_env = new_model(kind, seed=1)
    progress = load_checkpoint(tmp_path / "one", other, other_env)
    assert (progress.scores, progress.since, other.num_timesteps) == (((80, 0.5),), 3, model.num_timesteps)
    save_checkpoint(tmp_path / "two", other, other_env, {"scores": [(80, 0.5)], "since": 3}, {})
    assert content(tmp_path / "one") == content(tmp_path / "two")


# --- one owner ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_has_one_owner_at_a_time(existing: bool, tmp_path: Path) -> None:
    # A lock belongs to an opened file, so threads exclude each other as processes do.
    begin = Barrier(8)
    owners: list[Path] = []

    def claim(folder: Path) -> int:
        """Return the number of owners of the folder while this thread has it, or 0 if it does not get it."""
        begin.wait()
        with suppress(FileExistsError), claimed(folder, existing=existing):
            owners.append(folder)
            time.sleep(0.02)
            number = len(owners)
            (folder / "result").touch()
            owners.remove(folder)
            return number
        return 0

    for trial in range(20):
        folder = tmp_path / str(trial)
        if existing:
            folder.mkdir()
        with ThreadPoolExecutor(8) as pool:
            numbers = [number for number in pool.map(claim, [folder] * 8) if number]
        # One that comes after the owner has left can have a folder that may exist.
        assert set(numbers) == {1}
        assert existing or len(numbers) == 1
        assert [file.name for file in folder.iterdir()] == ["result"]


def test_new_folders_of_the_same_second_have_different_names() -> None:
    assert len({result_folder(None, "run") for _ in range(20)}) == 20


def test_a_folder_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = "import os, signal; from pathlib import Path; from paramarket_env.files import claimed\n"
    code += f"with claimed(Path({str(folder)!r}), existing=False): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with claimed(folder, existing=False):
        pass
    assert not folder.exists()


def test_a_folder_with_files_is_claimed_only_if_asked(tmp_path: Path) -> None:
    with claimed(tmp_path / "new", existing=False):
        (tmp_path / "new" / "table.csv").write_text("x")
    with (
        pytest.raises(FileExistsError, match="exists already: choose another folder, or pass --overwrite"),
        claimed(tmp_path / "new", existing=False),
    ):
        pass
    with claimed(tmp_path / "new", existing=True):
        pass
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["table.csv"]


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Path]:
    """A file outside a folder, to which a link in the folder leads."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    outside.write_text("mine")
    for name in ("table.csv", "summary.json", "config.json", "policy.json", "curves.png", "set.json"):
        (folder / name).symlink_to(outside)
    yield folder
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_is_replaced_and_not_followed(name: str, linked: Path) -> None:
    WRITERS[name](linked, 1)


def test_a_file_in_the_home_folder_is_written_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_json(Path("~") / "new" / "figures.json", {})
    write_picture(Path("~") / "new" / "curves.png", Figure())
    assert {file.name for file in (tmp_path / "home" / "new").iterdir()} == {"figures.json", "curves.png"}
    assert not (tmp_path / "~").exists()


def _plugin() -> object:
    expanded("~/mine.py").write_text("from paramarket_baselines.policies.decisions import Hold as policy")
    return POLICIES.parse("file:~/mine.py")


def _configuration() -> object:
    expanded("~/config.json").write_text(CONFIG.to_json())
    return _parse(["run", "--config", "~/config.json"])


def _market() -> None:
    engine = Engine(CONFIG, 1, "cpu")
    engine.reset(torch.tensor([0]))
    save(engine, "~/market.pt")
    load(engine, expanded("~/market.pt"))
    load(engine, "~/market.pt")


def _normalisation() -> None:
    model, env = new_model()
    model.save(expanded("~/mine.zip"))
    env.save(str(expanded("~/scale.pkl")))
    POLICIES.parse("sb3(path='~/mine.zip', algo='a2c', normalise='~/scale.pkl')")(seat(CONFIG))


def _training() -> None:
    plan = Plan(CONFIG, "a2c", timesteps=1, num_markets=2)
    learn(plan, "~/trained", "cpu")
    check_resume(plan, expanded("~/trained"))
    check_resume(plan, "~/trained")


@pytest.mark.parametrize("door", [_plugin, _configuration, _market, _normalisation, _training])
def test_a_path_in_the_home_folder_is_found_there(
    door: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    door()
    assert not (tmp_path / "~").exists()


def test_a_path_is_expanded_as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [str(expanded(path)) for path in ("~", "~/x", Path("~/x"), "a/~/x", "~no-such-user/x")] == [
        *("/home/me", "/home/me/x", "/home/me/x", "a/~/x", "~no-such-user/x")
    ]
