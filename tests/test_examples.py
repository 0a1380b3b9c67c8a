"""Every example runs as its first lines say, and its table shows what its page says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.networks.network import initial_parameters, permutation_sizes
from tests.helpers import logits

EXAMPLES = Path(__file__).parent.parent / "examples"


def means(example: str, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """The mean returns in the table that an example prints, policy by policy."""
    runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert "–" not in table  # a policy that could not be played
    return [float(mean) for mean in re.findall(r"^ ?\S+ +(-?\d\.\d\d) \[", table, re.MULTILINE)]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples keep their files in a folder of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_own_agent_is_kept_and_better_than_the_papers_rule(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, mine, paper, _ = means("own_agent", capsys)
    assert mine > paper
    assert {file.suffix for file in (tmp_path / "runs/mine").iterdir()} == {".json", ".safetensors"}


def test_own_policy_is_better_than_training_alone(capsys: pytest.CaptureFixture[str]) -> None:
    train, mine, _, _ = means("own_policy", capsys)
    assert mine > train


def test_own_pricing_is_compared_with_two_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(set(means("own_pricing", capsys))) == 3


@pytest.mark.slow
def test_trade_pays_on_own_data(capsys: pytest.CaptureFixture[str]) -> None:
    train, patient = means("own_data", capsys)
    assert patient > train + 0.5


@pytest.mark.slow
def test_trade_pays_between_own_networks(capsys: pytest.CaptureFixture[str]) -> None:
    train, patient = means("own_network", capsys)
    assert patient > train + 0.1


@pytest.mark.slow
def test_it_pays_to_wait_in_own_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    train, paper, patient = means("own_scenario", capsys)
    assert patient > max(train, paper) + 0.4


@pytest.mark.slow
def test_a_bid_of_the_value_earns_less_by_own_mechanism(capsys: pytest.CaptureFixture[str]) -> None:
    alone, bidder, still_alone, bidder_that_pays_its_bid = means("own_mechanism", capsys)
    assert alone == still_alone
    assert bidder_that_pays_its_bid < bidder - 0.05


def test_own_training_learns(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "own_training.py"), run_name="__main__")
    returns = [float(mean) for mean in re.findall(r"mean return (-?\d\.\d\d)", capsys.readouterr().out)]
    assert sum(returns[-5:]) / 5 > returns[0] + 0.3


def test_the_permutations_of_own_network_change_nothing_that_it_computes() -> None:
    example = runpy.run_path(str(EXAMPLES / "own_network.py"))
    network = example["network"]((6,), 3)
    parameters = initial_parameters(network, torch.arange(2))
    order = torch.cat(
        [torch.randperm(size, generator=torch.Generator()) for size in permutation_sizes(network).values()]
    )
    permuted, inputs = (
        permute(network, parameters, order.repeat(2, 1)),
        torch.rand(1, 7, 6, generator=torch.Generator()),
    )
    assert not torch.equal(permuted, parameters)
    torch.testing.assert_close(logits(network, permuted[None], inputs), logits(network, parameters[None], inputs))


def test_every_example_is_tested_and_on_the_page() -> None:
    tests, page = Path(__file__).read_text(), (EXAMPLES.parent / "docs/examples.md").read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f'"{file.stem}"' in tests or f'"{file.name}"' in tests, file
        assert f"(../examples/{file.name})" in page, file
