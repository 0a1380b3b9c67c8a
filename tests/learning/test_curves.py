"""Curves over the merge weight, held against one module at a time."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reference import Samples, evaluate
from paramarket_env.learning import curves
from paramarket_env.learning.curves import Lines, merge_curves
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.networks.network import ARCHITECTURES, initial_parameters
from paramarket_env.seeding import permutation, stream

WEIGHTS = torch.tensor([0.0, 0.3, 1.0])


@pytest.mark.parametrize("at_once", [1, 10**6])
@pytest.mark.parametrize("text", ["mlp(hidden=(5, 4))", "cnn(channels=(3, 4), hidden=5)"])
def test_curves_equal_one_module_at_a_time(text: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "chunk_elements", lambda device: at_once)
    inputs = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    dataset = Dataset(inputs, torch.arange(50) % 4, classes=4, official_test=0)
    network = ARCHITECTURES.parse(text)(dataset.features, 4)
    buyers, sellers = 3 * initial_parameters(network, stream(torch.arange(2)[:, None], "network", torch.arange(3)))
    masks = torch.rand(buyers.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    samples = permutation(torch.arange(3), 50)[:, :20]
    loss, accuracy = merge_curves(network, dataset, Lines(buyers, sellers, masks, samples, samples[:, :0]), WEIGHTS)
    assert loss.shape == accuracy.shape == (3, 3)
    for pair in range(3):
        for place, weight in enumerate(WEIGHTS.tolist()):
            merged = torch.where(masks[pair], (1 - weight) * buyers[pair] + weight * sellers[pair], buyers[pair])
            chosen = Samples(dataset.inputs[samples[pair]], dataset.labels[samples[pair]])
            expected = evaluate(network.module(merged), chosen)
            assert loss[pair, place].item() == pytest.approx(expected[0], rel=1e-5)
            assert accuracy[pair, place].item() == expected[1]
