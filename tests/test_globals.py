"""The global settings of torch and NumPy change no episode, and markets leave them as they are."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_baselines.evaluation.play import Arm
from paramarket_baselines.evaluation.play import play as play_arm
from paramarket_env import paramarket_v0
from paramarket_env.interface.policy import POLICIES
from paramarket_env.learning.data.datasets import load_dataset
from paramarket_env.learning.networks.modules import from_module
from paramarket_env.plugins import parameters
from tests.helpers import CROWD, digest, episode_digest, priced_market

ROOT = Path(__file__).parents[1]
MARKETS: dict[str, dict[str, Any]] = {
    "sgd": {"disclosure": "bounds", "parameter_sets": "layers"},
    "adam": {"optimizer": "adam", "action_mode": "round", "mechanism": "second-price", "endowment": "dirichlet:0.05"},
    "momentum": {"optimizer": "sgd(lr=0.2, momentum=0.5)", "mechanism": "personal", "endowment": "iid"},
    "crowd": {**CROWD, "disclosure": "full"},
}


@contextmanager
def setting(put: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(before)


SETTINGS: dict[str, Callable[[], Any]] = {
    "float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: setting(torch.set_default_dtype, torch.float16, torch.float32),
    "meta": lambda: setting(torch.set_default_device, "meta", None),
    "deterministic": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "gradients": torch.enable_grad,
    "inference": torch.inference_mode,
    "numpy raises": lambda: np.errstate(all="raise"),
}


def settings() -> tuple[Any, ...]:
    """The settings that a caller can see."""
    return (
        *(torch.get_default_dtype(), torch.empty(0).device, torch.is_grad_enabled(), torch.get_num_threads()),
        *(torch.is_inference_mode_enabled(), torch.are_deterministic_algorithms_enabled()),
        *(torch.get_rng_state().tolist(), np.geterr(), np.random.get_state()[1].tolist()),  # noqa: NPY002  # the global one
    )


def market(name: str) -> str:
    return episode_digest(paramarket_v0.parallel_env(priced_market(**MARKETS[name]), device="cpu"), seed=3)


def of_modules() -> str:
    """An episode with networks made of modules, whose gradients torch computes."""
    build = from_module(lambda features, classes: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes)))
    return episode_digest(paramarket_v0.parallel_env(priced_market(architecture=build), device="cpu"), seed=3)


def beside_rules(policy: str) -> str:
    """Episodes of a Gymnasium environment and of a vector environment beside a rule."""
    config = priced_market(
        disclosure="full" if "omniscient" in policy else "bounds",
        kappa_distribution="uniform",
        kappa=0.5,
        kappa_high=2.0,
    )
    env: Any = paramarket_v0.vector_env(config, opponents=policy, num_envs=3, device="cpu")
    returned = [env.reset(seed=[1, 2, 3])[0].copy()]
    for step in range(8):
        seen, reward, *_ = env.step(np.full(3, step % 3))
        returned += [seen.copy(), reward]
    return digest(returned)


def rows() -> str:
    """Steps of a Stable-Baselines3 environment."""
    env = paramarket_v0.sb3_vec_env(priced_market(), num_markets=2, device="cpu")
    returned: list[Any] = [env.reset().shape]
    env.seed(5)
    returned += [env.reset().copy()]
    for step in range(8):
        seen, reward, done, _ = env.step(np.full(env.num_envs, step % 3))
        returned += [seen.copy(), reward.copy(), done.copy(), env.action_masks().copy()]
    return digest(returned)


def steps_of_an_arm() -> str:
    """The table of a played arm."""
    arm = Arm("patient", ("patient", "paper", "random"))
    return digest(play_arm(priced_market(), arm, [0, 1], "cpu").steps["reward"].to_numpy())


def policies() -> list[str]:
    """All policies with their defaults."""
    return [name for name, entry in POLICIES.items() if name != "learned" and "path" not in parameters(entry)]


EPISODES: dict[str, Callable[[], str]] = {
    **{name: (lambda name=name: market(name)) for name in MARKETS},
    "modules": of_modules,
    "rows": rows,
    "arm": steps_of_an_arm,
    **{policy: (lambda policy=policy: beside_rules(policy)) for policy in policies()},
    **{
        f"patient+{rule}": (lambda rule=rule: beside_rules(f"patient+{rule}"))
        for rule in ("bayesian", "omniscient", "bounds")
    },
}


@cache
def ordinary(episode: str) -> str:
    return EPISODES[episode]()


@pytest.mark.parametrize("episode", EPISODES)
@pytest.mark.parametrize("name", SETTINGS)
def test_an_episode_is_the_same_under_any_global_setting(name: str, episode: str) -> None:
    expected = ordinary(episode)
    load_dataset.cache_clear()
    with SETTINGS[name]():
        before = settings()
        assert EPISODES[episode]() == expected
        assert settings() == before
    load_dataset.cache_clear()


@pytest.mark.parametrize("policy", ["random", "patient+bayesian"])
def test_a_market_that_was_reset_in_inference_mode_goes_on_outside_it(policy: str) -> None:
    def steps() -> list[Any]:
        return [env.step(1)[0] for _ in range(3)]

    env = paramarket_v0.gym_env(priced_market(), opponents=policy, device="cpu")
    env.reset(seed=1)
    expected = steps()
    with torch.inference_mode():
        env = paramarket_v0.gym_env(priced_market(), opponents=policy, device="cpu")
        env.reset(seed=1)
    np.testing.assert_array_equal(steps(), expected)


DTYPED = {f"torch.{name}" for name in ("zeros", "ones", "empty", "eye", "linspace", "rand", "randn")}
FACTORIES = DTYPED | {f"torch.{name}" for name in ("full", "arange", "tensor", "as_tensor", "randint", "randperm")}


@pytest.mark.parametrize("package", ["paramarket_env", "baselines/paramarket_baselines"])
def test_no_tensor_has_the_default_device_or_dtype(package: str) -> None:
    nodes = [
        (path.name, node)
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FACTORIES
    ]
    given = [(name, node, {keyword.arg for keyword in node.keywords}) for name, node in nodes]
    assert [f"{name}:{node.lineno}" for name, node, words in given if "device" not in words] == []
    typed = [each for each in given if ast.unparse(each[1].func) in DTYPED]
    assert [f"{name}:{node.lineno}" for name, node, words in typed if "dtype" not in words] == []
