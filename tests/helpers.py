"""Tiny markets, orders and comparisons that several tests share."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.augmentation import CropsAndFlips
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.network import Network
from paramarket_env.learning.training import SGD
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import Orders, no_orders
from paramarket_env.market.state import MarketState, tree_map
from paramarket_env.validation import configuration

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "max_cycles": 6,
    "train_samples": 120,
    "validation_samples": 60,
    "test_samples": 60,
    "architecture": MLP(hidden=(8,)),
    "optimizer": SGD(lr=0.2),
    "batch_size": 16,
    "merger": Linear(weights=(0.2, 0.5, 0.8)),
}
PRICED: dict[str, Any] = {"agents": 3, "ask_levels": (0, 10, 25, 60), "initial_ask": 1, "budget": 60}
CROWD: dict[str, Any] = {"agents": 6, "partners": 2, "endowment": "few-classes(classes=4, samples=20)"}
"""Changes that give agents two partners in each step."""


def tiny_market(**changes: Any) -> MarketConfig:
    """A market on digits with steps of milliseconds; ``changes`` name fields of any part of the configuration."""
    return MarketConfig().changed(**TINY | changes)


def priced_market(**changes: Any) -> MarketConfig:
    """A tiny market of three agents in which purchases cost money and budgets are small."""
    return tiny_market(**PRICED | changes)


def new_engine(config: MarketConfig, seeds: Sequence[int] = (0,)) -> Engine:
    """An engine on the CPU with one market for each seed, after a reset."""
    engine = Engine(config, len(seeds), "cpu")
    engine.reset(torch.tensor(list(seeds)))
    return engine


@cache
def shared_engine(config: MarketConfig, num_markets: int) -> Engine:
    """An engine that tests share. Reset it before use, and change only what a reset restores."""
    return Engine(config, num_markets, "cpu")


def orders(
    engine: Engine,
    train: Sequence[int] = (),
    buy: dict[int, int] | None = None,
    ask: dict[int, int | list[int]] | None = None,
    bid: dict[int, int] | None = None,
) -> Orders:
    """The same orders in every market: agents that train, and each agent's offer, bid and ask level.

    All other agents hold.
    """
    chosen = tree_map(torch.clone, no_orders(engine.num_markets, engine.config.agents, engine.exchange.ask_slots, CPU))
    chosen.train[:, list(train)] = True
    for column, choices in ((chosen.offer, buy), (chosen.bid, bid), (chosen.ask, ask)):
        for agent, choice in (choices or {}).items():
            column[:, agent] = torch.tensor(choice)
    return chosen


def random_orders(engine: Engine, rng: np.random.Generator) -> Orders:
    """Random orders, legal or not."""
    shape = (engine.num_markets, engine.config.agents)
    levels = len(engine.config.economy.ask_levels)
    train = torch.from_numpy(rng.random(shape) < 0.5)
    offer = torch.from_numpy(rng.integers(-1, engine.offers, shape))
    ask = torch.from_numpy(rng.integers(-1, levels + 1, (*shape, engine.exchange.ask_slots)))
    bid = torch.from_numpy(rng.integers(0, engine.exchange.bid_levels, shape))
    return Orders(train, offer, bid, ask)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state, with their names."""
    if isinstance(tree, Tensor):
        yield name, tree
        return
    assert isinstance(tree, dict) or is_dataclass(tree)
    parts = tree if isinstance(tree, dict) else {field.name: getattr(tree, field.name) for field in fields(tree)}
    for key, part in parts.items():
        yield from leaves(part, f"{name}.{key}" if name else key)


def frozen(state: MarketState) -> dict[str, bytes]:
    """The bits of a state by tensor name. Two states are equal if their dictionaries are."""
    return {name: tensor.numpy().tobytes() for name, tensor in leaves(state)}


def logits(network: Network, parameters: Tensor, inputs: Tensor) -> Tensor:
    """The logits ``[R, G, classes, n]`` of networks ``[R, G, P]`` on inputs ``[R, n, *features]``."""
    return network.body(parameters[..., network.stem_size :], network.stem(parameters, inputs))


def module_loss(engine: Engine, parameters: Tensor, samples: Tensor) -> float:
    """The mean loss of one network ``[P]`` on samples ``[n]``, computed by its torch module."""
    inputs, labels = engine.dataset.inputs[samples], engine.dataset.labels[samples]
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(engine.network.module(parameters)(inputs), labels))


def random_action(space: spaces.Space[Any], rng: np.random.Generator) -> Any:
    """A uniform action of a space, legal or not."""
    if isinstance(space, spaces.MultiDiscrete):
        return rng.integers(0, space.nvec)
    assert isinstance(space, spaces.Discrete)
    return int(rng.integers(space.n))


def random_actions(env: ParaMarketEnv, rng: np.random.Generator) -> dict[str, Any]:
    """A uniform action of every agent, legal or not."""
    return {agent: random_action(env.action_space(agent), rng) for agent in env.agents}


def play(env: ParaMarketEnv, seed: int | None, action_seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """An episode of random actions: what ``reset`` and each ``step`` return."""
    rng = np.random.default_rng(action_seed)
    yield env.reset(seed=seed)
    while env.agents:
        yield env.step(random_actions(env, rng))


def digest(value: Any) -> str:
    """A hash of nested dictionaries, sequences, arrays, tensors and numbers, to the bit."""
    hasher = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key in sorted(part):
                hasher.update(key.encode())
                add(part[key])
        elif isinstance(part, (tuple, list)):
            hasher.update(str(len(part)).encode())
            for item in part:
                add(item)
        else:
            array = part.numpy() if isinstance(part, Tensor) else np.asarray(part)
            hasher.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())

    add(value)
    return hasher.hexdigest()


def episode_digest(env: ParaMarketEnv, seed: int | None, action_seed: int = 0) -> str:
    """A hash of a whole episode of random actions and of the networks at its end."""
    returned = list(play(env, seed, action_seed))
    return digest([returned, env.market_batch.engine.state.parameters])


@dataclass(frozen=True)
class Played:
    """The results of playing one market alone, reset after each end; one row per step."""

    first: np.ndarray
    """Observations of the first reset, float32 ``[N, D]``."""
    seen: np.ndarray
    """Observations after each step, and after the reset if an episode ended, float32 ``[steps, N, D]``."""
    last: np.ndarray
    """Observations that the step itself returned, float32 ``[steps, N, D]``."""
    reward: np.ndarray
    """float64 ``[steps, N]``."""
    terminated: np.ndarray
    """bool ``[steps, N]``."""
    truncated: np.ndarray
    """bool ``[steps]``."""

    @property
    def ended(self) -> np.ndarray:
        """bool ``[steps]``."""
        return self.truncated | self.terminated.all(axis=1)


def spoil(engine: Engine, market: int, agents: slice | int = slice(None)) -> None:
    """Break the networks of agents of a market. The agents are terminated when they train next."""
    engine.state.parameters[market, agents] = torch.nan


def play_alone(config: MarketConfig, seed: int, actions: np.ndarray, spoiled: int | None = None) -> Played:
    """Play one ``ParaMarketEnv`` with actions ``[steps, N, ...]``; all networks break at step ``spoiled``."""
    env = ParaMarketEnv(config, device="cpu")
    first = env.reset(seed=seed)[0]
    rows: list[tuple[Any, ...]] = []
    for step, chosen in enumerate(actions):
        if step == spoiled:
            spoil(env.market_batch.engine, 0)
        *returned, _ = env.step(dict(zip(env.possible_agents, chosen, strict=True)))
        last, reward, terminated, truncated = (np.stack(list(part.values())) for part in returned)
        seen = last if env.agents else np.stack(list(env.reset()[0].values()))
        rows.append((seen, last, reward, terminated, truncated.all()))
    return Played(np.stack(list(first.values())), *(np.stack(column) for column in zip(*rows, strict=True)))


def scripted(config: MarketConfig, steps: int, num_markets: int, spoiled: tuple[int, int] | None = None) -> np.ndarray:
    """Random actions, legal or not, int64 ``[steps, M, N, ...]``; all agents train at ``spoiled``, (step, market)."""
    env = ParaMarketEnv(config, device="cpu")
    space, rng = env.action_space("trader_0"), np.random.default_rng(0)
    size = (steps, num_markets, config.agents)
    assert isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
    if isinstance(space, spaces.Discrete):
        actions, train = rng.integers(0, space.n, size), np.int64(1)
    else:
        actions, train = rng.integers(0, space.nvec, (*size, 3)), np.array([1, 0, 0])
    if spoiled is not None:
        actions[spoiled] = train
    return actions


def peak_memory() -> int:
    """The largest memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@configuration
class Images:
    """Random images of three classes, with an augmentation or, if ``plain``, without one."""

    padding: int = 0
    flips: bool = False
    plain: bool = False

    def __call__(self) -> Dataset:
        images, labels = torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 3
        images[:, 0] += labels.view(-1, 1, 1)
        rule = None if self.plain else CropsAndFlips((-0.5, 0.25, 3.0), self.padding, self.flips)
        return Dataset(images, labels, classes=3, official_test=0, augmentation=rule)
