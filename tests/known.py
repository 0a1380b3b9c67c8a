"""Values for scenarios with a known answer, which are set instead of drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np


def midpoints(number: int) -> np.ndarray:
    """The midpoints of so many equal parts of [0, 1]. Their mean is exact for steps at the ends of the parts."""
    return (np.arange(number) + 0.5) / number


def grid(*axes: Sequence[float] | np.ndarray) -> list[np.ndarray]:
    """Every combination of the axes' values, as one flat array for each axis."""
    return [np.array(column) for column in zip(*product(*axes), strict=True)]
