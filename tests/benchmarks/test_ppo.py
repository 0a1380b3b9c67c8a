"""The PPO benchmark: it trains through the adapter, and its phases are the whole of the time."""

from __future__ import annotations

import pytest

from benchmarks import ppo
from benchmarks.phases import REST
from paramarket_env.config import ActionMode
from tests.helpers import tiny_market


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_a_small_training_is_clocked_phase_by_phase(mode: ActionMode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paramarket_env.paramarket_v0.named_scenario", lambda name: tiny_market())
    options = ppo.Training(timesteps=2 * 2 * 2 * 6, num_markets=2, device="cpu")
    seconds, returns = ppo.train(options, mode)
    assert list(seconds) == [*(phase for phase, _, _ in ppo.PHASES), REST]
    assert min(seconds.values()) > 0
    assert len(returns) == 2
    assert returns == ppo.train(options, mode)[1]
