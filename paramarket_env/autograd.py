"""The mode of torch's autograd in which markets run, whatever mode the caller has set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def no_grad(function: Function) -> Function:
    """Decorate a function so that it runs without gradients, and also leaves the caller's inference mode.

    Tensors that are made in inference mode cannot be changed in place outside it. A market that was reset in inference
    mode could then not be stepped outside it.
    """
    return torch.inference_mode(mode=False)(torch.no_grad()(function))
