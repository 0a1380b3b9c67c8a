"""The free memory, and the size of the chunks in which batched routines work."""

from __future__ import annotations

import psutil
import torch

TENSORS_PER_CHUNK = 8
"""The number of tensors as large as a chunk that backpropagation may hold."""


def chunk_elements(device: torch.device) -> int:
    """The number of elements that a batched routine processes at a time.

    On a CPU, a chunk fits into the cache of a core. On a GPU, it leaves most of the memory to the markets.
    """
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total // 1024
    return 2**19


def free_bytes(device: torch.device) -> int:
    """Free memory of the device in bytes."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    available: int = psutil.virtual_memory().available
    return available
