"""Compile a Triton kernel for an H100, which need not be there, and print the bytes of shared memory that it takes."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from paramarket_env.learning.kernels import triton_assignment, triton_training, triton_trials
from paramarket_env.learning.kernels.triton_shapes import BLOCK, layout, padded

H100 = GPUTarget("cuda", 90, 32)
WIDTHS = (64, 32, 32, 10)
FLOAT32, FLOAT64, INT64 = "*fp32", "*fp64", "*i64"
ADAM = {"BETAS": (0.9, 0.999), "LOG_BETAS": (-0.1, -0.001)}


def shared_memory(kernel: Any, arguments: list[str], constants: dict[str, Any], warps: int) -> int:
    signature = dict(zip(kernel.arg_names, arguments, strict=False)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    shared: int = triton.compile(source, target=H100, options={"num_warps": warps}).metadata.shared
    return shared


def assignment() -> int:
    return shared_memory(triton_assignment._assign, [FLOAT64, "*i1", INT64, "i32"], {"N": 32}, 1)


def training(kind: int) -> int:
    arguments = [*[FLOAT32] * 3, FLOAT64, FLOAT32, *[INT64] * 3, *["i32"] * 2, *["fp32"] * 3]
    constants = layout(WIDTHS) | ADAM | {"KIND": kind, "BATCH": 32, "PADDED_BATCH": padded(32), "PRECISION": "ieee"}
    return shared_memory(triton_training._train, arguments, constants, 8)


def trials(*, merged: bool) -> int:
    arguments = [*[FLOAT32] * 2, *[INT64] * 5, FLOAT32, FLOAT64, *["i32"] * 4]
    constants = layout(WIDTHS) | {"MERGED": merged, "BLOCK": BLOCK, "PRECISION": "ieee"}
    return shared_memory(triton_trials._losses, arguments, constants, 4)


KERNELS = {
    "assign": assignment,
    "train sgd": lambda: training(0),
    "train momentum": lambda: training(1),
    "train adam": lambda: training(2),
    "tries": lambda: trials(merged=True),
    "losses": lambda: trials(merged=False),
}

if __name__ == "__main__":
    print(KERNELS[sys.argv[1]]())
