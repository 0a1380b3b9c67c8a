"""The checks of an architecture: every one passes them, and each finds the one that is wrong in its way alone."""

from __future__ import annotations

import runpy
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from paramarket_baselines.checks import NETWORK_CHECKS, NetworkTrial, check_network
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import Architecture, Gradients, LogitGradient, Network, require_elements
from tests.baselines.checks.mutants import Mutants, failed
from tests.learning.networks.test_architectures import SMALL
from tests.test_examples import EXAMPLES


def faults(architecture: Architecture) -> set[str]:
    """The checks that an architecture fails for vectors."""
    return failed(NETWORK_CHECKS, NetworkTrial(architecture, "vectors", (12,)))


@pytest.mark.parametrize("text", SMALL.values(), ids=SMALL)
def test_every_architecture_passes(text: str) -> None:
    check_network(text)


def test_the_example_passes() -> None:
    check_network(runpy.run_path(str(EXAMPLES / "own_network.py"))["network"])


class Honest(MLPNetwork):
    """A perceptron with one hidden layer."""

    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        require_elements(features)
        super().__init__(features, classes, (8,))


def test_an_honest_architecture_passes() -> None:
    assert faults(Honest) == set()


MUTANTS = Mutants()
fails = MUTANTS.fails


@fails("takes-or-refuses-samples")
def rude(features: tuple[int, ...], classes: int) -> Network:
    raise KeyError("no")


@fails("refuses-empty-samples")
def greedy(features: tuple[int, ...], classes: int) -> Network:
    return Honest(features if 0 not in features else (1,), classes)


@fails("describes-its-tensors")
class Unnamed(Honest):
    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__(features, classes)
        self.parameters = tuple(replace(spec, layer="") for spec in self.parameters)


@fails("computes-logits")
class Overflow(Honest):
    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        return super().body(parameters, stem) / 0


CALLS = count()


@fails("is-deterministic")
class Noisy(Honest):
    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        return super().body(parameters, stem) * (1 + 1e-5 * next(CALLS))


@fails("computes-each-network-alone")
class Whitened(Honest):
    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        logits = super().body(parameters, stem)
        return logits if len(stem) > 1 else logits - logits.mean()


@fails("is-its-module")
class Doubled(Honest):
    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        return 2 * super().body(parameters, stem)


@fails("holds-its-vector")
class Shared(Honest):
    def module(self, parameters: Tensor) -> nn.Module:
        module = super().module(parameters)
        next(module.parameters()).data = parameters[: 8 * 12].view(8, 12)
        return module


@fails("keeps-its-function-when-permuted")
class Unpermuted(Honest):
    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__(features, classes)
        first, bias, second, *rest = self.parameters
        fixed = tuple(replace(segment, permutation=None) for segment in second.axes[1])
        self.parameters = (first, bias, replace(second, axes=(second.axes[0], fixed)), *rest)


@fails("has-the-gradients-of-its-module")
class Hasty(Honest):
    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        return [2 * part for part in super().gradients(parameters, inputs, logit_gradient)]


@fails("learns")
class Constant(Honest):
    """All parameters are multiplied by a number so small that they learn nothing."""

    scale = 1e-3

    def stem(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        return super().stem(self.scale * parameters, inputs)

    def body(self, parameters: Tensor, stem: Tensor) -> Tensor:
        return super().body(self.scale * parameters, stem)

    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        return [self.scale * part for part in super().gradients(self.scale * parameters, inputs, logit_gradient)]

    def module(self, parameters: Tensor) -> nn.Module:
        return Scaled(super().module(parameters), self.scale)


class Scaled(nn.Module):
    """A module that computes with a multiple of its parameters."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, inputs: Tensor) -> Tensor:
        scaled = {name: self.scale * parameter for name, parameter in self.inner.named_parameters()}
        return torch.func.functional_call(self.inner, scaled, (inputs,))


@fails("leaves-its-inputs-alone")
class InPlace(Honest):
    def with_statistics(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        result = parameters.clone()
        inputs.zero_()
        return result


@fails("leaves-global-randomness-alone")
class Draws(Honest):
    def gradients(self, parameters: Tensor, inputs: Tensor, logit_gradient: LogitGradient) -> Gradients:
        torch.rand(1)
        return super().gradients(parameters, inputs, logit_gradient)


@pytest.mark.parametrize(("check", "architecture"), MUTANTS, ids=MUTANTS.names)
def test_each_check_finds_the_architecture_that_is_wrong_in_its_way_alone(
    check: str, architecture: Architecture
) -> None:
    assert faults(architecture) == {check}


def test_every_check_has_a_mutant_and_a_sentence() -> None:
    MUTANTS.assert_complete(NETWORK_CHECKS)


def test_a_failure_names_check_samples_and_what_was_expected_and_came() -> None:
    message = r"^is-its-module \(vectors\): expected the logits of its module, got others, which differ by 1 of the"
    with pytest.raises(AssertionError, match=message):
        check_network(Doubled)
