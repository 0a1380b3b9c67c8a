"""Federated averaging, to which the paper compares the market: every round all agents average their networks."""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.market.engine import Engine


def average(engine: Engine) -> Tensor:
    """Replace every network of a market by the mean of its living agents' (McMahan et al. 2017, equal weights).

    Returns the gain of each agent, float64 ``[M, N]``: by how many nats its validation loss falls.
    """
    parameters, alive = engine.state.parameters, engine.state.alive.unsqueeze(2)
    total = torch.where(alive, parameters, 0.0).sum(dim=1, keepdim=True)
    return engine.overwrite((total / alive.sum(dim=1, keepdim=True)).expand_as(parameters))
