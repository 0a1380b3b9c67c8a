"""Venues: the trainings that the leaderboard plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.leaderboard.venue import Venue
from paramarket_baselines.policies.mixed import MixedPolicy
from paramarket_baselines.training.league import opponents_of
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from paramarket_env.seeding import stream


def test_a_best_response_meets_all_policies_of_a_population_alike(tmp_path: Path) -> None:
    venue, policies = Venue("digits-priced-short", 4, tmp_path, tmp_path), ("train", "hold", "greedy")
    batch, rows = MarketBatch(venue.config, 1, "cpu"), torch.arange(900)
    plan = venue.best_response("mine", policies).plan
    player = opponents_of(plan.against, ())(seat_of(batch, len(rows)))
    player.reset(rows, stream(rows, "episode"))
    assert isinstance(player, MixedPolicy)
    assert torch.bincount(player.drawn).tolist() == pytest.approx([300, 300, 300], abs=45)
