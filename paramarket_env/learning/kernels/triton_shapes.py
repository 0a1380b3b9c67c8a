"""The shapes that the Triton kernels for MLPs serve. This module needs no Triton.

Widths are padded to powers of two, since Triton's arrays have no other sizes, and to 16, since its products take no
smaller ones. The padding holds zeros and stays 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

LEAST = 16
"""The smallest size of an axis of a product."""

TRAINED, TRIED = 16384, 6144
"""The largest numbers of parameters, with padding, that a program keeps in registers: in training with the optimizer's
state, and in trials behind the first layer."""
OUTPUTS = 4096
"""The largest number of outputs of one layer for a minibatch, with padding."""
BLOCK = 32
"""The number of samples that a trial evaluates at a time."""
WIDEST = 64
"""The largest number of units of a layer in a trial or a match. More need more shared memory than many GPUs have."""


def padded(size: int) -> int:
    """The size of an axis with its padding."""
    return 1 << (max(size, LEAST) - 1).bit_length()


def padded_parameters(widths: Sequence[int]) -> int:
    """The number of parameters of an MLP with these widths, with padding."""
    return sum((padded(inputs) + 1) * padded(outputs) for inputs, outputs in pairwise(widths))


def layout(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The arguments of a kernel that describe an MLP: its widths, with and without padding, and its layers' offsets."""
    sizes = [(inputs + 1) * outputs for inputs, outputs in pairwise(widths)]
    offsets = tuple(accumulate(sizes, initial=0))[:-1]
    return {"WIDTHS": tuple(widths), "PADDED": tuple(padded(width) for width in widths), "OFFSETS": offsets}


def fits_training(widths: Sequence[int], batch_size: int, states: int) -> bool:
    """Whether a network with these widths, its optimizer's ``states`` and its minibatches fit into registers.

    ``states`` counts the optimizer's tensors that are as large as the parameters.
    """
    widest = max(map(padded, widths))
    return padded_parameters(widths) * (1 + states) <= TRAINED and padded(batch_size) * widest <= OUTPUTS


def fits_trials(widths: Sequence[int]) -> bool:
    """Whether a network with these widths fits into registers behind its first layer."""
    return padded_parameters(widths[1:]) <= TRIED and max(widths[1:]) <= WIDEST


def warps(widths: Sequence[int], samples: int, states: int = 0) -> int:
    """The number of warps, 2 to 8, of a program that keeps an MLP with its optimizer's ``states`` in registers.

    It evaluates this number of ``samples`` at a time. On an H100, about 4,096 numbers to a warp were the fastest.
    """
    activations = padded(samples) * sum(map(padded, widths))
    numbers = padded_parameters(widths) * (1 + states) + activations
    return min(8, max(2, 1 << ((numbers - 1) // 4096).bit_length()))
