"""A whole training pass of many MLPs in Triton. Each program trains one network in its registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
import triton
import triton.language as tl
from torch import Tensor

from paramarket_env.learning.kernels.compiled import Optimizer
from paramarket_env.learning.kernels.triton_mlp import affine, load_layers, precision, relu, store_layers
from paramarket_env.learning.kernels.triton_shapes import layout, padded, warps


def train(
    widths: Sequence[int],
    parameters: Tensor,
    inputs: Tensor,
    labels: Tensor,
    samples: Tensor,
    sizes: Tensor,
    batch_size: int,
    optimizer: Optimizer,
    state: Mapping[str, Tensor],
) -> None:
    """Train the networks ``[R, P]`` in place for one pass; see :func:`paramarket_env.learning.training.train`.

    ``inputs`` are float32 ``[n, *features]``, and ``labels`` int64 ``[n]``. The rows need no order.
    """
    kept = [state[name] for name in Optimizer.STATES[optimizer.kind]]
    first, second, *_ = [*kept, parameters, parameters]  # what an optimizer does not keep is neither read nor written
    with torch.cuda.device_of(parameters):  # Triton launches on the current device
        _train[(len(parameters),)](
            *(parameters, first, second, state.get("steps", parameters)),
            *(inputs, labels, samples, sizes.clamp(max=samples.shape[1])),
            *(parameters.shape[1], samples.shape[1]),
            *(optimizer.rate, optimizer.momentum, optimizer.epsilon),
            **layout(widths),
            KIND=optimizer.kind,
            BETAS=(optimizer.beta1, optimizer.beta2),
            LOG_BETAS=tuple(log(beta) if beta else 0.0 for beta in (optimizer.beta1, optimizer.beta2)),
            BATCH=batch_size,
            PADDED_BATCH=padded(batch_size),
            PRECISION=precision(),
            num_warps=warps(widths, batch_size, len(kept)),
        )


SGD, MOMENTUM, ADAM = (tl.constexpr(kind) for kind in (Optimizer.SGD, Optimizer.MOMENTUM, Optimizer.ADAM))


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
    momentum: tl.tensor,
    epsilon: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
    KIND: tl.constexpr,
    BETAS: tl.constexpr,
    LOG_BETAS: tl.constexpr,
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
    if KIND != SGD:
        weight_means, bias_means = load_layers(first_state + own, WIDTHS, PADDED, OFFSETS, 0)
    if KIND == ADAM:
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
            entering = entering + (hidden,)
        logits = affine(entering[LAYERS - 1], weights[LAYERS - 1], biases[LAYERS - 1], PRECISION)
        label = tl.load(labels + index, mask=there, other=0)
        back = _logit_gradient(logits, label, there, tl.minimum(size - start, BATCH), WIDTHS[LAYERS], PADDED[LAYERS])
        weight_gradients = ()
        bias_gradients = ()
        for layer in tl.static_range(LAYERS - 1, -1, -1):
            product = tl.dot(tl.trans(back), entering[layer], input_precision=PRECISION)
            weight_gradients = (product,) + weight_gradients
            bias_gradients = (tl.sum(back, 0),) + bias_gradients
            if layer > 0:
                passed = tl.dot(back, weights[layer], input_precision=PRECISION)
                back = tl.where(entering[layer] <= 0, 0.0, passed)
        taken += 1
        settings = (rate, momentum, epsilon)
        weights, weight_means, weight_squares = _step(
            weights,
            weight_means,
            weight_squares,
            weight_gradients,
            taken[:, None],
            settings,
            LAYERS,
            KIND,
            BETAS,
            LOG_BETAS,
        )
        biases, bias_means, bias_squares = _step(
            biases, bias_means, bias_squares, bias_gradients, taken, settings, LAYERS, KIND, BETAS, LOG_BETAS
        )
    store_layers(parameters + own, weights, biases, WIDTHS, PADDED, OFFSETS)
    if KIND != SGD:
        store_layers(first_state + own, weight_means, bias_means, WIDTHS, PADDED, OFFSETS)
    if KIND == ADAM:
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
    """The gradient ``[samples, classes]`` of the mean loss of ``count`` samples; 0 where there is no sample."""
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
    BETAS: tl.constexpr,
    LOG_BETAS: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The values, means and squares of all layers after a step; see :class:`paramarket_env.learning.training.Adam`."""
    rate, momentum, epsilon = settings
    new_values = ()
    new_means = ()
    new_squares = ()
    for layer in tl.static_range(LAYERS):
        gradient = gradients[layer]
        mean = means[layer]
        square = squares[layer]
        change = rate * gradient
        if KIND == MOMENTUM:
            mean = momentum * mean + gradient
            change = rate * mean
        if KIND == ADAM:
            mean = mean + (1 - BETAS[0]) * (gradient - mean)
            square = BETAS[1] * square + (1 - BETAS[1]) * gradient * gradient
            # The shares need float64: 1 minus a decay rate has few digits in float32.
            first_share = 1 - tl.exp(taken * tl.full([1], LOG_BETAS[0], tl.float64))
            second_share = 1 - tl.exp(taken * tl.full([1], LOG_BETAS[1], tl.float64))
            scale = tl.sqrt(square / second_share.to(tl.float32)) + epsilon
            change = mean / scale * (rate / first_share).to(tl.float32)
        new_values = new_values + (values[layer] - change,)
        new_means = new_means + (mean,)
        new_squares = new_squares + (square,)
    return new_values, new_means, new_squares
