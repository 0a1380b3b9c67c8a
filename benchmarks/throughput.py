"""The engine's throughput, compared with a plain reference and the roofline: ``python -m benchmarks.throughput``.

Each repetition times in turn a large matrix product and a large copy, the plain reference
(:mod:`benchmarks.reference`, one module and one pair at a time), and the engine with 1, 16, ... markets. In every step
all agents train, and all offers are aligned, tried and quoted; nobody buys. Figures are medians over the repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console, RenderableType
from rich.progress import track

from benchmarks.contenders import Contender, always_open, engine_contender, peak_memory, reference_contender
from benchmarks.loader import loading
from benchmarks.phases import NAMES
from benchmarks.roofline import Yardstick
from benchmarks.series import SCALED_MARKETS, Measured, Series, draw
from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.results import machine, provenance, write_json, write_picture
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.datasets import FashionMNIST, load_dataset
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.market.devices import resolve_device
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require

MARKETS = {"cpu": (1, 16, 64, 256, 1024), "cuda": (1, 16, 64, 256, 1024, 4096)}
ARCHITECTURE_MARKETS = 4


@dataclass(frozen=True)
class Throughput:
    """Measure the engine, and compare it with the plain reference and the roofline."""

    device: str = "auto"
    """`auto` (the GPU if there is one), `cpu` or `cuda`. The reference always runs on the CPU."""
    data_dir: str | None = None
    """Folder with the files of Fashion-MNIST; none: torchvision's download. It is skipped without the files."""
    num_markets: tuple[int, ...] | None = None
    """Numbers of markets of digits; none: 1 16 64 256 1024, on a GPU 4096 too."""
    fashion_markets: tuple[int, ...] = (1,)
    """Numbers of markets of Fashion-MNIST."""
    agents: tuple[int, ...] = (2, 3, 5, 8)
    """Numbers of agents to compare."""
    crowds: tuple[int, ...] = (16, 64, 256)
    """Numbers of agents to compare in `crowd-64`, where each meets four others in a step."""
    parameter_sets: tuple[str, ...] = ("full", "layers", "prefixes")
    """Rules for parameter sets to compare."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Widths of both hidden layers to compare."""
    architectures: tuple[str, ...] = ("mlp", "cnn", "resnet20(widen=1, depth=10)", "vgg16(width=0.125)", "vit")
    """Architectures to compare with the reference, in markets of 200 digits for training and 100 for validation."""
    repeats: int = 7
    """Steps to measure of each contender, after one to warm up."""
    out: Path | None = None
    """File for the figures; the picture is written next to it. None: `benchmarks/results/throughput-<device>.json`."""

    def __post_init__(self) -> None:
        require(len(self.fashion_markets) >= 1, "fashion_markets", self.fashion_markets, "one number or more")
        require(self.repeats >= 1, "repeats", self.repeats, "an integer >= 1")


def measure(contenders: Sequence[Contender], repeats: int, device: torch.device, console: Console) -> Series:
    """Time all contenders in turn, ``repeats`` times after a turn to warm up."""
    yardstick = Yardstick(device)
    for repeat in track(range(repeats + 1), console=console, transient=True, disable=not console.is_terminal):
        yardstick.measure()
        for contender in contenders:
            contender.measure()
            if repeat == 0:
                contender.seconds.clear()
        if repeat == 0:
            yardstick.forget()
    rows = [measured(contender, yardstick) for contender in contenders]
    return Series(rows, yardstick.product_rate, yardstick.copy_bandwidth)


def measured(contender: Contender, yardstick: Yardstick) -> Measured:
    """The measurements of a contender."""
    phases = contender.phases
    return Measured(
        name=contender.name,
        num_markets=contender.num_markets,
        agents=contender.config.agents,
        goods=contender.goods,
        seconds=sum(phases.values()),
        phases=phases,
        all_seconds=[sum(each.values()) for each in contender.seconds],
        flop=contender.flop,
        unshared_flop=contender.unshared_flop,
        bytes=contender.moved,
        roofline_seconds=yardstick.roofline(sum(contender.flop.values()), sum(contender.moved.values())),
    )


def against_reference(
    config: MarketConfig, markets: Sequence[int], repeats: int, device: torch.device, console: Console
) -> Series:
    """Measure the reference, then the engine with each number of markets."""
    engines = [engine_contender(f"M = {count}", config, count, device) for count in markets]
    reference = reference_contender(config)
    series = measure([reference, *engines], repeats, device, console)
    pairs = zip(reference.losses(), engines[0].losses(), strict=True)
    return replace(series, disagreement=max(abs(ours - theirs) for ours, theirs in pairs))


def with_memory(series: Series, config: MarketConfig, device: torch.device) -> Series:
    """The series of a configuration with the memory of each number of markets; the first row is the reference."""
    reference, *engines = series.rows
    memory = peak_memory([(config, row.num_markets) for row in engines], device)
    rows = [replace(row, memory=taken) for row, taken in zip(engines, memory, strict=True)]
    return replace(series, rows=[reference, *rows])


def as_json(series: Series) -> dict[str, Any]:
    """The figures by name, with the ratios that follow from them."""
    first = series.rows[0]
    rows = [
        asdict(row)
        | {
            "agent_steps_per_second": 1000 / row.milliseconds,
            "times_first": first.milliseconds / row.milliseconds,
            "times_roofline": row.seconds / row.roofline_seconds,
        }
        for row in series.rows
    ]
    if series.loading is not None:
        loop = first.seconds + series.loading
        for row, measured_row in zip(rows, series.rows, strict=True):
            row["times_authors_loop"] = loop * measured_row.num_markets / measured_row.seconds
    return asdict(series) | {"rows": rows}


def variants(options: Throughput) -> dict[str, dict[str, MarketConfig]]:
    """The configurations to compare, by the quantity that grows and by label."""
    config, crowd = always_open(scenario("digits")), always_open(scenario("crowd-64"))
    return {
        "agents": {str(count): replace(config, agents=count) for count in options.agents},
        "agents, 4 partners": {str(count): replace(crowd, agents=count) for count in options.crowds},
        "parameter sets": {rule: config.changed(parameter_sets=rule) for rule in options.parameter_sets},
        "width": {str(width): config.changed(architecture=MLP(hidden=(width, width))) for width in options.widths},
    }


RATIOS = {
    "agent-steps/s": "agent_steps_per_second",
    "× first": "times_first",
    "÷ roofline": "times_roofline",
}
"""The figures of :func:`as_json` that the tables show, by label."""


# --- the terminal -----------------------------------------------------------------------------------------------------


def _series_table(series: Series, title: str, header: str = "") -> RenderableType:
    """The figures for the terminal. Steps, phases and the roofline are in milliseconds per agent-step."""
    has_memory = any(row.memory is not None for row in series.rows)
    labels = [*RATIOS, *["MiB", "est."] * has_memory, "ms", *NAMES]
    rows = {}
    for row, figures in zip(series.rows, as_json(series)["rows"], strict=True):
        cells = [_figure(figures[name]) for name in RATIOS.values()]
        if has_memory:
            taken = row.memory
            cells += [_figure(taken.peak - taken.bare), _figure(taken.estimate)] if taken else ["", ""]
        rows[row.name] = [*cells, _figure(row.milliseconds), *(_phases(row) if row.phases["train"] else ())]
    last = series.rows[-1]
    share = 1000 / last.agent_steps
    parts = [_figure(share * last.flop[name] / series.product_rate) if name in last.flop else "" for name in NAMES]
    empty = [""] * labels.index("ms")
    rows[f"roofline, {last.name}"] = [*empty, _figure(share * last.roofline_seconds), *parts]
    return table(rows, labels, title, header)


def _architectures_table(architectures: dict[str, Series]) -> RenderableType:
    """A row for each architecture: the engine, compared with that architecture's reference and roofline."""
    rows = {}
    for name, series in architectures.items():
        row, figures = series.rows[-1], as_json(series)["rows"][-1]
        cells = [_figure(figures[ratio]) for ratio in RATIOS.values()]
        rows[name] = [*cells, f"{series.disagreement:.1g}", _figure(row.milliseconds), *_phases(row)]
    labels = ["agent-steps/s", "× reference", "÷ roofline", "nats", "ms", *NAMES]
    return table(rows, labels, f"small digits, {ARCHITECTURE_MARKETS} markets", "architecture")


def _phases(row: Measured) -> list[str]:
    """The milliseconds per agent-step of each phase."""
    return [_figure(1000 * row.phases[name] / row.agent_steps) for name in NAMES]


def _figure(value: float) -> str:
    """Three significant digits; below 0.1, two."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"


def legend(series: Series) -> str:
    """The parts of the roofline, and notes on the table of a series with the reference."""
    row = series.rows[-1]
    million = {phase: flop / row.agent_steps / 1e6 for phase, flop in row.flop.items()}
    mega = {what: moved / row.agent_steps / 1e6 for what, moved in row.bytes.items()}
    rate, bandwidth = series.product_rate, series.copy_bandwidth
    unshared = row.unshared_flop / row.agent_steps
    unshared_ratio = row.seconds * rate / row.unshared_flop
    arithmetic, moving, reading = (
        _figure(1000 * seconds)
        for seconds in (
            sum(million.values()) * 1e6 / rate,
            sum(mega.values()) * 1e6 / bandwidth,
            mega["samples"] * 1e6 / bandwidth,
        )
    )
    return "\n".join(
        (
            "ms: per agent-step; the roofline is the larger of these two, which can overlap:",
            f"- {_parts(million, 'MFLOP')} at a large product's {_figure(rate / 1e9)} GFLOP/s: {arithmetic} ms; "
            f"without shared tries, {_figure(unshared / 1e6)} MFLOP: {row.name} ÷ {_figure(unshared_ratio)}",
            f"- {_parts(mega, 'MB')} at a large copy's {_figure(bandwidth / 1e9)} GB/s: {moving} ms, "
            f"{reading} of it for the shuffled samples",
            *_authors_loop(series),
            "MiB: peak memory of a separate process, less what it used before these markets; est.: the estimate",
            f"the losses of the reference and of the engine's first market differ by {series.disagreement:.1g} nats",
        )
    )


def _authors_loop(series: Series) -> list[str]:
    if series.loading is None:
        return []
    row, figures = series.rows[-1], as_json(series)["rows"][-1]
    return [
        f"the authors' scripts load data for another {series.loading:.1f} s of a step: with the reference's work they "
        f"take {figures['times_authors_loop']:.0f} times as long as {row.name}"
    ]


def _parts(amounts: dict[str, float], unit: str) -> str:
    parts = ", ".join(f"{name} {_figure(amount)}" for name, amount in amounts.items())
    return f"{_figure(sum(amounts.values()))} {unit} ({parts})"


# --- the command ------------------------------------------------------------------------------------------------------


def run(options: Throughput, console: Console) -> dict[str, Any]:
    """Measure, print, and write the JSON file and the picture. Returns the content of the JSON file."""
    device = resolve_device(options.device)
    origin = provenance([0], device, dated=False)
    console.print(machine(origin))

    markets = options.num_markets or MARKETS[device.type]
    config = always_open(scenario("digits"))
    digits = with_memory(against_reference(config, markets, options.repeats, device, console), config, device)
    fashion = measure_fashion(options, device, console)
    for title, series in (("digits", digits), ("fashion", fashion)):
        if series is not None:
            console.print(_series_table(series, title), *legend(series).splitlines(), "", sep="\n")
    scaling = measure_scaling(options, device, console)
    for what, series in scaling.items():
        console.print(_series_table(series, f"digits, {SCALED_MARKETS} markets", what))
    architectures = measure_architectures(options, device, console)
    if architectures:
        console.print(_architectures_table(architectures))
    results = origin | {
        "repeats": options.repeats,
        "digits": as_json(digits),
        "fashion": None if fashion is None else as_json(fashion),
        "scaling": {what: as_json(series) for what, series in scaling.items()},
        "architectures": {name: as_json(series) for name, series in architectures.items()},
    }
    out = options.out or Path(f"benchmarks/results/throughput-{device.type}.json")
    write_json(out, results)
    write_picture(out.with_suffix(".png"), draw(digits, scaling, f"digits: {machine(origin)}"))
    console.print(f"wrote {out} and {out.with_suffix('.png')}")
    return results


def measure_fashion(options: Throughput, device: torch.device, console: Console) -> Series | None:
    """The reference and the engine on Fashion-MNIST, or None if its files are missing."""
    config = always_open(scenario("fashion", dataset=FashionMNIST(options.data_dir)))
    try:
        load_dataset(config.datasets[0])
    except (ImportError, OSError) as error:
        console.print(f"fashion is skipped: {error}")
        return None
    series = against_reference(config, options.fashion_markets, options.repeats, device, console)
    return replace(with_memory(series, config, device), loading=loading(config, options.repeats))


def measure_scaling(options: Throughput, device: torch.device, console: Console) -> dict[str, Series]:
    """The measured variants of the engine, by the quantity that grows."""
    scaling = {}
    for what, configs in variants(options).items():
        if configs:
            contenders = [engine_contender(name, config, SCALED_MARKETS, device) for name, config in configs.items()]
            scaling[what] = measure(contenders, options.repeats, device, console)
    return scaling


def measure_architectures(options: Throughput, device: torch.device, console: Console) -> dict[str, Series]:
    """The reference and the engine with each architecture."""
    small = always_open(scenario("digits", train_samples=200, validation_samples=100))
    configs = {name: small.changed(architecture=name) for name in options.architectures}
    return {
        name: against_reference(config, (ARCHITECTURE_MARKETS,), options.repeats, device, console)
        for name, config in configs.items()
    }


def main() -> None:
    """Measure and print."""
    run(tyro.cli(Throughput), new_console(120))


if __name__ == "__main__":
    main()
