"""All that is to be known of a GPU, within 8 minutes: ``python -m benchmarks.gpu``.

It runs the tests that need a GPU, and measures throughput, phases, the Triton kernels against torch, TF32, memory
against its estimate, and the number of markets from which the GPU is faster than the CPU. Each part runs in a process
of its own within a budget, and its figures are stored when it ends. A second run goes on with the parts that are
missing or failed. The results are one JSON file and one page in Markdown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro

from benchmarks.contenders import CPU, Contender, always_open, engine_contender, peak_memory
from benchmarks.phases import now
from benchmarks.roofline import Yardstick
from paramarket_baselines.evaluation.display import markdown, new_console
from paramarket_baselines.evaluation.results import Provenance, machine, plain, provenance, read_json, write_json
from paramarket_env.files import write_file
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.market.devices import resolve_device
from paramarket_env.scenarios import scenario

ROOT = Path(__file__).parents[1]
TESTS = ("tests/market/test_cuda.py", "tests/learning/kernels/triton_cases.py")
PROCESSES = 8
"""The number of processes that run the tests. Most of the time is that of Triton's compiler, so they share it."""
TOO_LARGE = (ValueError, torch.cuda.OutOfMemoryError)
"""An engine raises these if its markets do not fit into memory."""


@dataclass(frozen=True)
class Gpu:
    """Test and measure a GPU."""

    device: str = "cuda"
    """The GPU: `cuda`, or `cuda:1` for the second."""
    num_markets: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
    """Numbers of markets for throughput and phases."""
    compared: int = 1024
    """Number of markets with which kernels and precisions are compared."""
    memory_markets: tuple[int, ...] = (256, 4096)
    """Numbers of markets whose peak memory is measured."""
    crossover_markets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of markets with which the GPU is compared with the CPU."""
    repeats: int = 5
    """Steps to measure, after two to warm up."""
    out: Path = Path("benchmarks/results/gpu.json")
    """File for the figures; the page is written next to it."""


Row = dict[str, Any]
Figures = dict[str, Any]
"""The figures of a part by name. Its rows are in ``rows``."""
Part = Callable[[Gpu, torch.device, float], Iterator[Figures]]
"""A part takes the options, the device and the seconds that it has, and yields its figures so far, again and again."""


def contender(num_markets: int, device: torch.device) -> Contender:
    """The default market, in which everybody trains and every offer is quoted."""
    return engine_contender(f"M = {num_markets}", always_open(scenario("digits")), num_markets, device)


def seconds_of(steps: Contender, repeats: int) -> float:
    """The median of the seconds of a step, after two to warm up."""
    times = []
    for _ in range(repeats + 2):
        start = now(steps.device)
        steps.step()
        times.append(now(steps.device) - start)
    return median(times[2:])


def measured(seconds: float, jobs: Mapping[str, Callable[[], Row]]) -> Iterator[list[Row]]:
    """Yield the rows of the jobs so far, as far as time and memory allow. What is left out has a ``note``."""
    start, rows = time.monotonic(), []
    for name, job in jobs.items():
        try:
            late = time.monotonic() - start > 0.6 * seconds
            row = {"note": f"left out, since the part has {seconds:.0f} s"} if late else job()
        except TOO_LARGE as error:
            row = {"note": str(error).splitlines()[0]}
        rows.append({"name": name} | row)
        yield rows


# --- the parts --------------------------------------------------------------------------------------------------------


def run_tests(options: Gpu, device: torch.device, seconds: float) -> Iterator[Figures]:
    """Run the tests of a GPU; figures are pytest's last line and the tests that failed."""
    # With several processes, pytest-benchmark gives a warning.
    command = [sys.executable, "-m", "pytest", "-q", f"-n{PROCESSES}", "-p", "no:benchmark", "--tb=line", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=0.95 * seconds)
    lines = (done.stdout + done.stderr).splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    yield {"passed": done.returncode == 0, "summary": lines[-1] if lines else "", "failed": failed}


def measure_throughput(options: Gpu, device: torch.device, seconds: float) -> Iterator[Figures]:
    """Agent-steps per second without phases, then the phases, which the clock makes wait for each other."""
    yardstick = Yardstick(device)
    for _ in range(3):
        yardstick.measure()

    def row(count: int) -> Row:
        steps = contender(count, device)
        step = seconds_of(steps, options.repeats)
        steps.measure()
        floor = yardstick.roofline(sum(steps.flop.values()), sum(steps.moved.values()))
        return (
            _speed(steps, step)
            | {"times roofline": step / floor}
            | {f"{name}, ms": 1000 * s for name, s in steps.phases.items()}
        )

    rates = {"product FLOP/s": yardstick.product_rate, "copy bytes/s": yardstick.copy_bandwidth}
    for rows in measured(seconds, {f"M = {count}": partial(row, count) for count in options.num_markets}):
        yield {"rows": rows} | rates


def compare_kernels(options: Gpu, device: torch.device, seconds: float) -> Iterator[Figures]:
    """The phases with the kernels of the device, and with torch alone."""

    def row(backend: str) -> Row:
        with forced(backend):
            steps = contender(options.compared, device)
            step = seconds_of(steps, options.repeats)
            steps.measure()
        return _speed(steps, step) | {f"{name}, ms": 1000 * s for name, s in steps.phases.items()} | _losses(steps)

    for rows in measured(seconds, {name: partial(row, name) for name in ("auto", "torch")}):
        yield {"rows": rows}


def compare_precisions(options: Gpu, device: torch.device, seconds: float) -> Iterator[Figures]:
    """The time of a step, and the agents' mean loss after it, with and without TF32."""

    def row(precision: str) -> Row:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            steps = contender(options.compared, device)
            return _speed(steps, seconds_of(steps, options.repeats)) | _losses(steps)
        finally:
            torch.set_float32_matmul_precision(before)

    names = {"float32": "highest", "TF32": "high"}
    for rows in measured(seconds, {name: partial(row, precision) for name, precision in names.items()}):
        yield {"rows": rows}


def measure_memory(options: Gpu, device: torch.device, seconds: float) -> Iterator[Figures]:
    """The peak memory of a separate process, and the engine's estimate of it, in MiB."""

    def row(count: int) -> Row:
        [taken] = peak_memory([(always_open(scenario("digits")), count)], device)
        return {"peak, MiB": taken.peak - taken.bare, "estimate, MiB": taken.estimate}

    for rows in measured(seconds, {f"M = {count}": partial(row, count) for count in options.memory_markets}):
        yield {"rows": rows}


def find_crossover(options: Gpu, device: torch.device, seconds: float) -> Iterator[Figures]:
    """The smallest number of markets from which the device is faster than the CPU; None if there is none."""

    def row(count: int) -> Row:
        times = {each.type: seconds_of(contender(count, each), options.repeats) for each in (device, CPU)}
        return {"device, ms": 1000 * times[device.type], "CPU, ms": 1000 * times["cpu"]}

    for rows in measured(seconds, {str(count): partial(row, count) for count in options.crossover_markets}):
        yield {"rows": rows, "markets": crossover(rows)}


def crossover(rows: Sequence[Row]) -> int | None:
    """The number of markets of the first of the rows from which the device is faster in all rows."""
    known = [row for row in rows if "note" not in row]
    slower = [index for index, row in enumerate(known) if row["device, ms"] >= row["CPU, ms"]]
    faster = known[max(slower, default=-1) + 1 :]
    return int(faster[0]["name"]) if faster else None


def _speed(steps: Contender, seconds: float) -> Row:
    return {"agent-steps/s": steps.num_markets * steps.config.agents / seconds, "step, ms": 1000 * seconds}


def _losses(steps: Contender) -> Row:
    """The losses of the first market's agents, in nats, which say whether two ways to compute agree."""
    return {f"loss {agent}, nats": loss for agent, loss in enumerate(steps.losses())}


PARTS: dict[str, tuple[Part, float]] = {
    "tests": (run_tests, 130),
    "throughput": (measure_throughput, 110),
    "kernels": (compare_kernels, 70),
    "precision": (compare_precisions, 50),
    "memory": (measure_memory, 60),
    "crossover": (find_crossover, 60),
}
"""Each part, and the seconds that it may take; together 8 minutes."""


# --- the command ------------------------------------------------------------------------------------------------------


def run_part(name: str, options: Gpu, device: torch.device) -> Figures:
    """The figures of a part. A part without any has an ``error``; one that was cut off has a ``note``.

    A fault of the device ends only the part's process.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_part, args=(sender, name, options, device))
    start, seconds = time.monotonic(), PARTS[name][1]
    process.start()
    sender.close()  # so that the receiver learns when the process ends
    figures: Figures = {"error": f"no figures within {seconds:.0f} s, or the process ended early"}
    try:
        while receiver.poll(max(0.0, start + seconds - time.monotonic())):
            figures = receiver.recv()
        figures |= {"note": f"cut off after {seconds:.0f} s"}
    except EOFError:
        pass
    process.kill()
    process.join()
    return figures | {"seconds": time.monotonic() - start}


def _send_part(sender: Connection, name: str, options: Gpu, device: torch.device) -> None:
    part, seconds = PARTS[name]
    try:
        for figures in part(options, device, seconds):
            sender.send(plain(figures))
    except Exception as error:  # the other parts go on
        sender.send({"error": f"{type(error).__name__}: {error}"})


def stored_parts(file: Path, origin: Provenance) -> dict[str, Figures]:
    """The parts of an earlier run on the same device with the same versions that ended well."""
    content = read_json(file) if file.exists() else {}
    if any(content.get(key) != value for key, value in origin.items()):
        return {}
    return {name: figures for name, figures in content["parts"].items() if "error" not in figures}


def page(results: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    lines = ["# A GPU", "", f"{machine(dict(results))}, `python -m benchmarks.gpu`"]
    for name, figures in results["parts"].items():
        lines += ["", f"## {name.capitalize()}", ""]
        rows = figures.get("rows", [])
        if rows:
            labels = list(dict.fromkeys(label for row in rows for label in row if label != "name"))
            cells = {row["name"]: [_cell(row.get(label, "")) for label in labels] for row in rows}
            lines += [markdown(cells, labels), ""]
        lines += [f"- {label}: {_cell(value)}" for label, value in figures.items() if label != "rows"]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    """Four significant digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def run(options: Gpu) -> dict[str, Any]:
    """Run the parts that are missing, and store each when it ends. Returns the content of the JSON file."""
    device, console = resolve_device(options.device), new_console(120)
    origin = provenance([0], device, dated=False)
    results = origin | {"parts": stored_parts(options.out, origin)}
    console.print(machine(origin))
    for name in PARTS:
        if name not in results["parts"]:
            results["parts"][name] = run_part(name, options, device)
            results["parts"] = {each: results["parts"][each] for each in PARTS if each in results["parts"]}
            write_json(options.out, results)
            write_file(options.out.with_suffix(".md"), page(results))
        figures = results["parts"][name]
        console.print(f"{name}: {figures.get('error', 'done')}, {figures['seconds']:.0f} s")
    console.print(f"wrote {options.out} and {options.out.with_suffix('.md')}")
    return results


def main() -> None:
    """Run all parts; exit with status 1 where there is no GPU, or if a part failed."""
    options = tyro.cli(Gpu)
    if not torch.cuda.is_available() and options.device.startswith("cuda"):
        sys.exit("There is no GPU: torch.cuda.is_available() is False. Nothing was measured.")
    parts = run(options)["parts"].values()
    sys.exit(any("error" in part or part.get("passed") is False for part in parts))


if __name__ == "__main__":
    main()
