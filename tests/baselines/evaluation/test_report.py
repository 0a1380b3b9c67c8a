"""Figures of a run: intervals, pairing by seed, and the run folder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paramarket_baselines.evaluation.play import Arm, Episode, play
from paramarket_baselines.evaluation.report import (
    MEASURES,
    draw_curves,
    per_seed,
    per_task,
    summarise,
    summary_table,
    task_measures,
)
from tests.baselines.evaluation.test_display import printed
from tests.helpers import priced_market

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    config = priced_market(action_mode="round")
    return [play(config, Arm(name, (name,)), SEEDS, "cpu") for name in ("train", "paper")]


def test_measures_are_means_over_agents_for_each_seed(episodes: list[Episode]) -> None:
    table = per_seed(episodes).set_index(["arm", "seed"])
    steps, trades = episodes[1].steps, episodes[1].trades
    last = steps[(steps.cycle == steps.cycle.max()) & (steps.seed == 1)]
    row = table.loc[("paper", 1)]
    assert row.test_accuracy == pytest.approx(100 * last.test_accuracy.mean())
    assert row.purchases == pytest.approx((trades.seed == 1).sum() / 3)
    assert row.paid == pytest.approx(trades[trades.seed == 1].price.sum() / 3)
    assert row["return"] == pytest.approx(steps[steps.seed == 1].groupby("agent").reward.sum().mean())


def test_gains_are_paired_with_the_first_arm_by_seed(episodes: list[Episode]) -> None:
    table = per_seed(episodes).set_index(["arm", "seed"])
    difference = table.loc["paper"].test_accuracy - table.loc["train"].test_accuracy
    np.testing.assert_allclose(table.loc["paper"].accuracy_difference, difference)
    assert (table.loc["train"].accuracy_difference == 0).all()
    assert (table.loc["train"].purchases == 0).all()


def test_the_summary_table_shows_every_measure_with_its_half_width(episodes: list[Episode]) -> None:
    summary = summarise(per_seed(episodes))
    shown = printed(summary_table(summary, "title"))
    assert shown.startswith("title")
    for measure in MEASURES.values():
        assert measure.label in shown
    for arm, estimates in summary.items():
        assert arm in shown
        assert estimates["return"].symmetric() in shown


def test_each_task_has_its_accuracy_and_its_difference_paired_by_seed() -> None:
    tasks = ("digits", "digits-parity")
    config = priced_market(action_mode="round", dataset=(*tasks, "digits"), parameter_sets="trunk", endowment="iid")
    episodes = [play(config, Arm(name, (name,)), SEEDS, "cpu") for name in ("train", "paper")]
    table = per_task(episodes).set_index(["arm", "seed"])
    summary = summarise(table.reset_index())
    shown = printed(summary_table(summary, "by task", task_measures(tasks)))
    for task, members in zip(tasks, ((0, 2), (1,)), strict=True):
        for episode in episodes:
            steps = episode.steps
            last = steps[(steps.cycle == steps.cycle.max()) & steps.agent.isin(members)]
            assert set(last.task) == {task}
            expected = 100 * last.groupby("seed").test_accuracy.mean()
            np.testing.assert_allclose(table.loc[steps.arm.iloc[0]][f"test accuracy of {task}"], expected)
        accuracy = table[f"test accuracy of {task}"]
        difference = table.loc["paper"][f"difference of {task}"]
        np.testing.assert_allclose(difference, accuracy["paper"] - accuracy["train"], atol=1e-9)
        assert f"{task} %" in shown
        assert summary["paper"][f"difference of {task}"].symmetric(1) in shown


def test_a_curve_is_drawn_for_each_arm_and_its_interval_around_it(episodes: list[Episode]) -> None:
    accuracy, loss = draw_curves(episodes, "title").axes
    assert len(accuracy.lines) == len(loss.lines) == len(loss.collections) == 2
    last = episodes[1].steps[episodes[1].steps.cycle == episodes[1].steps.cycle.max()]
    assert loss.lines[1].get_ydata()[-1] == pytest.approx(last.validation_loss.mean())
    assert accuracy.lines[1].get_ydata()[-1] == pytest.approx(100 * last.test_accuracy.mean())


def test_names_are_drawn_as_they_are(episodes: list[Episode]) -> None:
    for name in ("$x_$", "_hidden_", r"\$", "$\\bad$ $", "two\nlines", "\x1b[31m", "中", "n" * 200):
        named = [replace(episodes[0], steps=episodes[0].steps.assign(arm=name))]
        figure = draw_curves(named, name)
        figure.canvas.draw()  # raises or warns for invalid mathematics and for missing glyphs
        (text,) = figure.axes[0].get_legend().get_texts()
        assert text.get_text().strip()
