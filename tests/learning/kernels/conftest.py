"""A fixture for tests that set the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def _threads() -> Iterator[None]:
    """Whatever number of threads a test sets, the next one begins with one."""
    yield
    torch.set_num_threads(1)
