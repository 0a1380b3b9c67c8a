"""Any configuration is refused with an error of ours, or plays correctly.

The configurations come from the fields and the plug-ins that there are, so a new one is covered without a new test.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import astuple
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from paramarket_env import paramarket_v0
from paramarket_env.config import SECTIONS, MarketConfig
from paramarket_env.interface.policy import POLICIES, PolicyFactory
from paramarket_env.learning import memory
from paramarket_env.plugins import REGISTRIES, Registry, parameters
from paramarket_env.validation import shown
from tests.helpers import PRICED, TINY, random_actions

NUMBERS: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 16, 120, 2**31, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 10**5000),
    *(-1.0, -0.0, 0.0, 5e-324, 1e-307, 1e-45, 1e-12, 0.05, 0.5, 0.5 + 1e-10, 1.0, 2.0, 99.9, 1e6, 1e30, 1e39, 1e308),
    *(float("nan"), float("inf"), -float("inf")),
    *(np.int64(3), np.int64(2**62), np.uint64(2**63), np.int8(-1), np.int32(2), np.float32(0.1), np.float64(0.5)),
    *(np.float16("inf"), np.longdouble(0.5), np.float64("nan"), np.array(1.0), np.array([2]), torch.tensor(2)),
    *(True, False, np.True_, 1j, Fraction(1, 20), Decimal("0.05"), Decimal("nan")),
]
OTHERS: list[Any] = [
    *(None, "", "no", "3", "none", "[red]\n", "\0", "x" * 10_000, b"iid", (), [], {}, set(), [1, 2], {"a": 1}),
    *(object(), int, len, np.zeros(3), torch.zeros(2, requires_grad=True), (None,), ((),), ("a", 1), range(3)),
]
TEXTS = (
    "{name}",
    "{name}()",
    "{name}:{value}",
    "{name}({field}={value})",
    "{name}({value},)",
    "{name}(x=1)",
    "{name}(",
)
PACKAGES = ("paramarket_env", "paramarket_baselines")
ROOM = 2**27
"""Bytes. Whatever needs more is refused, so no configuration takes long."""


def bound(bounds: list[Any], kinds: tuple[type, ...], otherwise: float) -> Any:
    """The bound of one of these kinds, or what a field without one allows."""
    return next((astuple(each)[0] for each in bounds if isinstance(each, kinds)), otherwise)


class Fuzzer:
    """Draws values for the fields of configurations."""

    def __init__(self, seed: int, folder: str) -> None:
        self.random, self.folder = random.Random(seed), folder

    def pick(self, values: Any) -> Any:
        return self.random.choice(list(values))

    def value(self, name: str, hint: Any) -> Any:
        """Mostly a value of the right kind, often an extreme one."""
        if name == "data_dir":  # without a folder, a dataset would be downloaded
            return self.pick([self.folder, f"{self.folder}/none", "", "\0", 3, b"x"])
        if self.chance(0.08):
            return self.pick(OTHERS if self.chance(0.5) else NUMBERS)
        origin, parts = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.annotated(name, *parts)
        if origin is tuple:
            return self.values(name, parts[0])
        if origin in (Union, UnionType):
            return self.value(name, self.pick(parts))
        return self.pick(parts if origin is Literal else [None] if hint is NoneType else NUMBERS)

    def annotated(self, name: str, hint: Any, *notes: Any) -> Any:
        """A plug-in of the registry among the notes, or a number at or between the bounds that they give."""
        for registry in notes:
            if isinstance(registry, Registry):
                return self.plugin(self.pick(REGISTRIES.values()) if self.chance(0.05) else registry)
        bounds = [each for note in notes for each in getattr(note, "metadata", ())]
        most = 2**63 - 1 if hint is int else 1e308
        low, high = bound(bounds, (Ge, Gt), -most), bound(bounds, (Le, Lt), most)
        if hint is float:
            middle = self.random.uniform(low, min(high, 10 * abs(low) + 1))
            return self.pick(
                [
                    low,
                    high,
                    float(np.nextafter(low, 1)),
                    float(np.nextafter(high, 0)),
                    middle,
                    np.float32(min(middle, 1e38)),
                ]
            )
        if hint is int:
            return self.pick([low, low + 1, low + 2, low + 5, low + 30, high, high - 1, np.int64(low + 1)])
        return self.value(name, hint)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def values(self, name: str, hint: Any) -> tuple[Any, ...]:
        values = [self.value(name, hint) for _ in range(self.pick([0, 1, 1, 2, 2, 3, 3, 5, 300]))]
        try:
            return tuple(sorted(set(values)) if self.chance(0.8) else values)
        except (TypeError, ValueError, ArithmeticError, RuntimeError):
            return tuple(values)

    def plugin(self, registry: Registry[Any]) -> Any:
        """A plug-in as an object or in a textual form, perhaps a wrong one."""
        name = self.pick(registry)
        entry = registry[name]
        known = parameters(entry)
        if self.chance(0.2) and "data_dir" not in known:
            field = self.pick([*known, "x"])
            return self.pick(TEXTS).format(name=name, field=field, value=shown(self.argument(entry, field)))
        if not isinstance(entry, type) or self.chance(0.05):
            return entry
        needed = [field for field in known if field == "data_dir" or known[field].default is known[field].empty]
        chosen = [field for field in known if field in needed or self.chance(0.6)]
        return entry(**{field: self.argument(entry, field) for field in chosen})

    def argument(self, entry: Any, field: str) -> Any:
        return self.value(
            field, get_type_hints(entry, include_extras=True).get(field) if isinstance(entry, type) else None
        )

    def changes(self) -> dict[str, Any]:
        """Values for some fields of any section."""
        sections = [type(getattr(MarketConfig(), name)) for name in SECTIONS]
        hints = {
            field: hint
            for part in (MarketConfig, *sections)
            for field, hint in get_type_hints(part, include_extras=True).items()
        }
        chosen = self.random.sample(sorted(hints.keys() - SECTIONS), self.pick([1, 1, 2, 3, 4, 6]))
        chosen += [self.pick(SECTIONS)] if self.chance(0.03) else []
        return {field: self.value(field, hints[field]) for field in chosen}


def assert_ours(error: Exception, seed: int) -> None:
    """The error is one of ours, in one line, and the same in every run: without the address of an object."""
    raised = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = any(part in raised.parts for part in PACKAGES) and len(str(error).splitlines()) == 1
    assert ours, f"seed {seed}: {error!r}"
    assert " at 0x" not in str(error), f"seed {seed}: {error!r}"


def play(config: MarketConfig, rng: np.random.Generator) -> None:
    """A step in which all train, and one of random actions, with all that must hold."""
    assert MarketConfig.from_json(config.to_json()) == config
    env = paramarket_v0.parallel_env(config, device="cpu")
    seen, _ = env.reset(seed=0)
    state = env.market_batch.engine.state
    levels = [np.float32(price) for price in config.economy.prices.tolist()]
    assert len(set(levels)) == len(levels)
    for step in range(2):
        for agent in env.possible_agents if seen else ():
            assert env.observation_space(agent).contains(seen[agent])
            parts = env.layout.unpack(seen[agent])
            assert np.isfinite(seen[agent]).all()
            assert (parts["kappa"] > 0) == bool(state.kappa[0, env.possible_agents.index(agent)] > 0)
            assert set(parts.get("offer_price", np.zeros(1))) <= {*levels, np.float32(0)}
        if not env.agents:
            break
        actions = random_actions(env, rng)
        seen, rewards, *_ = env.step(actions if step else {agent: 0 * actions[agent] + 1 for agent in actions})
        assert np.isfinite(np.array(list(rewards.values()), dtype=np.float32)).all()
        state = env.market_batch.engine.state
        assert int(state.balance.sum() + state.fees.sum()) == sum(config.budgets)
        assert (state.balance >= 0).all()


def attempt(seed: int, folder: str) -> bool:
    """Make and play the configuration of a seed. Returns whether it was refused."""
    fuzzer = Fuzzer(seed, folder)
    base = TINY | (PRICED if seed % 2 else {})
    try:
        config = MarketConfig().changed(**base | fuzzer.changes())
        play(config, np.random.default_rng(seed))
    except (ValueError, FileNotFoundError, ImportError) as error:
        assert_ours(error, seed)
        return True
    return False


def attempt_policy(seed: int, folder: str) -> bool:
    """The same for a policy among the opponents."""
    fuzzer = Fuzzer(seed, folder)
    try:
        policy: PolicyFactory | str = fuzzer.plugin(POLICIES)
        env = paramarket_v0.gym_env(MarketConfig().changed(**TINY | PRICED), opponents=policy, device="cpu")
        env.reset(seed=seed)
        for _ in range(2):
            env.step(1)
    except (ValueError, FileNotFoundError, ImportError) as error:
        assert_ours(error, seed)
        return True
    return False


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: ROOM)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chunk", range(10))
def test_a_configuration_is_refused_with_an_error_of_ours_or_plays(chunk: int, tmp_path: Path) -> None:
    refusals = sum(attempt(seed, str(tmp_path)) for seed in range(100 * chunk, 100 * chunk + 100))
    assert 10 < refusals < 90  # neither is rare


@pytest.mark.filterwarnings("error")
def test_a_policy_is_refused_with_an_error_of_ours_or_plays(tmp_path: Path) -> None:
    refusals = sum(attempt_policy(seed, str(tmp_path)) for seed in range(200))
    assert 20 < refusals < 180
