"""The few things that the host must know about tensors on a device: each costs a wait for the device.

On a GPU, the host decides what to compute while the device computes. Every value that it reads makes it wait, so a step
reads all that it needs in few copies. Index lists stay on the device: the host knows only their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def to_host(*columns: Tensor) -> np.ndarray:
    """The columns of one shape as one array ``[columns, *shape]`` of their common type, in one copy from the device."""
    if columns[0].is_cuda:
        stacked: np.ndarray = torch.stack(columns).cpu().numpy()
        return stacked
    # NumPy joins columns of different types in a fraction of the time.
    shape = columns[0].shape
    return np.concatenate([column.numpy() for column in columns]).reshape(len(columns), *shape)


def joined(columns: Sequence[Tensor]) -> Tensor:
    """The columns ``[..., size]`` one behind the other, float64 ``[..., D]``, on their device."""
    if columns[0].is_cuda:
        return torch.cat([column.double() for column in columns], dim=-1)
    arrays = [column.numpy() for column in columns]
    return torch.from_numpy(np.concatenate(arrays, axis=-1, dtype=np.float64))


def largest(values: Tensor, number: int) -> Tensor:
    """The places of the ``number`` largest values in the flattened tensor, int64; among equals the first come first.

    For a mask with ``number`` true entries this is ``nonzero``, without the wait for the device.
    """
    return values.flatten().argsort(descending=True, stable=True)[:number]


def chunks(number: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``number`` entries."""
    return (slice(start, start + size) for start in range(0, number, size))
