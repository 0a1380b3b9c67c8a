"""Building and loading the C++ kernels on machines of all kinds."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from paramarket_env.learning.kernels import build, compiled

HAS_COMPILER = build.library() is not None
NEEDS_COMPILER = pytest.mark.skipif(not HAS_COMPILER, reason="the C++ kernels cannot be built here")
ANSWER = 'extern "C" int answer() { return 42; }\n'
"""A library that takes no time to build."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and a small source."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "answer.cpp").write_text(ANSWER)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.library.cache_clear()
    yield tmp_path / "cache" / "paramarket"
    build.library.cache_clear()


def fake_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Make a shell script the only compiler; it counts its calls in the file that is returned."""
    path, calls = folder / "bin" / "g++", folder / "calls"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return calls


def assert_works() -> None:
    library = build.library()
    assert library is not None
    assert library.answer() == 42


def test_without_a_compiler_torch_serves_which_is_said_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with caplog.at_level(logging.INFO):
        assert build.library() is build.library() is None
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "no C++ compiler was found: g++, clang++, c++" in caplog.text


def test_a_broken_compiler_is_tried_once_and_its_message_is_logged(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = '[ "$1" = --version ] && exit 0; echo "cannot find -lstdc++" >&2; exit 1'
    calls = fake_compiler(tmp_path, monkeypatch, script)
    with caplog.at_level(logging.INFO):
        assert build.library() is build.library() is None
    assert "cannot find -lstdc++" in caplog.text
    assert len(calls.read_text().splitlines()) == 2  # its version, and one build
    assert list(cache.iterdir()) == []


@NEEDS_COMPILER
def test_the_library_is_built_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_compiler(tmp_path, monkeypatch, f'exec {build.compiler()} "$@"')
    assert_works()
    build.library.cache_clear()
    assert_works()
    built = [call for call in calls.read_text().splitlines() if call != "--version"]
    assert len(built) == len(list(cache.iterdir())) == 1


@NEEDS_COMPILER
def test_other_sources_are_another_library(cache: Path) -> None:
    assert_works()
    build.library.cache_clear()
    with (build.SOURCES / "answer.cpp").open("a") as file:
        file.write("// changed\n")
    assert_works()
    assert len(list(cache.iterdir())) == 2


@NEEDS_COMPILER
@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_truncated_library_is_built_again(cache: Path, kept: int) -> None:
    assert_works()
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.unlink()  # since it is loaded
    path.write_bytes(content[:kept])
    build.library.cache_clear()
    assert_works()
    assert path.read_bytes() == content


@NEEDS_COMPILER
@pytest.mark.parametrize("obstacle", ["a file", "no permission"])
def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if obstacle == "a file":
        cache.parent.write_text("in the way")
    else:

        def denied(*_: object, **__: object) -> None:
            raise PermissionError("read-only file system")

        monkeypatch.setattr(Path, "mkdir", denied)
    assert_works()
    assert not cache.exists()


@NEEDS_COMPILER
def test_processes_may_build_at_once(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from paramarket_env.learning.kernels import build;"
        f"build.SOURCES = Path({str(build.SOURCES)!r}); sys.exit(build.library().answer() != 42)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1
    assert_works()


def _row(number: int) -> list[int]:
    products = torch.randn(300, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
    torch.set_num_threads(2)
    rows: list[int] = compiled.assign(products).flatten().tolist()
    return rows


@NEEDS_COMPILER
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.usefixtures("_threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_compute_as_their_parent_does(method: str) -> None:
    expected = [_row(number) for number in range(4)]
    with get_context(method).Pool(2) as pool:
        assert pool.map(_row, range(4)) == expected


@NEEDS_COMPILER
@pytest.mark.usefixtures("_threads")
def test_many_threads_may_call_at_once() -> None:
    expected = [_row(number) for number in range(64)]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(_row, range(64))) == expected
