"""Build the C++ kernels once for each machine, and load them.

The library lies in the user's cache folder. Its name follows from its sources, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SOURCES = Path(__file__).parent / "cpp"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-pthread"),
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
"""NaN and infinity keep their meaning, since they show that a network has failed."""
SECONDS = 300
"""The time that the compiler may take."""


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None where they cannot be built or loaded. The reason is logged once."""
    try:
        return _load(compiler())
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        # This is no warning, since each of many processes would give it, and torch does the same work.
        logging.getLogger(__name__).info("torch serves as the C++ kernels are not available: %s", reason)
        return None


def compiler() -> str:
    """The path of a C++ compiler. Raises ``FileNotFoundError`` where there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise FileNotFoundError(f"no C++ compiler was found: {', '.join(COMPILERS)}")


def _load(compiler: str) -> ctypes.CDLL:
    name = f"kernels-{_key(compiler)}.so"
    try:
        return _load_cached(compiler, _cache_folder() / name)
    except OSError:  # the folder cannot be written, or libraries in it cannot be executed
        with TemporaryDirectory() as folder:
            return ctypes.CDLL(str(_compile(compiler, Path(folder) / name)))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paramarket"


def _key(compiler: str) -> str:
    """A hash of all that the library depends on."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout
    sources = [path.read_bytes() for path in sorted(SOURCES.iterdir())]
    parts = [*sources, version, " ".join(FLAGS).encode(), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """The processor's instruction set, for which the library is built."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.machine()} {features}"


def _load_cached(compiler: str, path: Path) -> ctypes.CDLL:
    """Load the library, which is built first unless it is there and intact."""
    if not _intact(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other processes may do the same. Each builds in a folder of its own, and renaming is atomic.
        with TemporaryDirectory(dir=path.parent) as folder:
            _compile(compiler, Path(folder) / path.name).replace(path)
    return ctypes.CDLL(str(path))


def _compile(compiler: str, path: Path) -> Path:
    """Build the library, and append the hash of its content, which loaders ignore."""
    sources = [str(source) for source in sorted(SOURCES.glob("*.cpp"))]
    command = [compiler, *FLAGS, *sources, "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    content = path.read_bytes()
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path


def _intact(path: Path) -> bool:
    """Whether the library is there and complete. A truncated one could crash the process that loads it."""
    content = path.read_bytes() if path.is_file() else b""
    size = len(content) - hashlib.sha256().digest_size
    return size > 0 and hashlib.sha256(content[:size]).digest() == content[size:]
