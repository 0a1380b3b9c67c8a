"""Files in the IDX format (LeCun's MNIST page). Their content is not trusted: every error names the file."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

MAGIC = b"\x00\x00\x08"
"""The first bytes of a file of unsigned bytes. The number of dimensions follows."""

MOST_BYTES = 2**31
"""The largest number of bytes of an array. All datasets in this format are smaller."""


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array with this number of dimensions in a file, which is gzipped if its name ends in ``.gz``.

    The header is read first, and never more than it announces. Raises ``ValueError``, naming the file, if it cannot be
    read, or has another format or the wrong length.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(path, file, dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path, file: BinaryIO | gzip.GzipFile, dimensions: int) -> np.ndarray:
    begin = file.read(4)
    if begin != MAGIC + bytes([dimensions]):
        described = f"an IDX file of unsigned bytes in {dimensions} dimensions"
        raise ValueError(f"{path} is not {described}: it begins with {begin.hex()}")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise ValueError(f"{path} has the wrong length: its header needs {4 + 4 * dimensions} bytes")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    size = math.prod(shape)
    if not 0 < size <= MOST_BYTES:
        raise ValueError(f"{path} announces shape {shape}, which is not within 1 and {MOST_BYTES} bytes")
    content = file.read(size + 1)  # one byte more, to see that the file ends
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise ValueError(f"{path} has the wrong length: its header announces shape {shape}, but {found} bytes follow")
    return np.frombuffer(content, np.uint8).reshape(shape)
