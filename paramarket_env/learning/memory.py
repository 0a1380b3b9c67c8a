"""How much is computed at a time."""

from __future__ import annotations

import torch


def chunk_elements(device: torch.device) -> int:
    """Numbers that a batched routine works on at a time: few enough to stay in a processor's cache, many on a GPU."""
    return 2**18 if device.type == "cpu" else 2**26
