"""Compile a Triton kernel for an H100, which need not be there, and print the bytes of shared memory that it takes."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from paramarket_env.learning.kernels import triton_assignment, triton_matching, triton_training, triton_trials
from paramarket_env.learning.kernels.triton_shapes import BLOCK, layout, padded, warps

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
    constants = layout(WIDTHS) | ADAM | {"KIND": kind, "BATCH": 32, "PADDED_BATCH": padded(32), "PRECISION": "tf32x3"}
    return shared_memory(triton_training._train, arguments, constants, warps(WIDTHS, 32, kind))


def trials(*, merged: bool) -> int:
    arguments = [*[FLOAT32] * 2, *[INT64] * 5, FLOAT32, FLOAT64, *["i32"] * 4]
    constants = layout(WIDTHS) | {"MERGED": merged, "BLOCK": BLOCK, "PRECISION": "tf32x3"}
    return shared_memory(triton_trials._losses, arguments, constants, warps(WIDTHS[1:], BLOCK))


def matching() -> int:
    arguments = [*[FLOAT32] * 2, *[INT64] * 3, FLOAT64, *["i32"] * 3, "fp64"]
    constants = layout(WIDTHS) | {"STARTS": (0, WIDTHS[1]), "SWEEPS": 24, "BLOCK": BLOCK}
    return shared_memory(triton_matching._match, arguments, constants, 1)


KERNELS = {
    "assign": assignment,
    "match": matching,
    "train sgd": lambda: training(0),
    "train momentum": lambda: training(1),
    "train adam": lambda: training(2),
    "tries": lambda: trials(merged=True),
    "losses": lambda: trials(merged=False),
}

if __name__ == "__main__":
    print(KERNELS[sys.argv[1]]())
