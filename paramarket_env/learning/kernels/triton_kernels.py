"""The Triton kernels with tensors as arguments: MLPs and linear assignment on a GPU, without a wait of the host."""

from __future__ import annotations

from paramarket_env.learning.kernels.triton_assignment import assign
from paramarket_env.learning.kernels.triton_matching import match
from paramarket_env.learning.kernels.triton_training import train
from paramarket_env.learning.kernels.triton_trials import losses, try_merges

__all__ = ["assign", "losses", "match", "train", "try_merges"]
