"""Federated averaging, the paper's comparison: every round all agents take the mean of their networks, then train."""

from __future__ import annotations

from paramarket_env.market.engine import Engine


def average(engine: Engine) -> None:
    """Replace every network of a market by the mean of its agents' (McMahan et al. 2017, equal weights)."""
    parameters = engine.state.parameters
    engine.overwrite(parameters.mean(dim=1, keepdim=True).expand_as(parameters))
