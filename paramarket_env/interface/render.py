"""Rendering of one market's episode as text or as a picture: losses, actions, trades, prices and balances."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from paramarket_env.interface.infos import trade_columns
from paramarket_env.interface.pictures import literal, new_figure
from paramarket_env.validation import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from paramarket_env.interface.batch import MarketBatch
    from paramarket_env.market.orders import StepRecord

LIST = "_list"
RENDER_MODES = ("ansi", "rgb_array", "human", f"ansi{LIST}", f"rgb_array{LIST}")

VERBS = {"train": "#a9c7e8", "buy": "#e07b39", "ask": "#7fb77e", "refused": "#c0392b", "hold": "#eeeeee"}
"""The colour of each verb, that is, of an agent's action in a step."""

DID = {"buy": "bought", "refused": "refused", "ask": "asked", "train": "trained"}
"""The column of ``StepRecord`` that marks each verb, in order of importance. An agent without a mark holds."""


CROWD = 20
"""The number of agents from which on a picture does not name them, since their names would cover each other."""


@dataclass(frozen=True)
class Trade:
    """One purchase: its cycle, and the columns of ``trade_columns``."""

    cycle: int
    buyer: int
    seller: int
    parameter_set: str
    merge_weight: float
    price: int
    """Ticks."""
    quoted_gain: float
    """The buyer's quoted gain, in nats."""


@dataclass(frozen=True)
class Frame:
    """The state of one market after ``cycle`` steps."""

    cycle: int
    losses: list[float]
    balances: list[int]
    asks: list[list[int]]
    """The asks of each agent: one for all buyers, or one for each other agent."""
    verbs: list[str]
    """The most important thing that each agent did in the last step."""


@dataclass
class History:
    """The history of one market's episode, for rendering."""

    agents: list[str]
    market: int = 0
    """The market's index in its batch."""
    frames: list[Frame] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)

    def add(self, market_batch: MarketBatch, record: StepRecord | None = None) -> None:
        """Append the state of the market, and the record of the step that led to it."""
        state, asks, row = market_batch.engine.state, market_batch.engine.asks, self.market
        cycle, verbs = int(state.cycle[row]), ["hold"] * len(self.agents)
        if record is not None:
            verbs = _verbs(record, row)
            columns = [column.tolist() for column in trade_columns(record, market_batch.set_names).values()]
            self.trades += [Trade(cycle, *trade) for market, *trade in zip(*columns, strict=True) if market == row]
        losses, balances = state.loss[row].tolist(), state.balance[row].tolist()
        self.frames.append(Frame(cycle, losses, balances, asks[row].tolist(), verbs))

    def copy(self) -> History:
        """A copy of the history, which can be continued separately."""
        return replace(self, frames=list(self.frames), trades=list(self.trades))


def _verbs(record: StepRecord, market: int) -> list[str]:
    """The most important thing that each agent of a market did."""
    happened = [(verb, getattr(record, column)[market].tolist()) for verb, column in DID.items()]
    return [next((verb for verb, flags in happened if flags[agent]), "hold") for agent in range(len(happened[0][1]))]


class Window:
    """A window that shows the episodes on the screen. It opens once, and stays closed after it has been closed."""

    def __init__(self) -> None:
        self.figure: Figure | None = None
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy opens a window of its own."""
        return {"figure": None, "_closed": self._closed}

    def show(self, history: History) -> None:
        """Draw the episode so far. Warn instead if matplotlib has no display, and once if the user has closed it."""
        # Only a window needs pyplot, which fails to import if MPLBACKEND names a backend that is not installed.
        from matplotlib import pyplot as plt  # noqa: PLC0415

        if self._closed:
            return
        if self.figure is None:
            self.figure = plt.figure(figsize=(12, 7.2))
        if self.figure.canvas.required_interactive_framework is None:
            warnings.warn("render_mode='human' finds no display: use 'rgb_array' or 'ansi'", stacklevel=4)
            self._discard()
        elif not plt.fignum_exists(self.figure.number):
            warnings.warn("the window was closed: render_mode='human' shows nothing more", stacklevel=4)
            self.close()
        else:
            _paint(self.figure, history)
            plt.pause(0.001)

    def close(self) -> None:
        """Close the window, if it is open, for good."""
        self._closed = True
        self._discard()

    def _discard(self) -> None:
        if self.figure is not None:
            from matplotlib import pyplot as plt  # noqa: PLC0415

            plt.close(self.figure)
            self.figure = None


class Renderer:
    """Shows the episodes of one market in a render mode. Without a mode (None) it does nothing."""

    def __init__(self, mode: str | None, market_batch: MarketBatch, market: int = 0) -> None:
        known = mode is None or (isinstance(mode, str) and mode in RENDER_MODES)
        require(known, "render_mode", mode, f"None or one of {RENDER_MODES}")
        self.mode, self._market_batch = mode, market_batch
        self.history = History(market_batch.agent_names, market)
        self._window = Window()
        self._frames: list[str | np.ndarray] = []

    def begin(self) -> None:
        """Begin a new episode with the current state of the market."""
        self.history = History(self.history.agents, self.history.market)
        self._frames = []
        self.add(None)

    def add(self, record: StepRecord | None) -> None:
        """Add the current state of the market, and the record of the step that led to it."""
        if self.mode is None:
            return
        self.history.add(self._market_batch, record)
        if self.mode == "human":
            self._window.show(self.history)
        elif self.mode.endswith(LIST):
            self._frames.append(self._frame())

    def _frame(self) -> str | np.ndarray:
        return as_text(self.history) if str(self.mode).startswith("ansi") else draw(self.history)

    def render(self) -> str | np.ndarray | list[str | np.ndarray] | None:
        """The episode so far as text or as a picture, uint8 ``[720, 1200, 3]``; ``human`` draws the window again.

        A mode that ends in ``_list`` returns the frames of all steps since the last call or the start of the episode.
        """
        if self.mode in (None, "human"):
            if self.mode is not None:
                self._window.show(self.history)
            return None
        if not str(self.mode).endswith(LIST):
            return self._frame()
        frames, self._frames = self._frames, []
        return frames

    def close(self) -> None:
        """Close the window, if it is open."""
        self._window.close()


def as_text(history: History) -> str:
    """The current state and the trades of the last step as lines of text."""
    if not history.frames:
        return "no episode yet: call reset()"
    frame = history.frames[-1]
    lines = [f"cycle {frame.cycle}", f"{'agent':<12}{'did':<9}{'loss':>8}{'balance':>10}{'ask':>10}"]
    for row, agent in enumerate(history.agents):
        ask = "/".join("withheld" if price < 0 else str(price) for price in frame.asks[row])
        lines.append(f"{agent:<12}{frame.verbs[row]:<9}{frame.losses[row]:>8.4f}{frame.balances[row]:>10}{ask:>10}")
    lines += [
        f"{history.agents[trade.buyer]} bought {trade.parameter_set} from {history.agents[trade.seller]} for "
        f"{trade.price} ticks (merge weight {trade.merge_weight:.2f}, gain {trade.quoted_gain:+.4f} nats)"
        for trade in history.trades
        if trade.cycle == frame.cycle
    ]
    return "\n".join(lines)


def draw(history: History) -> np.ndarray:
    """A picture of the episode so far, uint8 ``[720, 1200, 3]``."""
    figure = new_figure(figsize=(12, 7.2), dpi=100)
    _paint(figure, history)
    canvas: Any = figure.canvas
    canvas.draw()
    picture: np.ndarray = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture


def _paint(figure: Figure, history: History) -> None:
    figure.clear()
    grid = figure.add_gridspec(3, 2, width_ratios=(1.7, 1), height_ratios=(2.4, 0.9, 1.1))
    right = grid[:, 1].subgridspec(2, 1, height_ratios=(2, 1))
    _paint_losses(figure.add_subplot(grid[0, 0]), history)
    _paint_verbs(figure.add_subplot(grid[1, 0]), history)
    _paint_balances(figure.add_subplot(grid[2, 0]), history)
    _paint_trades(figure.add_subplot(right[0]), history)
    _paint_prices(figure.add_subplot(right[1]), history)
    figure.set_layout_engine("constrained")


def _colours(history: History) -> list[tuple[float, ...]]:
    from matplotlib import colormaps  # noqa: PLC0415  # see pictures

    palette = colormaps["tab10" if len(history.agents) <= 10 else "tab20"]
    return [palette(row % palette.N) for row in range(len(history.agents))]


def _paint_losses(axes: Axes, history: History) -> None:
    cycles = [frame.cycle for frame in history.frames]
    for row, colour in enumerate(_colours(history)):
        losses = [frame.losses[row] for frame in history.frames]
        axes.plot(cycles, losses, color=colour, label=history.agents[row])
        bought = [trade.cycle for trade in history.trades if trade.buyer == row]
        axes.plot(bought, [losses[cycle] for cycle in bought], "o", color=colour, markersize=5)
    axes.set_title("validation loss (nats); dots: purchases", fontsize=11)
    if len(history.agents) < CROWD:
        axes.legend(loc="upper right", fontsize=9)
    axes.grid(alpha=0.25)


def _paint_verbs(axes: Axes, history: History) -> None:
    for frame in history.frames[1:]:
        for row, verb in enumerate(frame.verbs):
            axes.barh(row, 1, left=frame.cycle - 1, height=0.8, color=VERBS[verb], edgecolor="white", linewidth=0.3)
    named = history.agents if len(history.agents) < CROWD else []
    axes.set_yticks(range(len(named)), named, fontsize=9)
    axes.set_xlim(0, max(len(history.frames) - 1, 1))
    axes.set_ylim(len(history.agents) - 0.5, -0.5)
    axes.set_title("actions", fontsize=11)
    for verb, colour in VERBS.items():
        axes.barh(0, 0, color=colour, label=verb)
    axes.legend(ncols=len(VERBS), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)


def _paint_balances(axes: Axes, history: History) -> None:
    cycles = [frame.cycle for frame in history.frames]
    for row, colour in enumerate(_colours(history)):
        axes.step(cycles, [frame.balances[row] for frame in history.frames], where="post", color=colour)
    axes.set_title("balance (ticks)", fontsize=11)
    axes.set_xlabel("cycle")
    axes.grid(alpha=0.25)


def _paint_trades(axes: Axes, history: History) -> None:
    """Draw the agents on a circle. An arrow runs from seller to buyer; its width shows the number of trades."""
    from matplotlib.patches import FancyArrowPatch  # noqa: PLC0415  # see pictures

    count = len(history.agents)
    angles = np.pi / 2 + 2 * np.pi * np.arange(count) / count
    places = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pairs: dict[tuple[int, int], list[Trade]] = {}
    for trade in history.trades:
        pairs.setdefault((trade.seller, trade.buyer), []).append(trade)
    most = max((len(trades) for trades in pairs.values()), default=1)
    now, named = history.frames[-1].cycle if history.frames else 0, count < CROWD
    for (seller, buyer), trades in pairs.items():
        fresh = trades[-1].cycle == now
        arrow = FancyArrowPatch(
            tuple(places[seller]),
            tuple(places[buyer]),
            connectionstyle="arc3,rad=0.22",
            arrowstyle="-|>",
            mutation_scale=16 if named else 6,
            shrinkA=30 if named else 4,
            shrinkB=30 if named else 4,
            linewidth=(1 + 4 * len(trades) / most) * (1 if named else 0.3),
            color=VERBS["buy"] if fresh else "#999999",
        )
        axes.add_patch(arrow)
        if named:
            along = places[buyer] - places[seller]
            # Near the seller and next to the arrow, so that the labels of opposite arrows stay apart.
            label = places[seller] + 0.4 * along + 0.19 * np.array([along[1], -along[0]])
            box = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}
            axes.text(label[0], label[1], f"{len(trades)}×", ha="center", va="center", fontsize=10, bbox=box)
    for row, colour in enumerate(_colours(history)):
        axes.plot(*places[row], "o", markersize=38 if named else 5, color=colour)
        if named:
            text: dict[str, Any] = {"ha": "center", "va": "center", "color": "white", "fontsize": 13, "weight": "bold"}
            axes.text(places[row, 0], places[row, 1], str(row), **text)
    axes.set_xlim(-1.6, 1.6)
    axes.set_ylim(-1.6, 1.6)
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set_title(f"cycle {now}: {len(history.trades)} trades, seller → buyer", fontsize=11)


def _paint_prices(axes: Axes, history: History) -> None:
    """Draw each purchase at its price, with the seller's colour and the buyer's number.

    If several parameter sets were traded, the name of the set is added.
    """
    colours, goods = _colours(history), sorted({trade.parameter_set for trade in history.trades})
    for trade in history.trades:
        text = str(trade.buyer) if len(goods) < 2 else f"{trade.buyer}\n{literal(trade.parameter_set)}"
        axes.plot(trade.cycle, trade.price, "o", color=colours[trade.seller], markersize=11, alpha=0.9)
        axes.text(trade.cycle, trade.price, text, ha="center", va="center", fontsize=7, color="white")
    axes.set_xlim(0, max(len(history.frames), 2))
    axes.margins(y=0.25)
    axes.set_title("price paid (ticks); colour: seller, number: buyer", fontsize=10)
    axes.set_xlabel("cycle")
    axes.grid(alpha=0.25)
