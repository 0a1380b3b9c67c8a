"""A whole training pass of many MLPs in Triton: one program for each network, which keeps its parameters in registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton
import triton.language as tl
from torch import Tensor

from paramarket_env.learning.kernels.triton_mlp import (
    affine,
    layout,
    load_layers,
    padded,
    padded_parameters,
    precision,
    relu,
    store_layers,
)

ROOM = 16384
"""The largest number of parameters, with the optimizer's state and padding, that a program keeps in registers."""
ACTIVATIONS = 8192
"""The largest number of outputs of one layer for a minibatch, with padding."""
SGD, MOMENTUM, ADAM = range(3)
STATES: tuple[tuple[str, ...], ...] = ((), ("velocity",), ("mean", "square"))
"""The tensors ``[R, P]`` that each optimizer keeps."""


def fits(widths: Sequence[int], batch_size: int, kind: int) -> bool:
    """Whether a network with these widths, its optimizer's state and its minibatches fit into registers."""
    held = padded_parameters(widths) * (1 + len(STATES[kind]))
    return held <= ROOM and padded(batch_size) * max(map(padded, widths)) <= ACTIVATIONS


def train(
    widths: Sequence[int],
    parameters: Tensor,
    inputs: Tensor,
    labels: Tensor,
    samples: Tensor,
    sizes: Tensor,
    batch_size: int,
    kind: int,
    settings: tuple[float, float, float, float],
    state: Mapping[str, Tensor],
) -> None:
    """Train the networks ``[R, P]`` in place for one pass; see :func:`paramarket_env.learning.training.train`.

    ``inputs`` are float32 ``[n, *features]``, and ``labels`` int64 ``[n]``. The rows need no order. ``settings`` are the
    learning rate, the momentum or first decay rate, the second decay rate and epsilon.
    """
    first, second, *_ = [*(state[name] for name in STATES[kind]), parameters, parameters]
    _train[(len(parameters),)](
        parameters,
        first,
        second,
        state["steps"] if kind == ADAM else parameters,
        inputs,
        labels,
        samples,
        sizes.clamp(max=samples.shape[1]),
        parameters.shape[1],
        samples.shape[1],
        *settings,
        **layout(widths),
        KIND=kind,
        BATCH=batch_size,
        PADDED_BATCH=padded(batch_size),
        PRECISION=precision(),
        num_warps=8,
    )


@triton.jit
def _train(
    parameters: tl.tensor,
    first_state: tl.tensor,
    second_state: tl.tensor,
    steps: tl.tensor,
    inputs: tl.tensor,
    labels: tl.tensor,
    samples: tl.tensor,
    sizes: tl.tensor,
    stride: tl.tensor,
    longest: tl.tensor,
    rate: tl.tensor,
    decay: tl.tensor,
    second_decay: tl.tensor,
    epsilon: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    KIND: tl.constexpr,
    BATCH: tl.constexpr,
    PADDED_BATCH: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    LAYERS: tl.constexpr = len(WIDTHS) - 1
    number = tl.program_id(0).to(tl.int64)
    own = number * stride
    weights, biases = load_layers(parameters + own, WIDTHS, PADDED, OFFSETS, 0)
    weight_means, bias_means = weights, biases
    weight_squares, bias_squares = weights, biases
    taken = tl.zeros([1], tl.float64)
    if KIND > 0:
        weight_means, bias_means = load_layers(first_state + own, WIDTHS, PADDED, OFFSETS, 0)
    if KIND == 2:
        weight_squares, bias_squares = load_layers(second_state + own, WIDTHS, PADDED, OFFSETS, 0)
        taken += tl.load(steps + number)
    feature = tl.arange(0, PADDED[0])
    size = tl.load(sizes + number)
    for start in range(0, size, BATCH):
        place = tl.arange(0, PADDED_BATCH)
        there = (place < BATCH) & (start + place < size)
        index = tl.load(samples + number * longest + start + place, mask=there, other=0)
        inside = there[:, None] & (feature < WIDTHS[0])[None, :]
        entering = (tl.load(inputs + index[:, None] * WIDTHS[0] + feature[None, :], mask=inside, other=0.0),)
        for layer in tl.static_range(LAYERS - 1):
            hidden = relu(affine(entering[layer], weights[layer], biases[layer], PRECISION))
            entering = entering + (hidden,)  # noqa: RUF005
        logits = affine(entering[LAYERS - 1], weights[LAYERS - 1], biases[LAYERS - 1], PRECISION)
        label = tl.load(labels + index, mask=there, other=0)
        back = _logit_gradient(logits, label, there, tl.minimum(size - start, BATCH), WIDTHS[LAYERS], PADDED[LAYERS])
        weight_gradients = ()
        bias_gradients = ()
        for layer in tl.static_range(LAYERS - 1, -1, -1):
            product = tl.dot(tl.trans(back), entering[layer], input_precision=PRECISION)
            weight_gradients = (product,) + weight_gradients  # noqa: RUF005
            bias_gradients = (tl.sum(back, 0),) + bias_gradients  # noqa: RUF005
            if layer > 0:
                passed = tl.dot(back, weights[layer], input_precision=PRECISION)
                back = tl.where(entering[layer] <= 0, 0.0, passed)
        taken += 1
        settings = (rate, decay, second_decay, epsilon)
        weights, weight_means, weight_squares = _step(
            weights, weight_means, weight_squares, weight_gradients, taken[:, None], settings, LAYERS, KIND
        )
        biases, bias_means, bias_squares = _step(
            biases, bias_means, bias_squares, bias_gradients, taken, settings, LAYERS, KIND
        )
    store_layers(parameters + own, weights, biases, WIDTHS, PADDED, OFFSETS)
    if KIND > 0:
        store_layers(first_state + own, weight_means, bias_means, WIDTHS, PADDED, OFFSETS)
    if KIND == 2:
        store_layers(second_state + own, weight_squares, bias_squares, WIDTHS, PADDED, OFFSETS)
        tl.store(steps + number + tl.arange(0, 1), taken)


@triton.jit
def _logit_gradient(
    logits: tl.tensor,
    label: tl.tensor,
    there: tl.tensor,
    count: tl.tensor,
    CLASSES: tl.constexpr,
    PADDED_CLASSES: tl.constexpr,
) -> tl.tensor:
    """The gradient of the mean cross-entropy of ``count`` samples, ``[samples, classes]``; 0 where there is no sample."""
    classes = tl.arange(0, PADDED_CLASSES)[None, :]
    logits = tl.where(classes < CLASSES, logits, -float("inf"))
    exponentials = tl.exp(logits - tl.max(logits, 1)[:, None])
    one_hot = (classes == label[:, None]).to(tl.float32)
    gradient = (exponentials / tl.sum(exponentials, 1)[:, None] - one_hot) / count.to(tl.float32)
    return tl.where(there[:, None], gradient, 0.0)


@triton.jit
def _step(
    values: tl.tensor,
    means: tl.tensor,
    squares: tl.tensor,
    gradients: tl.tensor,
    taken: tl.tensor,
    settings: tl.tensor,
    LAYERS: tl.constexpr,
    KIND: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The values, means and squares of all layers after a step; see :class:`paramarket_env.learning.training.Adam`."""
    rate, decay, second_decay, epsilon = settings
    new_values = ()
    new_means = ()
    new_squares = ()
    for layer in tl.static_range(LAYERS):
        gradient = gradients[layer]
        mean = means[layer]
        square = squares[layer]
        change = rate * gradient
        if KIND == 1:
            mean = decay * mean + gradient
            change = rate * mean
        if KIND == 2:
            mean = mean + (1 - decay) * (gradient - mean)
            square = second_decay * square + (1 - second_decay) * gradient * gradient
            first_share = 1 - tl.exp(taken * tl.log(tl.full([1], 1.0, tl.float64) * decay))
            second_share = 1 - tl.exp(taken * tl.log(tl.full([1], 1.0, tl.float64) * second_decay))
            scale = tl.sqrt(square / second_share.to(tl.float32)) + epsilon
            change = mean / scale * (rate / first_share).to(tl.float32)
        new_values = new_values + (values[layer] - change,)  # noqa: RUF005
        new_means = new_means + (mean,)  # noqa: RUF005
        new_squares = new_squares + (square,)  # noqa: RUF005
    return new_values, new_means, new_squares
