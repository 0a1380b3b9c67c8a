"""Planted permutations of every architecture: found, and without a change of what the networks compute."""

from __future__ import annotations

import pytest
import torch

from benchmarks.alignment import measure, plant

NETWORKS = ["cnn", "resnet20(widen=1, depth=10)", "vgg16(width=0.0625)", "vit"]


@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("network", NETWORKS)
def test_planted_permutations_are_found(network: str, noise: float) -> None:
    planted = plant(network, noise, pairs=20)
    reached, product, _, kept = measure(planted, "frank-wolfe")
    assert reached >= 0.95
    assert product > 1 - 1e-9
    assert kept


def test_without_alignment_none_is_found_and_a_wrong_order_is_seen() -> None:
    planted = plant("cnn", noise=0.5, pairs=20)
    reached, product, _, kept = measure(planted, "none")
    assert (reached, kept) == (0, True)
    assert product < 0.5
    assert not torch.equal(planted.order.sort(dim=1).values, planted.order)
