"""The command as a process: signals, closed pipes, encodings, and what it imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "paramarket_baselines"]
LONG = ["--scenario", "digits-priced", "--max-cycles", "100000", "--device", "cpu"]
TINY = ["--train-samples", "120", "--validation-samples", "60", "--test-samples", "60", "--batch-size", "16"]
TINY += ["--max-cycles", "1", "--device", "cpu"]


def start(arguments: Sequence[str], encoding: str = "utf-8", **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "baselines")])
    settings = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(arguments, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding=encoding)


def finish(process: subprocess.Popen[str], timeout: float = 60) -> tuple[str, str]:
    """The output and the errors of a process. One that does not end is killed, so that no other test finds it."""
    with process:
        try:
            return process.communicate(timeout=timeout)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "word", "delay"),
    [(signal.SIGINT, "interrupted", 0.3), (signal.SIGINT, "interrupted", 1), (signal.SIGTERM, "terminated", 0.3)],
)
def test_a_signal_during_the_start_is_answered_in_one_line(number: signal.Signals, word: str, delay: float) -> None:
    process = start([*COMMAND, "run", *LONG, "--out", os.devnull])
    time.sleep(delay)
    process.send_signal(number)
    out, err = finish(process)
    assert (process.returncode, out, err) == (128 + number, "", f"{word}\n")


@pytest.mark.parametrize(
    ("command", "number", "word"),
    [
        (["run", *LONG, "--policies", "train"], signal.SIGINT, "interrupted"),
        pytest.param(["evaluate", "train", *LONG], signal.SIGTERM, "terminated", marks=pytest.mark.slow),
        (["train", *LONG, "--num-markets", "2"], signal.SIGINT, "interrupted"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_signal_during_the_work_is_answered_in_one_line(
    command: list[str], number: signal.Signals, word: str, tmp_path: Path
) -> None:
    process = start([*COMMAND, *command, "--out", str(tmp_path / "out")])
    while not (tmp_path / "out").exists():  # made when everything is checked and the work begins
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = finish(process)
    assert (process.returncode, err) == (128 + number, f"{word}\n")


SIGNAL_IN_A_FINALIZER = """
import os, time
from paramarket_baselines import process

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0)

def command():
    Finalized()
    time.sleep(5)
    print("went on")

raise SystemExit(process.run_to_end(command))
"""


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_whose_exception_python_ignores_still_ends_the_command(number: signal.Signals, word: str) -> None:
    """Python drops an exception in a finalizer or in a weak reference's callback, of which an import has many."""
    script = SIGNAL_IN_A_FINALIZER.format(number=int(number))
    process = start([sys.executable, "-c", script])
    out, err = finish(process)
    assert (process.returncode, out, err) == (128 + number, "", f"{word}\n")


def test_other_exceptions_that_python_ignores_are_shown() -> None:
    script = (
        "from paramarket_baselines import process\nclass Broken:\n    def __del__(self): raise ValueError('lost')\n"
    )
    process = start([sys.executable, "-c", script + "process.run_to_end(lambda: Broken() and None)"])
    _, err = finish(process)
    assert (process.returncode, "ValueError: lost" in err) == (0, True)


@pytest.mark.parametrize("arguments", [["list"], pytest.param(["run", "--help"], marks=pytest.mark.slow)])
def test_a_reader_that_has_seen_enough_ends_the_command_without_a_word(arguments: list[str]) -> None:
    with start([*COMMAND, *arguments]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(("encoding", "figure"), [("ascii", "~"), ("latin-1", "±"), ("utf-8", "±")])
def test_an_encoding_without_our_characters_gets_others(encoding: str, figure: str) -> None:
    script = "from paramarket_baselines import process; "
    script += "process.run_to_end(lambda: print('1.00 \\xb1 0.10 \\u2190 \\udcff'))"
    process = start([sys.executable, "-c", script], encoding=encoding, PYTHONIOENCODING=encoding)
    out, err = finish(process)
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"1.00 {figure} 0.10 ")


ALL_COMMANDS = f"""
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
from paramarket_baselines import __main__
for number, arguments in enumerate((
    ["list"],
    ["run", "--seeds", "2", "--policies", "train"],
    ["evaluate", "train", "--populations", "train", "--seeds", "2"],
    ["train", "--num-markets", "2", "--timesteps", "4", "--against", "train"],
)):
    given = arguments + ({TINY} + ["--out", f"out-{{number}}"] if number else [])
    sys.argv = ["paramarket", *given]
    assert __main__.main() == 0, arguments
    if number == 0:
        assert not {{"matplotlib", "IPython", "ray", "torchrl"}} & sys.modules.keys()
    assert "matplotlib.pyplot" not in sys.modules
"""

LIBRARY = """
import os, sys
from paramarket_env import paramarket_v0
missing = {"matplotlib", "stable_baselines3", "ray", "torchrl", "IPython", "paramarket_baselines"} & sys.modules.keys()
assert not missing, missing
env = paramarket_v0.parallel_env("digits-short", render_mode="rgb_array", device="cpu")
env.reset(seed=0)
assert env.render().shape == (720, 1200, 3)
assert "matplotlib.pyplot" not in sys.modules
"""


@pytest.mark.parametrize(
    ("script", "backend"),
    [
        pytest.param(LIBRARY, "module://matplotlib_inline.backend_inline", marks=pytest.mark.slow),
        (LIBRARY, "nonsense"),
        pytest.param(ALL_COMMANDS, "nonsense", marks=pytest.mark.slow),
        pytest.param(ALL_COMMANDS, "module://matplotlib_inline.backend_inline", marks=pytest.mark.slow),
    ],
    ids=["library-inline", "library-unknown", "commands-unknown", "commands-inline"],
)
def test_no_backend_of_matplotlib_is_needed(script: str, backend: str, tmp_path: Path) -> None:
    process = start([sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{script}"], MPLBACKEND=backend)
    _, err = finish(process, timeout=200)
    assert process.returncode == 0, err
