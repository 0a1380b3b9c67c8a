"""All tests share one thread, no display, and Hypothesis examples that are the same in every run."""

from __future__ import annotations

import matplotlib as mpl
import pytest
import torch
from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="session")
def _quiet_machine() -> None:
    """Tiny tensors are fastest on one thread, and pytest-xdist has taken the other cores; no test opens a window."""
    torch.set_num_threads(1)
    mpl.use("Agg")
