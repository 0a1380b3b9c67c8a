"""Files that are kept: written beside and then renamed, in folders that one process has at a time.

A process that is killed, or a disk that is full, leaves the last complete set of files as it was. The *manifest* of a
set is the file that is replaced last. It names the other files, so that a set is complete if its manifest is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

LOCK = ".lock"
"""The file that a process locks while it writes into a folder."""
STAGED = ".new-"
"""The beginning of the names of files that are not complete yet."""


def expanded(path: Path | str) -> Path:
    """A path as the user means it: ``~`` is the home folder. As in a shell, ``~`` with an unknown user stays."""
    return Path(os.path.expanduser(path))  # pathlib's own raises RuntimeError for an unknown user


@contextmanager
def staged(file: Path | str) -> Iterator[Path]:
    """A path beside ``file``, in a folder that is made if needed. What the block writes there replaces the file.

    If the block raises an exception, the file stays as it was.
    """
    file = expanded(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{STAGED}{uuid4().hex[:12]}-{file.name}")
    try:
        yield new
        _flush(new)
        os.replace(new, file)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def write_file(file: Path, content: bytes | str) -> None:
    """Replace a file by one with this content, and make its folder if needed."""
    with staged(file) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(file: Path) -> None:
    """Wait until the file is on the disk, so that no later rename arrives there before it."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


# --- sets of files ------------------------------------------------------------------------------------------------


def write_set(manifest: Path, content: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Replace a manifest and the files that it names. ``files`` has their contents, by names with a suffix.

    Each file gets a name with the hash of its content, so it replaces no file of the set before.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in files.items():
        write_file(manifest.parent / _hashed(name, hashes[name]), data)
    write_file(manifest, json.dumps({**content, "files": hashes}, indent=2) + "\n")
    for name in files:
        _forget(manifest.parent, name, keep=_hashed(name, hashes[name]))


def read_member(manifest: Path, hashes: Mapping[str, str], name: str) -> bytes:
    """The content of a file of a set; raises ``ValueError`` unless it is there and complete."""
    file = manifest.parent / _hashed(name, hashes.get(name, ""))
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != hashes.get(name):
        raise ValueError(f"{str(file)!r} is damaged: its content is not what {manifest.name} says")
    return data


def remove_set(manifest: Path, names: Sequence[str]) -> None:
    """Remove a manifest, and then the files with these names that it may have."""
    manifest.unlink(missing_ok=True)
    for name in names:
        _forget(manifest.parent, name)


def _hashed(name: str, content_hash: str) -> str:
    path = Path(name)
    return f"{path.stem}-{content_hash[:12]}{path.suffix}"


def _forget(folder: Path, name: str, keep: str = "") -> None:
    for file in folder.glob(_hashed(name, "?" * 12)):
        if file.name != keep:
            file.unlink(missing_ok=True)


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write several files, each by a function of its path, and then replace those of the same names in the folder.

    The last file marks a complete set: it is removed first and replaced last. If an exception is raised, the folder has
    the files of before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stage, old = (folder / f"{STAGED}{uuid4().hex[:12]}-{what}" for what in ("files", "old"))
    try:
        stage.mkdir()
        old.mkdir()
        for name, write in writers.items():
            write(stage / name)
            _flush(stage / name)
        _exchange(folder, stage, old, list(writers))
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(folder: Path, stage: Path, old: Path, names: Sequence[str]) -> None:
    moves = [(folder / name, old / name) for name in reversed(names) if os.path.lexists(folder / name)]
    moves += [(stage / name, folder / name) for name in names]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.rename(target, source)
        raise


# --- folders ------------------------------------------------------------------------------------------------------


@contextmanager
def claimed(folder: Path, *, existing: bool) -> Iterator[None]:
    """Have a folder for results to oneself. Another process is refused it until the block or this process ends.

    Raises ``FileExistsError`` if the folder has files and ``existing`` is false, or if another process has it, and
    ``OSError`` if no file can be written there. A new folder in which the block leaves nothing is removed.
    """
    new = _make(folder)
    lock = folder / LOCK
    if not (new or existing or _is_left(folder)):
        raise FileExistsError(f"out={str(folder)!r} exists already: choose another folder, or pass --overwrite")
    with lock.open("a") as opened:
        if not (_locked(opened) and _is_open(lock, opened)):
            raise FileExistsError(f"out={str(folder)!r} is in use by another process")
        if not (new or existing or _is_left(folder)):  # the process that had it has finished
            raise FileExistsError(f"out={str(folder)!r} exists already: choose another folder, or pass --overwrite")
        try:
            _prove_writable(opened)
            _remove_staged(folder)
            yield
        finally:
            lock.unlink(missing_ok=True)
            if not existing:
                with suppress(OSError):
                    folder.rmdir()  # only if it is empty


def _make(folder: Path) -> bool:
    """Make a folder, and say whether it is new. One process makes it, however many try."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise FileExistsError(f"out={str(folder)!r} is not a folder") from None
        return False
    return True


def _is_left(folder: Path) -> bool:
    """Whether a folder has only what a process leaves that is killed before it has results."""
    names = [file.name for file in folder.iterdir()]
    return LOCK in names and all(name == LOCK or name.startswith(STAGED) for name in names)


def _locked(opened: IO[str]) -> bool:
    """Lock a file until it is closed, or say that another process has done so."""
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415  # not on Windows, where an open file cannot be removed

        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _is_open(lock: Path, opened: IO[str]) -> bool:
    """Whether the locked file is still the one in the folder."""
    with suppress(FileNotFoundError):
        return os.path.samestat(lock.stat(), os.fstat(opened.fileno()))
    return False


def _prove_writable(opened: IO[str]) -> None:
    opened.truncate(0)
    opened.write(f"{os.getpid()}\n")
    opened.flush()
    os.fsync(opened.fileno())


def _remove_staged(folder: Path) -> None:
    for path in folder.glob(f"{STAGED}*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
