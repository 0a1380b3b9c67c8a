"""The command: what is played and kept, what is missing, and that a killed run ends with the same pages."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.paper import __main__ as command
from benchmarks.paper import cells, experiments
from benchmarks.paper.cells import Cell, Result
from benchmarks.paper.experiment import Experiment
from benchmarks.paper.store import Store
from benchmarks.runner import Runner
from tests.benchmarks.paper.tiny import CLOTHES, TINY

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def tiny_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are only tiny experiments, and they are played in this process."""

    def here(
        runner: Runner, function: Callable[[Cell], Result], given: Sequence[Cell]
    ) -> Iterator[tuple[Cell, Result]]:
        return ((cell, function(cell)) for cell in given)

    known: dict[str, Experiment] = {"tiny": TINY, "clothes": CLOTHES}
    for module in (command, experiments):
        monkeypatch.setattr(module, "EXPERIMENTS", known)
    monkeypatch.setattr(Runner, "_local", here)


def run(out: Path, name: str = "tiny", *more: str) -> dict[str, bytes]:
    """The files beside the cells that the command has made."""
    command.main([name, "--seeds", "2", "--device", "cpu", "--out", str(out), *more])
    return pages(out)


def pages(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and "cells" not in file.parts)
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_an_experiment_fills_a_page_a_table_and_a_picture(tmp_path: Path) -> None:
    made = run(tmp_path)
    assert set(made) == {"tiny.md", "tiny.csv", "tiny.png"}
    page = made["tiny.md"].decode()
    for part in (TINY.question, "python -m benchmarks.paper tiny --seeds 2\n", "| rounds 3 |", "Trade helps: **"):
        assert part in page
    table = made["tiny.csv"].decode().splitlines()
    assert table[0].startswith("rounds,arm,seed,agent,task,test_accuracy")
    assert table[0].endswith("config_hash,device,versions")
    assert len(table) == 1 + 2 * 2 * 2 * 2  # rounds, arms, seeds, agents


def test_a_second_run_plays_nothing_and_makes_the_same_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(tmp_path)
    monkeypatch.setattr(cells, "play", None)
    assert run(tmp_path) == made


def test_a_quick_run_has_a_folder_of_its_own_and_says_so(tmp_path: Path) -> None:
    made = run(tmp_path, "tiny", "--quick")
    assert set(made) == {"quick/tiny.md", "quick/tiny.csv", "quick/tiny.png"}
    assert "**Quick run**" in made["quick/tiny.md"].decode()


def test_other_seeds_are_other_cells(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, "tiny", "--seeds", "3")
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2 * 4


def test_all_goes_on_without_data_and_lists_the_hole(tmp_path: Path) -> None:
    made = run(tmp_path, "all", "--data-dir", str(tmp_path / "nowhere"))
    assert {"tiny.md", "clothes.md", "index.md"} < set(made)
    index = made["index.md"].decode()
    assert "## Claim 2: [clothes](clothes.md)" in index
    assert "- clothes, clothes, out of market; clothes, market unaligned: " in index.partition("## Holes")[2]
    assert "train-images-idx3-ubyte" in index
    assert "Not played:" in made["clothes.md"].decode()


def test_a_full_run_that_needs_a_gpu_is_a_hole_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.EXPERIMENTS, "tiny", replace(TINY, needs_gpu=True))
    assert not run(tmp_path, "tiny")
    assert "quick/tiny.md" in run(tmp_path, "tiny", "--quick")


def test_the_folder_of_data_is_no_part_of_a_hash(tmp_path: Path) -> None:
    cell = next(cell for cell in CLOTHES.cells(2, quick=True) if cell.setting["data"] == "clothes")
    located = cells.located(cell.config, {"FashionMNIST": str(tmp_path)})
    assert located.data.dataset.data_dir == str(tmp_path)  # type: ignore[union-attr]
    assert str(tmp_path) not in str(cell.config)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nothing"], "unknown experiment 'nothing': choose from all, clothes, tiny"),
        (["tiny", "--seeds", "1"], "seeds=1 is not allowed: it must be an integer >= 2"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    with pytest.raises(SystemExit):
        command.main([*arguments, "--out", str(tmp_path / "out")])
    assert error in " ".join(capsys.readouterr().err.replace("│", "").split())
    assert not (tmp_path / "out").exists()


def test_without_ray_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'paramarket-env\[rllib\]'"):
        run(tmp_path, "tiny", "--ray", "auto")


# --- processes --------------------------------------------------------------------------------------------------------


def start(out: Path) -> subprocess.Popen[bytes]:
    """The command as a process of its own."""
    module = "tests.benchmarks.paper.tiny"
    options = [sys.executable, "-m", module, "tiny", "--seeds", "2", "--device", "cpu", "--out", str(out)]
    return subprocess.Popen(options, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_at(process: subprocess.Popen[bytes], cells: Path, count: int, delay: float) -> None:
    """Kill the command some time after so many cells are kept, and wait for its workers to end."""
    while process.poll() is None and len(list(cells.glob("*.json"))) < count:
        time.sleep(0.002)
    time.sleep(delay)
    workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


@pytest.mark.parametrize("kept", range(4))
def test_a_run_that_is_cut_off_after_any_cell_ends_with_the_same_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    write, left = Store.write, iter(range(kept))

    def cut_off(store: Store, cell: Cell, result: Result) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(store, cell, result)

    monkeypatch.setattr(Store, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(Store, "write", write)
    assert not pages(tmp_path / "cut")
    assert run(tmp_path / "cut") == run(tmp_path / "whole")


def test_a_killed_run_leaves_no_process_and_ends_with_the_same_pages(tmp_path: Path) -> None:
    out, draw = tmp_path / "killed", random.Random()
    kill_at(start(out), out / "cells", draw.randrange(1, 4), delay=draw.uniform(0, 0.1))
    assert run(out) == run(tmp_path / "whole")
    assert not list(out.rglob(".new-*"))


def test_a_ray_cluster_of_two_nodes_makes_the_same_tables(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        assert run(tmp_path / "ray", "tiny", "--ray", cluster.address) == run(tmp_path / "local")
    finally:
        ray.shutdown()
        cluster.shutdown()
