"""Layers in registers, which the Triton kernels for MLPs share; see :mod:`.triton_shapes` for their padding."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def precision() -> str:
    """The precision of products: TF32 if torch allows it in its own products, otherwise three times TF32.

    Three products of TF32 have the precision of float32, and the matrix units of a GPU compute them.
    """
    products = torch.backends.cuda.matmul
    # Torch 2.9 has a new setting. It refuses to read the old one if the new one was set.
    setting = getattr(products, "fp32_precision", None) or ("tf32" if products.allow_tf32 else "ieee")
    return "tf32" if setting == "tf32" else "tf32x3"


@triton.jit
def load_layers(
    base: tl.tensor, WIDTHS: tl.constexpr, PADDED: tl.constexpr, OFFSETS: tl.constexpr, FIRST: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """The weights ``[outputs, inputs]`` and the biases ``[outputs]`` of the layers from ``FIRST`` on."""
    weights = ()
    biases = ()
    for layer in tl.static_range(FIRST, len(WIDTHS) - 1):
        at, inside, bias_at, bias_inside = places(base, WIDTHS, PADDED, OFFSETS, layer)
        weights = weights + (tl.load(at, mask=inside, other=0.0),)
        biases = biases + (tl.load(bias_at, mask=bias_inside, other=0.0),)
    return weights, biases


@triton.jit
def store_layers(
    base: tl.tensor,
    weights: tl.tensor,
    biases: tl.tensor,
    WIDTHS: tl.constexpr,
    PADDED: tl.constexpr,
    OFFSETS: tl.constexpr,
) -> None:
    """Store what :func:`load_layers` loads from the first layer on."""
    for layer in tl.static_range(len(WIDTHS) - 1):
        at, inside, bias_at, bias_inside = places(base, WIDTHS, PADDED, OFFSETS, layer)
        tl.store(at, weights[layer], mask=inside)
        tl.store(bias_at, biases[layer], mask=bias_inside)


@triton.jit
def places(
    base: tl.tensor, WIDTHS: tl.constexpr, PADDED: tl.constexpr, OFFSETS: tl.constexpr, layer: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """The addresses of a layer's weights and biases, and whether each is no padding."""
    inputs: tl.constexpr = WIDTHS[layer]
    outputs: tl.constexpr = WIDTHS[layer + 1]
    row = tl.arange(0, PADDED[layer + 1])
    column = tl.arange(0, PADDED[layer])
    at = base + OFFSETS[layer]
    inside = (row < outputs)[:, None] & (column < inputs)[None, :]
    return at + row[:, None] * inputs + column[None, :], inside, at + outputs * inputs + row, row < outputs


@triton.jit
def affine(inputs: tl.tensor, weight: tl.tensor, bias: tl.tensor, PRECISION: tl.constexpr) -> tl.tensor:
    """The outputs ``[samples, outputs]`` of a layer."""
    return tl.dot(inputs, tl.trans(weight), input_precision=PRECISION) + bias[None, :]


@triton.jit
def relu(values: tl.tensor) -> tl.tensor:
    """The positive part. Not-a-number stays what it is."""
    return tl.where(values <= 0, 0.0, values)
