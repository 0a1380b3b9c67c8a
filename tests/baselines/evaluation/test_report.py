"""Figures of a run: intervals, pairing by seed, and the run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from baselines.evaluation.play import Arm, Episode, play
from baselines.evaluation.report import MEASURES, claim_folder, interval, per_seed, provenance, summarise, write_run
from paramarket_env.market.engine import resolve_device
from tests.helpers import priced_market

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    config = priced_market(action_mode="round")
    return [play(config, Arm(name, (name,)), SEEDS, "cpu") for name in ("train", "paper")]


def test_the_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-5)  # t(0.975, 3 degrees of freedom)
    assert interval([1.0]) == (1.0, None)


def test_measures_are_means_over_agents_for_each_seed(episodes: list[Episode]) -> None:
    table = per_seed(episodes).set_index(["arm", "seed"])
    steps, trades = episodes[1].steps, episodes[1].trades
    last = steps[(steps.cycle == steps.cycle.max()) & (steps.seed == 1)]
    row = table.loc[("paper", 1)]
    assert row.test_accuracy == pytest.approx(100 * last.test_accuracy.mean())
    assert row.trades == pytest.approx((trades.seed == 1).sum() / 3)
    assert row.money == pytest.approx(trades[trades.seed == 1].price.sum() / 3)
    assert row["return"] == pytest.approx(steps[steps.seed == 1].groupby("agent").reward.sum().mean())


def test_gains_are_paired_with_the_first_arm_by_seed(episodes: list[Episode]) -> None:
    table = per_seed(episodes).set_index(["arm", "seed"])
    difference = table.loc["paper"].test_accuracy - table.loc["train"].test_accuracy
    np.testing.assert_allclose(table.loc["paper"].accuracy_difference, difference)
    assert (table.loc["train"].accuracy_difference == 0).all()
    assert (table.loc["train"].trades == 0).all()


def test_a_run_folder_holds_the_run(episodes: list[Episode], tmp_path: Path) -> None:
    config = priced_market(action_mode="round")
    write_run(tmp_path, config, episodes, summarise(per_seed(episodes)), provenance(SEEDS, resolve_device("cpu")), "t")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["seeds"] == [0, 1, 2]
    assert {"torch", "paramarket-env"} <= set(summary["versions"])
    assert set(summary["arms"]["paper"]) == set(MEASURES)
    assert json.loads((tmp_path / "config.json").read_text())["economy"]["ask_levels"] == [0, 10, 25, 60]
    assert (
        len(pd.read_csv(tmp_path / "steps.csv")) == 2 * 3 * 3 * 8
    )  # arms, seeds, agents, cycles with the start and the closing trade
    assert len(pd.read_csv(tmp_path / "trades.csv")) == sum(len(episode.trades) for episode in episodes)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_exists_is_not_written_into_unless_asked(tmp_path: Path) -> None:
    claim_folder(tmp_path / "new", overwrite=False)
    with pytest.raises(FileExistsError, match="--overwrite"):
        claim_folder(tmp_path / "new", overwrite=False)
    claim_folder(tmp_path / "new", overwrite=True)
