"""What the throughput benchmark measures: the plain reference and the engine, each with all agents training."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks.phases import phase_seconds
from benchmarks.reference import coming_passes, plain_market
from benchmarks.roofline import step_bytes, step_flop
from paramarket_env.config import MarketConfig
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.market.capacity import required_bytes
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import Orders, no_orders
from paramarket_env.seeding import as_seeds

MIB = 2**20
CPU = torch.device("cpu")


def always_open(config: MarketConfig) -> MarketConfig:
    """The market with quotes in every step, for as long as it is measured."""
    return replace(config, max_cycles=10**9, broker=replace(config.broker, opens_at=0, trade_every=1))


@dataclass
class Contender:
    """Something whose steps are timed."""

    name: str
    """What tells it from those beside it."""
    config: MarketConfig
    num_markets: int
    goods: int
    """Parameter sets for sale."""
    flop: dict[str, int]
    """The least that a step of all markets needs, by phase."""
    unshared_flop: int
    """The same in all, with the tries of each buyer counted for itself."""
    moved: dict[str, int]
    """Bytes that such a step moves at least, by what they are."""
    step: Callable[[], None]
    losses: Callable[[], list[float]]
    """The validation losses of the agents of the first market, in nats."""
    device: torch.device
    seconds: list[dict[str, float]] = field(default_factory=list)
    """Of each phase, for each step measured."""

    def measure(self) -> None:
        """Time one step."""
        self.seconds.append(phase_seconds(self.step, self.device))

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase in the step of median duration (the lower of two)."""
        by_duration = sorted(self.seconds, key=lambda phases: sum(phases.values()))
        return by_duration[(len(by_duration) - 1) // 2]


def new_engine(config: MarketConfig, num_markets: int, device: torch.device) -> Engine:
    """So many markets at cycle 0, of the seeds 0, 1, ..."""
    engine = Engine(config, num_markets, device)
    engine.reset(as_seeds(0, num_markets, engine.device))
    return engine


def all_train(engine: Engine) -> Orders:
    """Every agent trains; nobody buys or posts an ask."""
    nothing = no_orders(engine.num_markets, engine.config.agents, engine.exchange.ask_slots, engine.device)
    return replace(nothing, train=torch.ones_like(nothing.train))


def _contender(name: str, engine: Engine, step: Callable[[], None], losses: Callable[[], list[float]]) -> Contender:
    network, partition = engine.network, engine.state.partition
    assert isinstance(network, MLPNetwork)
    work = (engine.config, network, partition.sizes.cpu(), partition.validation.shape[1])
    return Contender(
        name=name,
        config=engine.config,
        num_markets=engine.num_markets,
        goods=len(engine.broker.goods.masks),
        flop=step_flop(*work),
        unshared_flop=sum(step_flop(*work, shared=False).values()),
        moved=step_bytes(*work),
        step=step,
        losses=losses,
        device=engine.device,
    )


def engine_contender(name: str, config: MarketConfig, num_markets: int, device: torch.device) -> Contender:
    """The engine with so many markets."""
    engine = new_engine(config, num_markets, device)
    orders = all_train(engine)

    def step() -> None:
        engine.step(orders)

    def losses() -> list[float]:
        first: list[float] = engine.state.loss[0].tolist()
        return first

    return _contender(name, engine, step, losses)


def reference_contender(config: MarketConfig) -> Contender:
    """The plain market: the first of the engine's, same networks, endowments and orders of samples, on the CPU."""
    engine = new_engine(config, 1, CPU)
    plain, agents = plain_market(engine, 0), range(config.agents)

    def step() -> None:
        plain.step({}, coming_passes(engine, 0, agents))
        engine.state.passes += 1

    return _contender("reference", engine, step, lambda: plain.losses)


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """MiB of a process of its own: before there is an engine, at most up to its second reset, and as estimated."""

    bare: float
    peak: float
    estimate: float


def peak_memory(jobs: Sequence[tuple[MarketConfig, int]], device: torch.device) -> list[Memory]:
    """What so many markets of a configuration take, each pair in a process of its own."""
    # A process that a fork server makes does not inherit our own peak, as one would that we start ourselves.
    with get_context("forkserver").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(partial(_peak_memory, threads=torch.get_num_threads(), device=device), jobs, chunksize=1)


def _peak_memory(job: tuple[MarketConfig, int], threads: int, device: torch.device) -> Memory:
    torch.set_num_threads(threads)
    config, markets = job
    small = new_engine(config, 1, device)  # what the libraries and the data take is not the markets'
    small.step(all_train(small))
    bare = _peak(device)
    engine = new_engine(config, markets, device)
    engine.step(all_train(engine))
    engine.reset(as_seeds(0, markets, engine.device))
    estimate = required_bytes(markets, engine.one, engine.network, engine.dataset)
    return Memory(bare, _peak(device), estimate / MIB)


def _peak(device: torch.device) -> float:
    """The most memory that this process has had so far, in MiB: resident, or torch's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
