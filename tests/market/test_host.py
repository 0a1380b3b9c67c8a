"""Copies to the host and joined columns equal those of torch's own functions."""

from __future__ import annotations

import numpy as np
import torch

from paramarket_env.market.host import joined, to_host

FLAGS = torch.tensor([[True, False], [False, True]])
COUNTS = torch.tensor([[2**24 + 1, -1], [0, 7]])  # a float32 does not hold the first
SHARES = torch.tensor([[0.1, 1e-12], [1 / 3, -2.5]], dtype=torch.float64)


def test_columns_of_several_types_are_joined_in_float64() -> None:
    found = joined([FLAGS, COUNTS, SHARES, SHARES.float()])
    expected = torch.cat([part.double() for part in (FLAGS, COUNTS, SHARES, SHARES.float())], dim=-1)
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)


def test_the_host_gets_columns_in_their_common_type() -> None:
    assert np.array_equal(to_host(FLAGS, COUNTS), np.stack([FLAGS.numpy().astype(np.int64), COUNTS.numpy()]))
    assert to_host(FLAGS, SHARES).dtype == np.float64
    assert to_host(FLAGS, FLAGS).dtype == np.bool_
