"""Federated averaging, the paper's baseline: in every round all agents average their networks."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.market.engine import Engine


def average(engine: Engine) -> Tensor:
    """Replace every network of a market by the mean over its living agents (McMahan et al. 2017, equal weights).

    Where tasks differ, only the trunks are averaged, and every agent keeps its head.
    Returns the gain of each agent in nats, float64 ``[M, N]``.
    """
    parameters, alive = engine.state.parameters, engine.state.alive.unsqueeze(2)
    total = torch.where(alive, parameters, 0.0).sum(dim=1, keepdim=True)
    mean = total / alive.sum(dim=1, keepdim=True)
    return engine.overwrite(torch.where(engine.broker.common, mean, parameters))
