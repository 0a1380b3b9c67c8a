"""Pictures and words of an episode."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.interface import render
from tests.helpers import play, priced_market, tiny_market

HUMAN_WITHOUT_DISPLAY = "finds no display: use 'rgb_array' or 'ansi'"


def new_env(mode: str, **changes: Any) -> ParaMarketEnv:
    env = ParaMarketEnv(priced_market(**changes), render_mode=mode, device="cpu")
    env.reset(seed=2)
    return env


def text(env: ParaMarketEnv) -> str:
    shown = env.render()
    assert isinstance(shown, str)
    return shown


def picture(env: ParaMarketEnv) -> np.ndarray:
    shown = env.render()
    assert isinstance(shown, np.ndarray)
    assert (shown.dtype, shown.shape) == (np.uint8, (720, 1200, 3))
    return shown


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_text_names_every_agent_with_what_it_did_its_loss_balance_and_ask() -> None:
    env = new_env("ansi", budget=20)
    env.step({"trader_0": 1, "trader_1": 0, "trader_2": 4 + 3})
    env.step({"trader_0": 2 + 1, "trader_1": 2, "trader_2": 4 + 4})
    lines = text(env).splitlines()
    loss = env.market_batch.engine.state.loss[0].tolist()
    assert lines[0] == "cycle 2"
    assert [line.split() for line in lines[2:5]] == [
        ["trader_0", "refused", f"{loss[0]:.4f}", "30", "10"],
        ["trader_1", "buy", f"{loss[1]:.4f}", "10", "10"],
        ["trader_2", "ask", f"{loss[2]:.4f}", "20", "withheld"],
    ]


def test_the_text_lists_the_trades_of_the_last_step_with_their_price() -> None:
    env = new_env("ansi", parameter_sets="layers")
    assert "bought" not in text(env)
    env.step({"trader_0": 2 + 3, "trader_1": 0, "trader_2": 2})
    sentences = [line for line in text(env).splitlines() if "bought" in line]
    assert len(sentences) == 2
    assert sentences[0].startswith("trader_0 bought layer2 from trader_2 for 10 ticks (merge weight 0.")
    assert sentences[1].startswith("trader_2 bought layer1 from trader_0 for 10 ticks (merge weight 0.")
    env.step(dict.fromkeys(env.agents, 1))
    assert "bought" not in text(env)
    assert [line.split()[1] for line in text(env).splitlines()[2:]] == ["train"] * 3


def test_the_text_before_the_first_reset_says_what_to_do() -> None:
    env = ParaMarketEnv(tiny_market(), render_mode="ansi", device="cpu")
    assert "call reset()" in text(env)


# --- pictures -------------------------------------------------------------------------------------------------------


def test_the_picture_changes_with_the_episode_and_with_trades() -> None:
    bought, held = new_env("rgb_array"), new_env("rgb_array")
    first = picture(bought)
    assert len(np.unique(first @ [1, 2**8, 2**16])) > 20  # colours
    assert np.array_equal(picture(held), first)
    bought.step({"trader_0": 2, "trader_1": 0, "trader_2": 0})
    held.step({"trader_0": 0, "trader_1": 0, "trader_2": 0})
    assert not np.array_equal(picture(held), first)
    assert (arrow_pixels(held), arrow_pixels(bought) > 100) == (0, True)


def arrow_pixels(env: ParaMarketEnv) -> int:
    """The share of the picture's right part (the trades) that has the colour of a new trade."""
    colour = [int(render.VERBS["buy"][place : place + 2], 16) for place in (1, 3, 5)]
    return int((picture(env)[:, 800:] == colour).all(axis=2).sum())


@pytest.mark.parametrize("agents", [2, 10])
def test_a_picture_can_be_drawn_at_every_moment(agents: int) -> None:
    env = ParaMarketEnv(tiny_market(agents=agents, max_cycles=1), render_mode="rgb_array", device="cpu")
    picture(env)
    for number, _ in enumerate(play(env, seed=1)):
        picture(env)
        assert len(env.history.frames) == number + 1


def test_a_picture_of_a_market_with_a_terminated_agent_can_be_drawn() -> None:
    env = new_env("rgb_array")
    env.market_batch.engine.state.parameters[0, 1] = torch.nan
    env.step(dict.fromkeys(env.agents, 1))
    picture(env)


def test_a_new_episode_begins_with_an_empty_history() -> None:
    env = new_env("ansi")
    env.step({"trader_0": 2, "trader_1": 0, "trader_2": 0})
    assert len(env.history.trades) == 1
    env.reset()
    assert (len(env.history.frames), env.history.trades) == (1, [])


def test_an_environment_without_a_render_mode_renders_nothing() -> None:
    env = ParaMarketEnv(tiny_market(), device="cpu")
    env.reset(seed=2)
    assert env.render() is None


# --- windows --------------------------------------------------------------------------------------------------------


def test_human_without_a_display_warns_and_goes_on() -> None:
    env = ParaMarketEnv(tiny_market(), render_mode="human", device="cpu")
    with pytest.warns(UserWarning, match=HUMAN_WITHOUT_DISPLAY):
        env.reset(seed=2)
    with pytest.warns(UserWarning, match=HUMAN_WITHOUT_DISPLAY):
        env.step(dict.fromkeys(env.agents, 1))
    with pytest.warns(UserWarning, match=HUMAN_WITHOUT_DISPLAY):
        assert env.render() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.close()
    assert env.market_batch.engine.state.cycle.tolist() == [1]


class Numbered(Figure):
    number = 0


class FakeDisplay:
    """In the place of pyplot: counts the windows that are open and how often they are drawn."""

    def __init__(self) -> None:
        self.windows: list[Numbered] = []
        self.drawn = 0

    def figure(self, **size: Any) -> Numbered:
        window = Numbered(**size)
        window.number = len(self.windows)
        canvas = FigureCanvasAgg(window)
        canvas.required_interactive_framework = "a display"  # type: ignore[misc]
        self.windows.append(window)
        return window

    def close(self, window: Numbered) -> None:
        self.windows = [other for other in self.windows if other is not window]

    def fignum_exists(self, number: int) -> bool:
        return any(window.number == number for window in self.windows)

    def pause(self, _: float) -> None:
        self.drawn += 1


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> FakeDisplay:
    fake = FakeDisplay()
    for name in ("figure", "close", "fignum_exists", "pause"):
        monkeypatch.setattr(f"matplotlib.pyplot.{name}", getattr(fake, name))
    return fake


def test_human_shows_the_episode_after_the_reset_and_after_each_step_in_one_window(display: FakeDisplay) -> None:
    env = new_env("human")
    assert (len(display.windows), display.drawn) == (1, 1)
    env.step(dict.fromkeys(env.agents, 1))
    assert (len(display.windows), display.drawn) == (1, 2)
    env.close()
    env.close()
    assert display.windows == []


def test_the_next_episode_leaves_no_window_behind(display: FakeDisplay) -> None:
    env = new_env("human")
    env.reset()
    env.reset(seed=4)
    assert len(display.windows) == 1
    env.close()
    assert display.windows == []


def test_going_back_to_a_snapshot_leaves_no_window_behind(display: FakeDisplay) -> None:
    env = new_env("human")
    saved = env.snapshot()
    env.step(dict.fromkeys(env.agents, 1))
    env.restore(saved)
    env.render()
    assert len(display.windows) == 1
    env.close()
    assert display.windows == []


def test_a_window_that_the_user_closed_stays_closed_and_says_so_once(display: FakeDisplay) -> None:
    env = new_env("human")
    display.windows.clear()
    with pytest.warns(UserWarning, match="the window was closed: render_mode='human' shows nothing more"):
        env.step(dict.fromkeys(env.agents, 1))
    for _ in range(7):  # into the next episode; any further warning would be an error
        env.render()
        if env.agents:
            env.step(dict.fromkeys(env.agents, 1))
        else:
            env.reset()
    env.close()
    assert (display.windows, display.drawn) == ([], 1)


def test_a_closed_environment_opens_no_window(display: FakeDisplay) -> None:
    env = new_env("human")
    env.close()
    env.step(dict.fromkeys(env.agents, 1))
    env.render()
    assert (display.windows, display.drawn) == ([], 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_opens_a_window_of_its_own(display: FakeDisplay, copied: Any) -> None:
    env = new_env("human")
    other = copied(env)
    assert len(display.windows) == 1
    other.render()
    assert len(display.windows) == 2
    other.close()
    env.step(dict.fromkeys(env.agents, 1))
    assert (len(display.windows), display.drawn) == (1, 3)


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_a_list_mode_returns_the_frames_since_the_last_call(mode: str) -> None:
    single, several = new_env(mode), new_env(f"{mode}_list")
    frames = [single.render()]
    for _ in range(2):
        single.step(dict.fromkeys(single.agents, 1))
        several.step(dict.fromkeys(several.agents, 1))
        frames.append(single.render())
    shown: Any = several.render()
    assert len(shown) == 3
    assert all(np.array_equal(one, other) for one, other in zip(shown, frames, strict=True))
    assert several.render() == []
    several.step(dict.fromkeys(several.agents, 1))
    several.reset()
    assert len(several.render()) == 1


def test_a_picture_of_a_crowd_shows_every_agent_without_names() -> None:
    config = tiny_market(agents=30, partners=2, endowment="few-classes(samples=20)", action_mode="round")
    env = ParaMarketEnv(config, render_mode="rgb_array", device="cpu")
    env.reset(seed=0)
    env.step({agent: [1, 1, 0] for agent in env.agents})
    assert len(env.history.trades) > 20
    picture: Any = env.render()  # a warning that labels leave no room would be an error
    assert picture.shape == (720, 1200, 3)


def test_a_trade_is_shown_with_the_gain_that_was_quoted_for_it() -> None:
    env = ParaMarketEnv(tiny_market(action_mode="round"), render_mode="ansi", device="cpu")
    env.reset(seed=0)
    quoted = float(env.market_batch.engine.gains[0, 0, 0])
    env.step({"trader_0": [1, 1, 0], "trader_1": [0, 0, 0]})  # the training after the purchase changes the loss too
    assert env.history.trades[0].quoted_gain == quoted
