"""A mixture of saved policies: each episode has one of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.leaderboard.fingerprints import fingerprint
from paramarket_baselines.policies.learned import Normaliser, read_manifest
from paramarket_baselines.policies.saving import save_mixture, save_network
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, seat_of
from paramarket_env.seeding import stream
from tests.helpers import priced_market

BATCH = MarketBatch(priced_market(max_cycles=4), 1, "cpu")
ROWS = torch.arange(4000)


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    """The folders of three policies, of which each always chooses the action with its number."""
    folders = []
    for number in range(3):
        network = nn.Linear(BATCH.layout.size, BATCH.actions.mask_size)
        nn.init.zeros_(network.weight)
        with torch.no_grad():
            network.bias.copy_(torch.arange(BATCH.actions.mask_size) == number)
        folders.append(tmp_path / str(number))
        save_network(folders[-1], network, Normaliser.identity(BATCH.layout.size), BATCH, {"number": number})
    return folders


def seated(folder: Path, name: str) -> Policy:
    player = POLICIES.parse(f"learned:{folder}")(seat_of(BATCH, len(ROWS)))
    player.reset(ROWS, stream(ROWS, name))
    return player


def actions(player: Policy) -> torch.Tensor:
    mask = torch.ones(len(ROWS), BATCH.actions.mask_size, dtype=torch.bool)
    return player.act(torch.zeros(len(ROWS), BATCH.layout.size), mask)


def test_each_episode_has_one_of_the_policies_with_their_chances(members: list[Path], tmp_path: Path) -> None:
    save_mixture(tmp_path / "mine", members, [0.25, 0, 0.75])
    assert read_manifest(tmp_path / "mine" / "policy.json").chances == (0.25, 0.75)
    player = seated(tmp_path / "mine", "a")
    first = actions(player)
    assert set(first.tolist()) == {0, 2}
    assert float((first == 2).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(actions(player), first)
    player.reset(ROWS[:2000], stream(ROWS[:2000], "b"))
    second = actions(player)
    assert torch.equal(second[2000:], first[2000:])
    assert not torch.equal(second[:2000], first[:2000])
    assert torch.equal(actions(seated(tmp_path / "mine", "a")), first)


def test_a_mixture_of_networks_scores_as_each_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        torch.manual_seed(number)
        network = nn.Sequential(nn.Linear(BATCH.layout.size, 8), nn.Tanh(), nn.Linear(8, BATCH.actions.mask_size))
        scale = Normaliser(rng.normal(size=BATCH.layout.size), rng.uniform(1, 2, BATCH.layout.size), 3.0)
        save_network(tmp_path / str(number), network, scale, BATCH)
    save_mixture(tmp_path / "mine", [tmp_path / "0", tmp_path / "1"], [0.5, 0.5])
    mixed, *alone = (seated(tmp_path / name, "a") for name in ("mine", "0", "1"))
    seen = torch.from_numpy(rng.normal(size=(len(ROWS), BATCH.layout.size))).float()
    mask = torch.from_numpy(rng.random((len(ROWS), BATCH.actions.mask_size)) < 0.8)
    mask[:, 0] = True
    each = torch.stack([player.act(seen, mask) for player in alone])
    drawn = mixed.drawn  # type: ignore[attr-defined]
    assert 0.4 < float(drawn.float().mean()) < 0.6
    assert torch.equal(mixed.act(seen, mask), each[drawn, ROWS])
    assert not torch.equal(each[0], each[1])


def test_a_mixture_of_one_policy_is_that_policy(members: list[Path], tmp_path: Path) -> None:
    save_mixture(tmp_path / "mine", members, [0, 1, 0])
    mine, one = (json.loads((folder / "policy.json").read_text()) for folder in (tmp_path / "mine", members[1]))
    assert mine == one | {"chances": [1]}
    assert actions(seated(tmp_path / "mine", "a")).tolist() == [1] * len(ROWS)


def test_another_mixture_has_another_fingerprint(members: list[Path], tmp_path: Path) -> None:
    found = set()
    for name, chances in (("a", [0.5, 0.5, 0]), ("b", [0.4, 0.6, 0]), ("c", [0, 0.5, 0.5])):
        save_mixture(tmp_path / name, members, chances)
        found.add(fingerprint(f"learned:{tmp_path / name}"))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chances": [0.5, 0.4]}, "chances=.* must be probabilities with the sum 1"),
        ({"chances": [1.5, -0.5]}, "chances"),
        ({"chances": []}, "chances=.* must be probabilities with the sum 1"),
        ({"chances": [0.5, 0.5], "lstm": 4}, "lstm=4 is not allowed: it must be None in a mixture"),
        ({"chances": [0.2, 0.2, 0.6]}, "is damaged: its tensors .* are not those of the policy"),
        ({"chances": [1.0]}, "is damaged: its tensors .* are not those of the policy"),
    ],
)
def test_a_damaged_mixture_is_refused(
    changes: dict[str, object], message: str, members: list[Path], tmp_path: Path
) -> None:
    save_mixture(tmp_path / "mine", members, [0.5, 0.5, 0])
    manifest = tmp_path / "mine" / "policy.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        seated(tmp_path / "mine", "a")


def test_policies_of_other_networks_are_not_mixed(members: list[Path], tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(BATCH.layout.size, 8), nn.Tanh(), nn.Linear(8, BATCH.actions.mask_size))
    save_network(tmp_path / "other", network, Normaliser.identity(BATCH.layout.size), BATCH)
    with pytest.raises(ValueError, match=r"members=.* must be of one kind of network"):
        save_mixture(tmp_path / "mine", [members[0], tmp_path / "other"], [0.5, 0.5])
    assert not (tmp_path / "mine").exists()
