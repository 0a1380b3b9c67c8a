"""Stubs: their losses are those given in advance, their gradients those of autograd, their steps known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_env.learning.data.datasets import load_dataset
from paramarket_env.learning.networks.network import initial_parameters
from paramarket_env.learning.stubs import KnownLoss, KnownSteps, OneHot
from paramarket_env.learning.training import cross_entropy_gradient
from tests.helpers import logits

CLASSES = pytest.mark.parametrize("classes", [2, 5])
GAPS = torch.tensor([[0.0, 0.0], [1.0, 0.25], [3.0, 3.0]])


def samples(classes: int) -> tuple[Tensor, Tensor]:
    dataset = load_dataset(OneHot(samples=10, classes=classes))
    return dataset.inputs, dataset.labels


@CLASSES
def test_the_loss_of_every_sample_is_the_sum_of_the_gaps_and_the_floor(classes: int) -> None:
    inputs, labels = samples(classes)
    network = KnownLoss(gaps=(1.0, 1.0), floor=0.2)((classes,), classes)
    found = F.cross_entropy(logits(network, GAPS[None], inputs[None])[0], labels.expand(3, -1), reduction="none")
    np.testing.assert_allclose(found, (GAPS.sum(1) + 0.2)[:, None].expand(-1, 10), rtol=1e-5)
    for gaps, loss in zip(GAPS, found.mean(1), strict=True):
        assert F.cross_entropy(network.module(gaps)(inputs), labels).item() == pytest.approx(loss.item())


@CLASSES
def test_the_gradients_are_those_of_autograd(classes: int) -> None:
    inputs, labels = samples(classes)
    network = KnownLoss(gaps=(1.0, 1.0))((classes,), classes)
    weights = torch.full((3, 1, 10), 0.1)
    found = torch.cat(
        list(
            network.gradients(
                GAPS,
                inputs.expand(3, -1, -1),
                lambda given: cross_entropy_gradient(given, labels.expand(3, 1, -1), weights),
            )
        ),
        dim=1,
    )
    gaps = GAPS.clone().requires_grad_()
    loss = F.cross_entropy(logits(network, gaps[None], inputs[None])[0], labels.expand(3, -1), reduction="sum") / 10
    torch.testing.assert_close(found, torch.autograd.grad(loss, gaps)[0])
    torch.testing.assert_close(found, torch.ones(3, 2))


def test_all_agents_begin_with_the_given_gaps() -> None:
    network = KnownLoss(gaps=(0.5, 2.0))((2,), 2)
    assert initial_parameters(network, torch.arange(3)).tolist() == [[0.5, 2.0]] * 3


def test_a_step_moves_each_gap_and_none_falls_below_0() -> None:
    gaps = GAPS.clone()
    KnownSteps(moves=(-0.5, 0.25)).step(gaps, [], {})
    assert gaps.tolist() == [[0.0, 0.25], [0.5, 0.5], [2.5, 3.25]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape of a sample=\(1, 8, 8\) is not allowed: .* known-loss reads one-hot"):
        KnownLoss()((1, 8, 8), 10)
    with pytest.raises(ValueError, match=r"known_steps.moves=\(-1.0,\) is not allowed: it must be 2 numbers"):
        KnownSteps().step(GAPS.clone(), [], {})
