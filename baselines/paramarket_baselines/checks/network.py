"""The checks of a network's architecture."""

from __future__ import annotations

from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from paramarket_baselines.checks.check import (
    Check,
    NotClaimed,
    NotRun,
    expect,
    expect_proper_refusal,
    run_all,
    unchanged_randomness,
)
from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.alignment.restarts import random_orders
from paramarket_env.learning.networks.network import (
    ARCHITECTURES,
    Architecture,
    Network,
    initial_parameters,
    permutation_sizes,
)
from paramarket_env.learning.training import cross_entropy_gradient
from paramarket_env.seeding import stream

SAMPLES = {"vectors": (12,), "images": (3, 8, 8)}
"""The shapes of a sample for which an architecture is checked."""

CLASSES = 5
NUM_NETWORKS = 4
NUM_SAMPLES = 10
"""The number of samples in a minibatch."""

TRAINING_STEPS = 20
LEARNING_RATE = 0.2
LEARNED = 0.95
"""The share of its first loss that a network must fall below in so many steps."""


class NetworkTrial:
    """An architecture for samples of a shape. Its text is the kind of the samples.

    Raises ``ValueError`` if there is no such architecture.
    """

    def __init__(self, architecture: str | Architecture, name: str, features: tuple[int, ...]) -> None:
        self.architecture, self.name, self.features = ARCHITECTURES.check(architecture), name, features
        numbers = torch.arange(NUM_SAMPLES, device="cpu").repeat(NUM_NETWORKS, 1)
        self.labels = numbers % CLASSES * (numbers % 2)
        """int64 ``[R, n]``. More than half are class 0, so a network can learn from its labels alone."""

    def __str__(self) -> str:
        return self.name

    @cached_property
    def made(self) -> Network | Exception:
        """The network, or the exception by which the architecture refuses the samples."""
        try:
            return self.architecture(self.features, CLASSES)
        except Exception as error:  # a check judges whatever the architecture raises
            return error

    @property
    def network(self) -> Network:
        """The network; see :meth:`require_network`."""
        return self.require_network()

    def require_network(self) -> Network:
        """The network; raises :class:`NotClaimed` if there is none."""
        if isinstance(self.made, Exception):
            raise NotClaimed(str(self.made))
        return self.made

    @property
    def inputs(self) -> Tensor:
        """New samples for each network, float32 ``[R, n, *features]``."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(
            NUM_NETWORKS, NUM_SAMPLES, *self.features, generator=generator, dtype=torch.float32, device="cpu"
        )

    @property
    def parameters(self) -> Tensor:
        """New initial parameters of R networks, float32 ``[R, P]``."""
        return initial_parameters(self.network, stream(torch.arange(NUM_NETWORKS, device="cpu"), "network"))

    @property
    def estimated(self) -> Tensor:
        """The initial parameters with the running statistics of the samples, float32 ``[R, P]``."""
        return self.network.with_statistics(self.parameters, self.inputs)

    def logits(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """The logits ``[R, classes, n]`` of R networks ``[R, P]``, each on its own samples ``[R, n, *features]``."""
        network, groups = self.network, parameters.unsqueeze(1)
        stems = network.stem(groups, inputs)
        return network.body(groups[..., network.stem_size :], stems).squeeze(1)

    @cached_property
    def computed(self) -> Tensor | Exception:
        """The logits of all networks, ``[R, classes, n]``, or the exception that the network raises."""
        try:
            return self.logits(self.estimated, self.inputs)
        except Exception as error:  # a check judges whatever the architecture raises
            return error

    @property
    def expected(self) -> Tensor:
        """The logits of all networks; see :meth:`require_logits`."""
        return self.require_logits()

    def require_logits(self) -> Tensor:
        """The logits of all networks, float32 ``[R, classes, n]``; raises :class:`NotRun` if they are wrong."""
        self.require_network()
        if isinstance(self.computed, Tensor) and not wrong_logits(self.computed):
            return self.computed
        raise NotRun("needs computes-logits")

    def gradients(self, parameters: Tensor) -> Tensor:
        """The gradients ``[R, P]`` of the mean cross-entropies of R networks ``[R, P]``."""
        labels = self.labels.unsqueeze(1)
        weights = torch.full((NUM_NETWORKS, 1, NUM_SAMPLES), 1 / NUM_SAMPLES, device="cpu")
        loss_gradient = partial(cross_entropy_gradient, labels=labels, weights=weights)
        return torch.cat(list(self.network.gradients(parameters, self.inputs, loss_gradient)), dim=1)


def wrong_logits(logits: Tensor) -> str:
    """The fault of logits; empty if they are right."""
    shape = [NUM_NETWORKS, CLASSES, NUM_SAMPLES]
    if logits.dtype != torch.float32 or list(logits.shape) != shape:
        return f"{logits.dtype} {list(logits.shape)} instead of float32 {shape}"
    return "" if bool(logits.isfinite().all()) else "numbers that are not finite"


def network_trials(architecture: str | Architecture) -> list[NetworkTrial]:
    """An architecture for vectors and for images."""
    return [NetworkTrial(architecture, name, features) for name, features in SAMPLES.items()]


def check_network(architecture: str | Architecture) -> None:
    """Run all checks of an architecture, for vectors and for images.

    Raises ``AssertionError`` that names the first check that fails, the samples, what was expected and what came. An
    architecture may refuse either kind of samples.
    """
    run_all(NETWORK_CHECKS, network_trials(architecture))


def _expect_close(came: Tensor, expected: Tensor, what: str) -> None:
    """Raise ``AssertionError`` unless two tensors are equal up to rounding."""
    scale = expected.abs().max().clamp_min(1e-6)
    error = float((came - expected).abs().max() / scale)
    expect(error < 1e-3, what, f"others, which differ by {error:.2g} of the largest")


# --- the checks ------------------------------------------------------------------------------------------------------


def takes_or_refuses_samples(trial: NetworkTrial) -> None:
    """It makes a network for samples, or refuses them by a ValueError that says what it needs."""
    expect_proper_refusal(trial.made if isinstance(trial.made, Exception) else None)


def refuses_empty_samples(trial: NetworkTrial) -> None:
    """It refuses samples without elements by a ValueError."""
    empty = (*trial.features[:-1], 0)
    trial.require_network()
    try:
        trial.architecture(empty, CLASSES)
    except ValueError:
        return
    expect(False, f"a ValueError for samples of shape {empty}", "a network")


def describes_its_tensors(trial: NetworkTrial) -> None:
    """Its tensors have different names, layers, and axes of the right sizes, and the stem comes first."""
    specs = trial.network.parameters
    names = [spec.name for spec in specs]
    expect(0 < len(set(names)) == len(names), "tensors with different names", names)
    for spec in specs:
        sizes = tuple(sum(segment.size for segment in axis) for axis in spec.axes)
        expect(sizes == spec.shape, f"axes of {spec.name} with sizes {spec.shape}", sizes)
        expect(bool(spec.layer), f"a layer that {spec.name} belongs to", spec.layer)
    ends = torch.tensor([0, *(spec.size for spec in specs)], device="cpu").cumsum(0).tolist()
    expect(trial.network.stem_size in ends, f"a stem that ends where a tensor ends: {ends}", trial.network.stem_size)


def computes_logits(trial: NetworkTrial) -> None:
    """The logits of fresh networks are finite, float32 [R, G, classes, n]."""
    trial.require_network()
    if isinstance(trial.computed, Exception):
        raise trial.computed
    wrong = wrong_logits(trial.computed)
    expect(not wrong, "finite logits", wrong)


def is_deterministic(trial: NetworkTrial) -> None:
    """The same parameters and samples lead to the same logits."""
    again = trial.logits(trial.estimated, trial.inputs)
    expect(torch.equal(again, trial.expected), "the same logits again", "others")


def computes_each_network_alone(trial: NetworkTrial) -> None:
    """A batch of networks computes what each network computes alone, sample by sample."""
    for row in range(NUM_NETWORKS):
        for sample in range(0, NUM_SAMPLES, 4):
            one = trial.logits(trial.estimated[[row]], trial.inputs[[row], sample : sample + 1])
            expected = trial.expected[[row], :, sample : sample + 1]
            _expect_close(one, expected, "the logits of the batch for one network and sample alone")


def is_its_module(trial: NetworkTrial) -> None:
    """Its torch module computes the same logits in evaluation mode."""
    for row, inputs in enumerate(trial.inputs):
        with torch.no_grad():
            came = trial.network.module(trial.estimated[row]).eval()(inputs)
        _expect_close(trial.expected[row], came.T, "the logits of its module")


def holds_its_vector(trial: NetworkTrial) -> None:
    """Its torch module holds each element of the flat vector once, in tensors of its own."""
    numbers = torch.arange(trial.estimated.shape[1], dtype=torch.float32, device="cpu")
    trial.require_logits()
    module = trial.network.module(numbers)
    held = torch.cat([tensor.detach().flatten() for tensor in _tensors(module)])
    expect(torch.equal(held.sort().values, numbers), "each element once", f"{len(held)} elements of {len(numbers)}")
    next(module.parameters()).data.fill_(-1)
    expect(bool((numbers >= 0).all()), "a module with its own tensors", "one that shares them with the vector")


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    """The parameters and the running statistics of a module."""
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.is_floating_point())]


def keeps_its_function_when_permuted(trial: NetworkTrial) -> None:
    """Permutations of hidden units change no logits."""
    network, count = trial.network, NUM_NETWORKS
    if permutation_sizes(network):
        permuted = permute(network, trial.estimated, random_orders(network, count, trial.inputs.device))
        _expect_close(trial.logits(permuted, trial.inputs), trial.expected, "the logits before the permutation")


def has_the_gradients_of_its_module(trial: NetworkTrial) -> None:
    """Its gradients are those that autograd finds for its torch module in training mode."""
    network, expected = trial.network, torch.zeros_like(trial.parameters)
    numbered = network.module(torch.arange(expected.shape[1], dtype=torch.float32, device="cpu"))
    places = [tensor.long().flatten() for tensor in numbered.parameters()]
    for row, vector in enumerate(trial.parameters):
        module = network.module(vector)
        F.cross_entropy(module(trial.inputs[row]), trial.labels[row]).backward()
        for place, parameter in zip(places, module.parameters(), strict=True):
            expected[row, place] = 0.0 if parameter.grad is None else parameter.grad.flatten()
    _expect_close(trial.gradients(trial.parameters), expected, "the gradients of its module")


def learns(trial: NetworkTrial) -> None:
    """Gradient descent lowers the loss on a minibatch."""
    parameters = trial.parameters
    trial.require_logits()
    for _ in range(TRAINING_STEPS):
        parameters -= LEARNING_RATE * trial.gradients(parameters)
    trained = trial.network.with_statistics(parameters, trial.inputs)
    losses = (F.cross_entropy(logits, trial.labels) for logits in (trial.expected, trial.logits(trained, trial.inputs)))
    before, after = (loss.item() for loss in losses)
    expect(after < LEARNED * before, f"a loss below {LEARNED:g} of {before:.3g} nats", f"{after:.3g} nats")


def leaves_its_inputs_alone(trial: NetworkTrial) -> None:
    """It changes neither parameters nor samples in place."""
    trial.require_logits()
    parameters, inputs = trial.estimated, trial.inputs
    trial.logits(parameters, inputs)
    trial.gradients(parameters)
    trial.network.with_statistics(parameters, inputs)
    expect(torch.equal(parameters, trial.estimated), "parameters unchanged", "others")
    expect(torch.equal(inputs, trial.inputs), "samples unchanged", "others")


def leaves_global_randomness_alone(trial: NetworkTrial) -> None:
    """It does not touch the global random generators of torch, NumPy and Python."""
    trial.require_logits()
    with unchanged_randomness():
        trial.architecture(trial.features, CLASSES)
        trial.logits(trial.estimated, trial.inputs)
        trial.gradients(trial.parameters)


NETWORK_CHECKS = tuple(
    Check(function)
    for function in (
        takes_or_refuses_samples,
        refuses_empty_samples,
        describes_its_tensors,
        computes_logits,
        is_deterministic,
        computes_each_network_alone,
        is_its_module,
        holds_its_vector,
        keeps_its_function_when_permuted,
        has_the_gradients_of_its_module,
        learns,
        leaves_its_inputs_alone,
        leaves_global_randomness_alone,
    )
)
"""All checks of an architecture. Those that need another one are after it."""
