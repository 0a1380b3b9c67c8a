"""The benchmark of a GPU: its parts, on the CPU with few markets, and what it stores."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, roofline
from benchmarks.gpu import PARTS, Gpu, crossover, measured, page, run, run_part

CPU = torch.device("cpu")
SMALL = Gpu(device="cpu", num_markets=(1, 2), compared=1, memory_markets=(1,), crossover_markets=(1,), repeats=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    # Python prints a text on standard error and exits with status 1.
    assert ended.value.code == "There is no GPU: torch.cuda.is_available() is False. Nothing was measured."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in PARTS if name != "tests"])
def test_each_part_measures_on_the_cpu_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.PRODUCT_WIDTH, "cpu", 64)
    monkeypatch.setitem(roofline.COPIED, "cpu", 1024)
    *_, figures = PARTS[name][0](SMALL, CPU, 100)
    assert figures["rows"]
    for row in figures["rows"]:
        assert "note" not in row
        assert all(value > 0 for label, value in row.items() if label.endswith(("ms", "/s", "estimate, MiB")))
    if name in ("kernels", "precision"):
        one, two = ([row[f"loss {agent}, nats"] for agent in range(2)] for row in figures["rows"])
        assert one == pytest.approx(two, abs=1e-5)


def test_the_tests_part_reports_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test_planted.py"
    file.write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    monkeypatch.setattr(gpu, "TESTS", (str(file),))
    monkeypatch.setattr(gpu, "PROCESSES", 2)
    [figures] = gpu.run_tests(SMALL, CPU, 100)
    assert not figures["passed"]
    assert "1 failed, 1 passed" in figures["summary"]
    assert "test_bad" in figures["failed"][0]


def test_rows_are_left_out_when_time_or_memory_is_short() -> None:
    def too_large() -> Any:
        raise ValueError("num_markets=9 is not allowed")

    jobs = {"large": too_large, "slow": lambda: time.sleep(0.4) or {}, "late": lambda: {"x": 1}}
    *_, rows = measured(0.5, jobs)
    assert rows[0] == {"name": "large", "note": "num_markets=9 is not allowed"}
    assert rows[1] == {"name": "slow"}
    assert rows[2]["note"].startswith("left out")


def test_all_budgets_together_are_eight_minutes() -> None:
    assert sum(seconds for _, seconds in PARTS.values()) <= 480


def test_a_second_run_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def fake(name: str, options: Gpu, device: torch.device) -> dict[str, Any]:
        ran.append(name)
        if name == "memory" and ran.count(name) == 1:
            return {"error": "the process ended early", "seconds": 1.0}
        if name == "crossover" and ran.count(name) == 1:
            raise KeyboardInterrupt
        return {"rows": [{"name": "M = 1", "step, ms": 1.25}], "seconds": 2.0}

    monkeypatch.setattr(gpu, "run_part", fake)
    options = Gpu(device="cpu", out=tmp_path / "gpu.json")
    with pytest.raises(KeyboardInterrupt):
        run(options)
    assert list(json.loads(options.out.read_text())["parts"]) == list(PARTS)[:-1]
    ran.clear()
    ran += ["memory", "crossover"]
    results = run(options)
    assert ran[2:] == ["memory", "crossover"]
    assert list(results["parts"]) == list(PARTS)
    assert "| M = 1 | 1.25 |" in options.out.with_suffix(".md").read_text()


def test_what_another_version_measured_is_measured_anew(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"device": "a", "parts": {"tests": {"seconds": 1.0}}}))
    assert gpu.stored_parts(file, {"device": "a"}) == {"tests": {"seconds": 1.0}}
    assert gpu.stored_parts(file, {"device": "b"}) == {}


def test_a_part_that_fails_is_stored_with_its_error() -> None:
    figures = run_part("throughput", Gpu(num_markets=(1,)), torch.device("meta"))
    assert figures["error"]
    assert figures["seconds"] > 0
    assert "error" in page({"device": "d", "versions": {"torch": "0"}, "parts": {"throughput": figures}})


@pytest.mark.parametrize(
    ("times", "expected"),
    [([(2, 1), (2, 1)], None), ([(1, 2), (1, 2)], 1), ([(2, 1), (1, 2)], 2), ([(1, 2), (2, 1)], None), ([], None)],
)
def test_the_crossover_is_where_the_device_begins_to_be_faster(
    times: list[tuple[int, int]], expected: int | None
) -> None:
    rows = [{"name": str(n), "device, ms": ours, "CPU, ms": cpu} for n, (ours, cpu) in enumerate(times, start=1)]
    assert crossover([*rows, {"name": "64", "note": "left out"}]) == expected
