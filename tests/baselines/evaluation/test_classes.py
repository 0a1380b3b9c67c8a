"""Accuracy by class: what it must add up to, and its picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paramarket_baselines.evaluation.play import Arm, Episode, play
from paramarket_baselines.evaluation.report import draw_classes, per_seed, summarise
from paramarket_env.learning.data.endowments import ENDOWMENTS
from tests.helpers import tiny_market
from tests.learning.data.test_scarcity import SETTINGS

AGENT = ["seed", "agent"]
TASKS: dict[str, Any] = {"dataset": ("digits", "digits-parity"), "parameter_sets": "trunk", "train_samples": 300}


def played(**changes: Any) -> Episode:
    """Three cycles of training."""
    return play(tiny_market(max_cycles=3, **changes), Arm("train", ("train",)), (0, 4), "cpu")


@pytest.mark.parametrize("tasks", [{}, TASKS])
@pytest.mark.parametrize("name", ENDOWMENTS)
def test_accuracy_by_class_adds_up_to_the_accuracy(name: str, tasks: dict[str, Any]) -> None:
    episode = played(endowment=SETTINGS.get(name, name), **tasks)
    last = episode.steps[episode.steps.cycle == 3].set_index(AGENT)
    classes = episode.classes.assign(correct=episode.classes.test_accuracy * episode.classes.test_samples)
    assert (classes.groupby(AGENT).test_samples.sum() == 60).all()
    for column, chosen in (
        ("test_accuracy", classes),
        ("scarce_accuracy", classes[classes.scarce]),
        ("other_accuracy", classes[~classes.scarce]),
    ):
        sums = chosen.groupby(AGENT)[["correct", "test_samples"]].sum().reindex(last.index, fill_value=0)
        expected = (sums.correct / sums.test_samples).to_numpy()
        np.testing.assert_allclose(last[column], expected)
    assert (classes.task.to_numpy() == last.task.reindex(list(zip(classes.seed, classes.agent, strict=True)))).all()


@pytest.mark.parametrize("tasks", [{}, TASKS])
def test_the_confusions_are_counted_by_class_and_prediction(tasks: dict[str, Any]) -> None:
    episode = played(**tasks)
    keys = [*AGENT, "class"]
    by_class, confusions = episode.classes.set_index(keys), episode.confusions
    tested = confusions.groupby(keys).test_samples.sum().reindex(by_class.index, fill_value=0)
    assert (tested == by_class.test_samples).all()
    right = confusions[confusions["class"] == confusions.predicted].set_index(keys).test_samples
    correct = right.reindex(by_class.index, fill_value=0)
    np.testing.assert_allclose(correct / tested, by_class.test_accuracy)
    numbers = {"digits": 10, "digits-parity": 2}
    for task, rows in episode.classes.groupby("task"):
        assert set(rows["class"]) == set(range(numbers[str(task)]))


def test_the_summary_has_the_scarce_classes_apart() -> None:
    episode = played()
    last = episode.steps[episode.steps.cycle == 3]
    estimates = summarise(per_seed([episode]))["train"]
    assert estimates["scarce_accuracy"].value == pytest.approx(100 * last.scarce_accuracy.mean())
    assert estimates["other_accuracy"].value == pytest.approx(100 * last.other_accuracy.mean())


def test_scarce_and_other_classes_are_drawn_apart() -> None:
    episode = played()
    panels = draw_classes([episode, episode], "title").axes
    assert [len(axes.lines) for axes in panels] == [2, 2, 2, 2]
    last = episode.steps[episode.steps.cycle == 3]
    drawn = [axes.lines[1].get_ydata()[-1] for axes in panels[:2]]
    assert drawn == pytest.approx([100 * last.scarce_accuracy.mean(), 100 * last.other_accuracy.mean()])


@pytest.mark.parametrize("changes", [{"endowment": "complementary(scarcity=1.0)"}, {**TASKS, "endowment": "iid"}])
def test_a_market_in_which_nothing_is_scarce_has_no_panel_for_it(changes: dict[str, Any]) -> None:
    episode = played(**changes)
    assert not episode.classes.scarce.any()
    figure = draw_classes([episode], "title")
    assert ["scarce" in axes.get_title() for axes in figure.axes] == [False, False]
    figure.canvas.draw()
