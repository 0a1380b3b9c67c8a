"""Policies in the other seats: given by name, and found wherever ParaMarket is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_baselines.policies.decisions import Patient
from paramarket_baselines.policies.pricing import Fixed
from paramarket_env import paramarket_v0
from paramarket_env.validation import shown
from tests.helpers import priced_market, tiny_market

NAME, FACTORY = "patient:7+fixed:3", Patient(7, pricing=Fixed(3))


def rewards(make: Any, **settings: Any) -> list[Any]:
    """The rewards of six steps of training."""
    env = make(priced_market(max_cycles=6), device="cpu", **settings)
    if make is paramarket_v0.sb3_vec_env:
        env.seed(3)
        env.reset()
        return [env.step(np.ones(env.num_envs, int))[1] for _ in range(6)]
    env.reset(seed=3)
    action: Any = np.ones(env.num_envs, int) if make is paramarket_v0.vector_env else 1
    return [env.step(action)[1] for _ in range(6)]


@pytest.mark.parametrize("make", [paramarket_v0.gym_env, paramarket_v0.vector_env, paramarket_v0.sb3_vec_env])
def test_a_name_is_accepted_wherever_a_factory_is(make: Any) -> None:
    expected = rewards(make, opponents=FACTORY)
    np.testing.assert_array_equal(rewards(make, opponents=NAME), expected)
    other_seats = 1 if make is paramarket_v0.sb3_vec_env else 2
    np.testing.assert_array_equal(rewards(make, opponents=[NAME] * other_seats), expected)
    for unknown in ("patients:7", ["patients:7"] * other_seats):
        with pytest.raises(ValueError, match=r"unknown policy 'patients': choose from .*patient"):
            rewards(make, opponents=unknown)


USE = """
from paramarket_env import paramarket_v0
env = paramarket_v0.gym_env("digits-short", opponents="patient:7", device="cpu")
env.reset(seed=0)
print(env.step(1)[1])
import baselines
assert baselines.MINE
"""


def test_a_folder_of_the_user_does_not_hide_ours(tmp_path: Path) -> None:
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines/__init__.py").write_text("MINE = True\n")
    (tmp_path / "use.py").write_text(USE)
    command = [Path(sys.executable).with_name("paramarket"), "list"]
    for line in ([sys.executable, "use.py"], command):
        environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


BAD = [True, None, 1.0, "2", 0, -1, np.True_, 10**12, 2**63, 10**400, np.array([1, 2]), (1,)]


@pytest.mark.parametrize("bad", BAD, ids=shown)
def test_what_is_no_number_of_markets_is_refused_by_every_environment(bad: Any) -> None:
    makers: list[Any] = [
        lambda: paramarket_v0.vector_env(tiny_market(), opponents="random", num_envs=bad, device="cpu"),
        lambda: paramarket_v0.sb3_vec_env(tiny_market(), opponents="random", num_markets=bad, device="cpu"),
        lambda: paramarket_v0.sb3_vec_env(tiny_market(), num_markets=bad, device="cpu"),
        lambda: paramarket_v0.torchrl_env(tiny_market(), num_markets=bad, device="cpu"),
    ]
    for make in makers:
        with pytest.raises(ValueError, match=r"num_(markets|envs)=.* is not allowed: it must be "):
            make()


@pytest.mark.parametrize("bad", [True, None, 1.0, "1", -1, 2, np.array([0, 1]), 10**400], ids=shown)
def test_what_is_no_seat_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"seat=.* is not allowed: it must be an integer from 0 to 1"):
        paramarket_v0.gym_env(tiny_market(), opponents="random", seat=bad, device="cpu")


@pytest.mark.parametrize("bad", [None, 3, "gpu", "", torch.device("meta"), np.array(1), "mps"], ids=shown)
def test_what_is_no_device_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"device=.* is not allowed: it must be 'auto', 'cpu' or 'cuda'"):
        paramarket_v0.parallel_env(tiny_market(), device=bad)


def test_numpys_integers_are_integers() -> None:
    two: Any = np.int64(2)
    assert paramarket_v0.vector_env(tiny_market(), opponents="random", num_envs=two, device="cpu").num_envs == 2
    assert paramarket_v0.sb3_vec_env(tiny_market(), num_markets=two, device="cpu").num_envs == 4
    assert paramarket_v0.gym_env(tiny_market(), opponents="random", seat=np.int8(1), device="cpu").agent == "trader_1"
