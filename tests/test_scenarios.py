"""Every scenario plays with every policy. Scenarios that read files play in small, with small files."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.decisions import RULES
from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.datasets import DATASETS
from paramarket_env.learning.networks.convolutional import ResNet20
from paramarket_env.scenarios import SCENARIOS, scenario
from tests.datafiles import write_all

READING = [name for name in SCENARIOS if any(hasattr(source, "data_dir") for source in scenario(name).datasets)]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files of every dataset."""
    folder = tmp_path_factory.mktemp("files")
    write_all(folder)
    return folder


def in_small(config: MarketConfig, folder: Path) -> MarketConfig:
    """The market with the files in a folder, few samples and narrow networks."""
    sources: list[Any] = list(config.datasets)
    datasets = [replace(each, data_dir=str(folder)) if hasattr(each, "data_dir") else each for each in sources]
    architecture = config.network.architecture
    return config.changed(
        dataset=tuple(datasets),
        train_samples=40,
        validation_samples=20,
        test_samples=20,
        batch_size=10,
        architecture=ResNet20(widen=1, depth=10) if isinstance(architecture, ResNet20) else architecture,
    )


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("policy", RULES)
def test_a_scenario_plays_with_a_policy(
    name: str, policy: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(scenario(name), max_cycles=2)
    if name in READING:
        config = in_small(config, request.getfixturevalue("files"))
    if name.startswith("cifar10"):
        cifar = pytest.importorskip("torchvision.datasets.cifar")
        monkeypatch.setattr(cifar, "check_integrity", lambda path, _md5=None: Path(path).is_file())
    steps = play(config, Arm(policy, (policy,)), [0], "cpu").steps
    assert steps.validation_loss.between(0, 10).all()
    cycles = 4 if config.action_mode == "round" else 3
    assert len(steps) == cycles * config.agents


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_names_a_dataset_and_says_what_it_is(name: str) -> None:
    assert all(DATASETS.text(source) in DATASETS for source in scenario(name).datasets)
    assert inspect.getdoc(SCENARIOS[name])


def test_unknown_scenarios_list_those_that_exist() -> None:
    with pytest.raises(
        ValueError, match="unknown scenario 'x': choose from cifar10, cifar10-resnet, costly-training, "
    ):
        scenario("x")
