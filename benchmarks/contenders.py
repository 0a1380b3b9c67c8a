"""The contenders of the throughput benchmark: the plain reference and the engine, with all agents training."""

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
from paramarket_env.market.capacity import required_bytes
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import Orders, no_orders
from paramarket_env.seeding import as_seeds

MIB = 2**20
CPU = torch.device("cpu")


def always_open(config: MarketConfig) -> MarketConfig:
    """The same market, but open in every step and longer than any measurement."""
    return replace(config, max_cycles=10**6, broker=replace(config.broker, opens_at=0, trade_every=1))


@dataclass
class Contender:
    """An implementation whose steps are timed."""

    name: str
    """The label of its row in the table."""
    config: MarketConfig
    num_markets: int
    goods: int
    """Parameter sets for sale."""
    flop: dict[str, int]
    """The least FLOP that a step of all markets needs, by phase."""
    unshared_flop: int
    """The sum over the phases if buyers shared no tries."""
    moved: dict[str, int]
    """The least bytes that a step of all markets moves, by kind."""
    step: Callable[[], None]
    losses: Callable[[], list[float]]
    """The validation losses of the agents of the first market, in nats."""
    device: torch.device
    seconds: list[dict[str, float]] = field(default_factory=list)
    """Seconds of each phase, for each measured step."""

    def measure(self) -> None:
        """Time one step."""
        self.seconds.append(phase_seconds(self.step, self.device))

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of each phase in the step of median duration (the lower of two)."""
        by_duration = sorted(self.seconds, key=lambda phases: sum(phases.values()))
        return by_duration[(len(by_duration) - 1) // 2]


def new_engine(config: MarketConfig, num_markets: int, device: torch.device) -> Engine:
    """An engine of ``num_markets`` markets at cycle 0, on the seeds 0, 1, ..."""
    engine = Engine(config, num_markets, device)
    engine.reset(as_seeds(range(num_markets), num_markets, engine.device))
    return engine


def all_train(engine: Engine) -> Orders:
    """Every agent trains; nobody buys or posts an ask."""
    nothing = no_orders(engine.num_markets, engine.config.agents, engine.exchange.ask_slots, engine.device)
    return replace(nothing, train=torch.ones_like(nothing.train))


def _contender(name: str, engine: Engine, step: Callable[[], None], losses: Callable[[], list[float]]) -> Contender:
    network, partition = engine.network, engine.state.partition
    work = (engine.config, network, engine.dataset.features, partition.sizes.cpu(), partition.validation.shape[2])
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
    """The engine with ``num_markets`` markets."""
    engine = new_engine(config, num_markets, device)
    orders = all_train(engine)

    def step() -> None:
        engine.step(orders)

    def losses() -> list[float]:
        first: list[float] = engine.state.loss[0].tolist()
        return first

    return _contender(name, engine, step, losses)


def reference_contender(config: MarketConfig) -> Contender:
    """The plain market on the CPU, with networks, endowments and sample orders of the engine's first market."""
    engine = new_engine(config, 1, CPU)
    plain, agents = plain_market(engine, 0), range(config.agents)

    def step() -> None:
        plain.step({}, coming_passes(engine, 0, agents))
        engine.state.passes += 1

    return _contender("reference", engine, step, lambda: plain.losses)


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Memory of a separate process in MiB: before it makes the engine, its peak after that, and an estimate."""

    bare: float
    peak: float
    estimate: float


def peak_memory(jobs: Sequence[tuple[MarketConfig, int]], device: torch.device) -> list[Memory]:
    """The memory of each job, a configuration and a number of markets, measured in a separate process."""
    # A process that a fork server makes does not inherit this process's peak, as a forked child would.
    with get_context("forkserver").Pool(1, maxtasksperchild=1) as pool:
        return pool.map(partial(_peak_memory, threads=torch.get_num_threads(), device=device), jobs, chunksize=1)


def _peak_memory(job: tuple[MarketConfig, int], threads: int, device: torch.device) -> Memory:
    torch.set_num_threads(threads)
    config, num_markets = job
    small = new_engine(config, 1, device)  # counts libraries and data as bare memory
    small.step(all_train(small))
    bare = _peak(device)
    engine = new_engine(config, num_markets, device)
    engine.step(all_train(engine))
    engine.reset(as_seeds(range(num_markets), num_markets, engine.device))
    estimate = required_bytes(num_markets, engine.config, engine.network, engine.tasks)
    return Memory(bare, _peak(device), estimate / MIB)


def _peak(device: torch.device) -> float:
    """The peak memory of this process so far, in MiB: resident, or torch's on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
