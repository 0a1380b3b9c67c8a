"""The Triton kernels in Triton's interpreter, and through its compiler for a GPU that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paramarket_env.learning.kernels.triton_shapes import fits_training, fits_trials, layout

FOLDER = Path(__file__).parent

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(*arguments: str, interpreted: bool) -> str:
    """The output of Python in a process of its own, which must know from the start whether Triton interprets."""
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpreted))}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=FOLDER.parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
@pytest.mark.parametrize(
    "subject",
    ["assign", *(pytest.param(subject, marks=pytest.mark.slow) for subject in ("train", "tries", "match", "market"))],
)
def test_kernels_equal_torchs_in_the_interpreter(subject: str) -> None:
    out = run("-m", "pytest", "-q", "-n0", "-k", subject, str(FOLDER / "triton_cases.py"), interpreted=True)
    assert " passed" in out
    assert "skipped" not in out


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["assign", "match", "train sgd", "train momentum", "train adam", "tries", "losses"])
def test_kernels_compile_for_a_gpu(kernel: str) -> None:
    """The compiler is stricter than the interpreter: types must not change in a loop, and constants must be such."""
    shared = int(run(str(FOLDER / "compile_triton.py"), kernel, interpreted=False).split()[-1])
    assert shared <= 99 * 1024  # bytes of shared memory that a program may take on a small GPU


def test_the_layout_of_an_mlp() -> None:
    assert layout((20, 7, 5)) == {"WIDTHS": (20, 7, 5), "PADDED": (32, 16, 16), "OFFSETS": (0, 147)}


def test_only_small_networks_fit_into_registers() -> None:
    default, wide = (64, 32, 32, 10), (784, 128, 10)
    assert all(fits_training(default, 32, states) for states in (0, 1, 2))
    assert not fits_training(wide, 32, 0)
    assert not fits_training(default, 256, 0)
    assert fits_trials(default)
    assert fits_trials((784, 32, 10))
    assert not fits_trials(wide)
