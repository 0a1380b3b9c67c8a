"""How much is computed at a time."""

from __future__ import annotations

import torch


def chunk_elements(device: torch.device) -> int:
    """Numbers that a batched routine works on at a time.

    On a CPU few enough to stay in the cache of a core; on a GPU as many as leave most of its memory to the markets.
    """
    if device.type == "cuda":
        total: int = torch.cuda.get_device_properties(device).total_memory
        return total // 1024
    return 2**19
