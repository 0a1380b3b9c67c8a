"""Loss, accuracy and confusion matrices of many networks at once, held against one module at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks import reference
from paramarket_env.learning import evaluation
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.evaluation import accuracies, losses_and_confusions
from paramarket_env.learning.kernels.selection import VARIABLE
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import initial_parameters
from paramarket_env.seeding import permutation, stream

NETWORK = MLPNetwork((2, 3), 4, (7, 5))


def make_dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 2, 3, generator=generator)
    return Dataset(inputs, torch.randint(4, (50,), generator=generator), classes=4, official_test=0)


def groups() -> tuple[Tensor, Tensor]:
    """Five groups of three networks, and each group's 20 samples."""
    keys = stream(torch.arange(5)[:, None], "network", torch.arange(3))
    return 3 * initial_parameters(NETWORK, keys), permutation(torch.arange(5), 50)[:, :20]


def evaluate(network: MLPNetwork, dataset: Dataset, parameters: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and accuracies, float64 ``[R, G]`` each."""
    losses, confusions = losses_and_confusions(network, dataset, parameters, samples)
    return losses, accuracies(confusions)


def test_evaluation_equals_one_module_at_a_time() -> None:
    dataset, (parameters, samples) = make_dataset(), groups()
    losses, accuracies = evaluate(NETWORK, dataset, parameters, samples)
    assert losses.shape == accuracies.shape == (5, 3)
    assert losses.dtype == accuracies.dtype == torch.float64
    for group in range(5):
        chosen = reference.Samples(dataset.inputs[samples[group]], dataset.labels[samples[group]])
        for member in range(3):
            loss, accuracy = reference.evaluate(NETWORK.module(parameters[group, member]), chosen)
            assert losses[group, member].item() == pytest.approx(loss, abs=1e-6)
            assert accuracies[group, member].item() == accuracy
    assert len(losses.unique()) == 15


def test_a_confusion_matrix_counts_samples_by_class_and_prediction() -> None:
    dataset, (parameters, samples) = make_dataset(), groups()
    confusions = losses_and_confusions(NETWORK, dataset, parameters, samples)[1]
    expected = torch.zeros(5, 3, 4, 4, dtype=torch.int64)
    for group in range(5):
        for member in range(3):
            predicted = NETWORK.module(parameters[group, member])(dataset.inputs[samples[group]]).argmax(1)
            for truth, guess in zip(dataset.labels[samples[group]].tolist(), predicted.tolist(), strict=True):
                expected[group, member, truth, guess] += 1
    assert torch.equal(confusions, expected)


@pytest.mark.parametrize(("numbers", "stems", "bodies"), [(1, 5, 5), (900, 1, 3), (2000, 1, 2), (3000, 1, 1)])
def test_evaluation_in_chunks_equals_evaluation_at_once(
    numbers: int, stems: int, bodies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "torch")
    dataset, (parameters, samples) = make_dataset(), groups()
    losses, accuracies = evaluate(NETWORK, dataset, parameters, samples)
    seen: dict[str, list[int]] = {"stem": [], "body": []}

    def spy(name: str, compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda some, data: seen[name].append(len(some)) or compute(some, data)

    for name in seen:
        monkeypatch.setattr(NETWORK, name, spy(name, getattr(NETWORK, name)))
    monkeypatch.setattr(evaluation, "chunk_elements", lambda device: numbers)
    chunked = evaluate(NETWORK, dataset, parameters, samples)
    assert (len(seen["stem"]), len(seen["body"])) == (stems, bodies)
    assert sum(seen["stem"]) == sum(seen["body"]) == 5
    torch.testing.assert_close(chunked[0], losses, rtol=0, atol=1e-6)
    torch.testing.assert_close(chunked[1], accuracies, rtol=0, atol=0)


def test_a_network_that_knows_nothing_has_the_loss_of_a_uniform_guess() -> None:
    dataset, (parameters, samples) = make_dataset(), groups()
    losses, accuracies = evaluate(NETWORK, dataset, torch.zeros_like(parameters), samples)
    assert losses.flatten().tolist() == pytest.approx([math.log(4)] * 15, abs=1e-6)
    guessed = (dataset.labels[samples] == 0).double().mean(1)
    torch.testing.assert_close(accuracies, guessed[:, None].expand(5, 3))


def test_a_diverged_network_spoils_no_other() -> None:
    dataset, (parameters, samples) = make_dataset(), groups()
    expected = evaluate(NETWORK, dataset, parameters, samples)[0]
    parameters[2, 1] = torch.nan
    losses = evaluate(NETWORK, dataset, parameters, samples)[0]
    assert losses.isnan().nonzero().tolist() == [[2, 1]]
    finite = losses.isfinite()
    torch.testing.assert_close(losses[finite], expected[finite], rtol=0, atol=1e-6)
