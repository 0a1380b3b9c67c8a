"""Networks as flat vectors: the batched forward, the initial parameters, the views and the permutation spec."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from paramarket_env.config import NetworkConfig
from paramarket_env.learning.networks.mlp import FEWEST_COLUMNS, MLP, MLPNetwork
from paramarket_env.learning.networks.network import (
    initial_parameters,
    offsets,
    parameter_count,
    permutation_sizes,
    split,
)
from paramarket_env.seeding import stream
from tests.helpers import logits

FEATURES, CLASSES = (3, 4), 5
HIDDEN: list[tuple[int, ...]] = [(), (1,), (7,), (6, 2), (8, 8, 8, 4)]


def initial(network: MLPNetwork, *shape: int, seed: int = 0) -> Tensor:
    keys = torch.arange(math.prod(shape)).view(shape)
    return initial_parameters(network, stream(torch.tensor(seed), "network", keys))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_batched_forward_equals_a_loop_over_modules(hidden: tuple[int, ...]) -> None:
    network = MLPNetwork(FEATURES, CLASSES, hidden)
    parameters, inputs = initial(network, 4, 2), torch.rand(4, 6, *FEATURES, generator=torch.Generator())
    batched = logits(network, parameters, inputs)
    assert batched.shape == (4, 2, CLASSES, 6)
    for group in range(4):
        for member in range(2):
            expected = network.module(parameters[group, member])(inputs[group])
            torch.testing.assert_close(batched[group, member], expected.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_stem_of_a_merged_network_is_the_merge_of_the_stems(hidden: tuple[int, ...]) -> None:
    network = MLPNetwork(FEATURES, CLASSES, hidden)
    parameters, inputs = initial(network, 4, 2), torch.rand(4, 6, *FEATURES, generator=torch.Generator())
    merged = torch.lerp(parameters[:, :1], parameters[:, 1:], 0.3)
    one, other = network.stem(parameters, inputs).split(1, dim=1)
    torch.testing.assert_close(network.stem(merged, inputs), torch.lerp(one, other, 0.3), rtol=0, atol=1e-6)
    assert network.stem_size == sum(spec.size for spec in network.parameters if spec.layer == "layer1")


@pytest.mark.parametrize("samples", [6, FEWEST_COLUMNS])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_gradients_equal_autograds(hidden: tuple[int, ...], samples: int) -> None:
    network = MLPNetwork(FEATURES, CLASSES, hidden)
    parameters, inputs = initial(network, 4), torch.randn(4, samples, *FEATURES, generator=torch.Generator())
    logit_gradient = torch.randn(4, CLASSES, samples, generator=torch.Generator())
    leaf = parameters.unsqueeze(1).requires_grad_()
    out = logits(network, leaf, inputs).squeeze(1)
    (expected,) = torch.autograd.grad((out * logit_gradient).sum(), leaf)
    seen = []
    parts = network.gradients(parameters, inputs, lambda mine: seen.append(mine) or logit_gradient.clone())
    gradients = torch.cat(list(parts), dim=1)
    torch.testing.assert_close(seen[0], out.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(gradients, expected.squeeze(1), rtol=1e-5, atol=1e-5)
    assert gradients.abs().sum() > 1


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_module_is_linear_layers_with_relu_between(hidden: tuple[int, ...]) -> None:
    module = MLPNetwork(FEATURES, CLASSES, hidden).module(initial(MLPNetwork(FEATURES, CLASSES, hidden)))
    assert isinstance(module, nn.Sequential)
    flatten, *layers = module
    assert isinstance(flatten, nn.Flatten)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU] * len(hidden) + [nn.Linear]
    widths = [math.prod(FEATURES), *hidden, CLASSES]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise(widths))
    assert [(tuple(layer.weight.shape), tuple(layer.bias.shape)) for layer in linear] == [
        ((outputs, inputs), (outputs,)) for inputs, outputs in pairwise(widths)
    ]


def test_the_module_has_the_tensors_of_the_vector_in_their_order() -> None:
    network = MLPNetwork(FEATURES, CLASSES, (6, 2))
    parameters = initial(network)
    tensors = list(network.module(parameters).parameters())
    assert torch.equal(torch.cat([tensor.flatten() for tensor in tensors]), parameters)
    assert parameter_count(network) == sum(tensor.numel() for tensor in tensors) == 13 * 6 + 7 * 2 + 3 * 5


def test_the_module_owns_a_copy() -> None:
    network = MLPNetwork(FEATURES, CLASSES, (6,))
    parameters = initial(network)
    before = parameters.clone()
    for tensor in network.module(parameters).parameters():
        assert tensor.requires_grad
        tensor.data.zero_()
    assert torch.equal(parameters, before)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_initial_parameters_are_within_torchs_bounds_and_fill_them(hidden: tuple[int, ...]) -> None:
    network = MLPNetwork(FEATURES, CLASSES, hidden)
    parts = split(network, initial(network, 500))
    fan_ins = [math.prod(FEATURES), *hidden]
    for (name, tensor), fan_in in zip(parts.items(), [fan for fan in fan_ins for _ in range(2)], strict=True):
        largest = tensor.abs().max().item()
        assert 0.98 / math.sqrt(fan_in) < largest <= 1 / math.sqrt(fan_in) * (1 + 1e-6), name


def test_initial_parameters_are_distributed_as_torchs() -> None:
    network = MLPNetwork((40,), 3, (200,))
    mine = split(network, initial(network, 5))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linears = [nn.Linear(40, 200) for _ in range(5)]
    for name in ("weight", "bias"):
        values = mine[f"layer1.{name}"].flatten()
        torchs = torch.cat([linear.state_dict()[name].flatten() for linear in linears])
        assert values.std().item() == pytest.approx(torchs.std().item(), rel=0.03)
        assert abs(values.mean().item()) < 4 * values.std().item() / math.sqrt(len(values))
        assert ks_2samp(values.numpy(), torchs.numpy()).pvalue > 0.01


def test_initial_parameters_follow_from_their_key_alone() -> None:
    network = MLPNetwork(FEATURES, CLASSES, (6,))
    keys = stream(torch.arange(3)[:, None], "network", torch.arange(2))
    together = initial_parameters(network, keys)
    assert together.shape == (3, 2, parameter_count(network))
    assert together.dtype == torch.float32
    assert torch.equal(initial_parameters(network, keys[2, 1]), together[2, 1])
    assert len(together.flatten(0, 1).unique(dim=0)) == 6


def test_split_gives_views_of_the_right_shapes() -> None:
    network = MLPNetwork(FEATURES, CLASSES, (6, 2))
    vector = torch.zeros(4, 2, parameter_count(network))
    parts = split(network, vector)
    assert {name: tuple(part.shape) for name, part in parts.items()} == {
        "layer1.weight": (4, 2, 6, 12),
        "layer1.bias": (4, 2, 6),
        "layer2.weight": (4, 2, 2, 6),
        "layer2.bias": (4, 2, 2),
        "layer3.weight": (4, 2, 5, 2),
        "layer3.bias": (4, 2, 5),
    }
    for number, part in enumerate(parts.values(), start=1):
        part.add_(number)
    sizes = torch.tensor([spec.size for spec in network.parameters])
    assert torch.equal(vector[3, 1], torch.arange(1.0, 7.0).repeat_interleave(sizes))


def test_offsets_are_where_the_tensors_begin() -> None:
    network = MLPNetwork(FEATURES, CLASSES, (6, 2))
    vector = torch.arange(parameter_count(network))
    assert [int(part.flatten()[0]) for part in split(network, vector).values()] == offsets(network)


def test_each_hidden_layer_has_one_permutation_of_its_units() -> None:
    network = MLPNetwork(FEATURES, CLASSES, (6, 2))
    assert permutation_sizes(network) == {"hidden1": 6, "hidden2": 2}
    assert {spec.name: [axis[0].permutation for axis in spec.axes] for spec in network.parameters} == {
        "layer1.weight": ["hidden1", None],
        "layer1.bias": ["hidden1"],
        "layer2.weight": ["hidden2", "hidden1"],
        "layer2.bias": ["hidden2"],
        "layer3.weight": [None, "hidden2"],
        "layer3.bias": [None],
    }


def test_a_network_without_hidden_layers_has_no_permutation() -> None:
    assert permutation_sizes(MLPNetwork(FEATURES, CLASSES, ())) == {}


def test_a_configuration_builds_the_network_it_names() -> None:
    network = NetworkConfig(architecture=MLP(hidden=(8, 8, 8, 4))).architecture((1, 28, 28), 10)
    sizes = [spec.shape[0] for spec in network.parameters if len(spec.shape) == 2]
    assert sizes == [8, 8, 8, 4, 10]
    assert network.parameters[0].shape == (8, 784)


def test_an_unknown_architecture_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'transformer': choose from .*mlp"):
        NetworkConfig(architecture="transformer")
