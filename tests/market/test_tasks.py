"""Agents with different tasks, compared with a loop over agents that have their own modules, heads and datasets."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reference import Samples, align, coming_passes, evaluate, reorder
from benchmarks.reference import train as train_plain
from paramarket_baselines.evaluation.federated import average
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.learning.data.datasets import load_dataset
from paramarket_env.learning.data.endowments import splits
from paramarket_env.learning.kernels.selection import VARIABLE
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.modules import from_module
from paramarket_env.learning.networks.network import Network, split
from paramarket_env.learning.training import SGD, shuffled
from paramarket_env.market.engine import Engine
from paramarket_env.market.saved import load, save
from paramarket_env.seeding import stream
from tests.helpers import frozen, new_engine, orders, spoil, tiny_market

TASKS: dict[str, Any] = {
    "agents": 3,
    "dataset": ("digits", "digits-parity", "digits"),
    "train_samples": (80, 120),
    "endowment": "iid",
    "parameter_sets": "trunk",
    "architecture": MLP(hidden=(8, 6)),
    "batch_size": 16,
}


def tasks_market(**changes: Any) -> MarketConfig:
    return tiny_market(**TASKS | changes)


class PlainAgent:
    """An agent with a dataset and a module of its own, whose head has only the classes of its task."""

    def __init__(self, engine: Engine, agent: int) -> None:
        dataset = load_dataset(engine.config.datasets[agent])
        task = int(engine.tasks.of_agent[agent])
        self.start = sum(len(part.labels) for part in engine.tasks.parts[:task])
        self.samples = Samples(dataset.inputs, dataset.labels)
        chosen = engine.state.partition.validation[0, task] - self.start
        self.validation = Samples(dataset.inputs[chosen], dataset.labels[chosen])
        self.module = own_module(engine, agent)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.2)

    def train(self, samples: Tensor) -> None:
        train_plain(self.module, self.optimizer, self.samples, samples - self.start, 16, None)

    def quote(
        self, seller: PlainAgent, start: Tensor, weights: tuple[float, ...], goods: list[set[str]]
    ) -> list[list[float]]:
        """The loss of every candidate for every parameter set. The search for the match begins at ``start`` ``[H]``."""
        match = align(headless(self.module), headless(seller.module), list(start.split([8, 6])))
        theirs = reorder(seller.module, match)
        return [
            [evaluate(self.merged(theirs, weight, good), self.validation)[0] for weight in weights] for good in goods
        ]

    def merged(self, aligned: nn.Sequential, weight: float, good: set[str]) -> nn.Sequential:
        result = copy.deepcopy(self.module)
        names = {name for name in result.state_dict() if name.split(".")[0] in good}
        ours, theirs = (dict(module.state_dict()) for module in (self.module, aligned))
        for name in names:
            result.get_parameter(name).data = (1 - weight) * ours[name] + weight * theirs[name]
        return result


def own_module(engine: Engine, agent: int) -> nn.Sequential:
    """An agent's network as a module whose head has no unused logits."""
    module = engine.network.module(engine.state.parameters[0, agent])
    assert isinstance(module, nn.Sequential)
    head, classes = module[-1], int(engine.tasks.classes[agent])
    assert isinstance(head, nn.Linear)
    cut = nn.Linear(head.in_features, classes)
    cut.weight, cut.bias = (nn.Parameter(tensor.detach()[:classes].clone()) for tensor in (head.weight, head.bias))
    module[-1] = cut
    return module


def headless(module: nn.Sequential) -> nn.Sequential:
    """The module with a head of zeros, in which an alignment sees nothing."""
    result = copy.deepcopy(module)
    result[-1] = nn.Linear(module[-1].in_features, 1)
    nn.init.zeros_(result[-1].weight)
    nn.init.zeros_(result[-1].bias)
    return result


GOODS: dict[str, list[set[str]]] = {
    "trunk": [{"1", "3"}],
    "layers": [{"1"}, {"3"}],
    "prefixes": [{"1"}, {"1", "3"}],
}
"""The modules of the linear layers in each parameter set, by rule."""


@pytest.mark.parametrize("rule", GOODS)
def test_a_market_equals_a_loop_over_agents_with_their_own_modules_heads_and_datasets(rule: str) -> None:
    engine = new_engine(tasks_market(parameter_sets=rule))
    agents = [PlainAgent(engine, agent) for agent in range(3)]
    weights = engine.config.broker.merger.weights
    for step in range(3):
        trained = [agent for agent in range(3) if (agent + step) % 3]
        passes = coming_passes(engine, 0, trained)
        engine.step(orders(engine, train=trained))
        for agent in trained:
            agents[agent].train(passes[agent])
        losses = [evaluate(agent.module, agent.validation)[0] for agent in agents]
        assert engine.state.loss[0].tolist() == pytest.approx(losses, rel=1e-4)
        for buyer in range(3):
            for slot, seller in enumerate(other for other in range(3) if other != buyer):
                # A match from the one that the broker holds finds nothing better.
                start = engine.state.quotes.permutations[0, buyer, slot].long()
                tried = agents[buyer].quote(agents[seller], start, weights, GOODS[rule])
                found = engine.state.quotes.loss[0, buyer, slot].tolist()
                assert found == pytest.approx([min(losses) for losses in tried], rel=1e-4)


def test_a_purchase_gives_the_trunk_and_leaves_the_head_at_home() -> None:
    engine = new_engine(tasks_market())
    before = split(engine.network, engine.state.parameters[0].clone())
    quoted = float(engine.state.quotes.loss[0, 0, 0, 0])
    engine.step(orders(engine, buy={0: 0}))
    after = split(engine.network, engine.state.parameters[0])
    assert float(engine.state.loss[0, 0]) == pytest.approx(quoted, rel=1e-6)
    for name in before:
        assert torch.equal(before[name][0], after[name][0]) == name.startswith("layer3")


def test_the_match_does_not_depend_on_the_heads() -> None:
    engine = new_engine(tasks_market())
    engine.step(orders(engine, train=(0, 1, 2)))
    found = engine.state.quotes.permutations.clone()
    split(engine.network, engine.state.parameters)["layer3.weight"].uniform_(-9, 9)
    engine.state.quotes.permutations[:] = torch.arange(8 + 6) - torch.tensor([0] * 8 + [8] * 6)
    engine.broker.evaluate_and_quote(engine.state, torch.ones(1, 3, dtype=torch.bool), engine.market_open)
    assert torch.equal(engine.state.quotes.permutations, found)


@pytest.mark.parametrize("optimizer", ["sgd(lr=0.2)", "sgd(lr=0.2, momentum=0.9)", "adam(lr=0.01)"])
def test_the_logits_that_a_task_lacks_are_never_used_and_never_trained(optimizer: str) -> None:
    engine = new_engine(tasks_market(optimizer=optimizer))
    before = split(engine.network, engine.state.parameters[0].clone())
    for _ in range(3):
        engine.step(orders(engine, train=(0, 1, 2)))
    after = split(engine.network, engine.state.parameters[0])
    for name in ("layer3.weight", "layer3.bias"):
        assert torch.equal(before[name][1, 2:], after[name][1, 2:])
        assert not torch.equal(before[name][1, :2], after[name][1, :2])
    probabilities = engine.network.module(engine.state.parameters[0, 1])(engine.dataset.inputs[:50]).softmax(1)
    assert (probabilities[:, 2:] == 0).all()


def test_where_all_tasks_have_the_same_classes_every_logit_is_used() -> None:
    engine = new_engine(tasks_market(dataset=("digits", "digits-rotated", "digits-inverted"), train_samples=80))
    assert (engine.state.parameters.abs() < 1).all()
    engine.step(orders(engine, train=(0, 1, 2)))
    assert (engine.state.loss < engine.tasks.chance + 0.2).all()


def test_test_metrics_are_of_the_own_task() -> None:
    engine = new_engine(tasks_market())
    for agent, (loss, accuracy) in enumerate(zip(*(each[0].tolist() for each in engine.test_metrics()), strict=True)):
        plain, task = PlainAgent(engine, agent), int(engine.tasks.of_agent[agent])
        chosen = engine.state.partition.test[0, task] - plain.start
        samples = Samples(plain.samples.inputs[chosen], plain.samples.labels[chosen])
        expected = evaluate(plain.module, samples)
        assert (loss, accuracy) == (pytest.approx(expected[0], rel=1e-5), pytest.approx(expected[1]))


def test_no_network_is_evaluated_on_the_task_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "torch")
    engine = new_engine(tasks_market(opens_at=9), (0, 1))
    evaluated, body = [], engine.network.body

    def spying(parameters: Tensor, stem: Tensor) -> Tensor:
        evaluated.append(parameters.shape[:2].numel())
        return body(parameters, stem)

    monkeypatch.setattr(engine.network, "body", spying)
    engine.step(orders(engine, train=(0, 1, 2)))
    assert sum(evaluated) == 2 * 3
    engine.test_metrics()
    assert sum(evaluated) == 2 * 2 * 3


def test_a_failed_network_gets_the_chance_level_of_its_own_task() -> None:
    engine = new_engine(tasks_market(optimizer="sgd(lr=0.001)"))
    spoil(engine, 0, slice(0, 2))
    engine.state.loss[:] = 0.1
    engine.step(orders(engine, train=(0, 1, 2)))
    assert engine.state.alive.tolist() == [[False, False, True]]
    assert engine.state.loss[0, :2].tolist() == [math.log(10), math.log(2)]


def test_federated_averaging_averages_the_trunks_alone() -> None:
    engine = new_engine(tasks_market())
    before = split(engine.network, engine.state.parameters[0].clone())
    average(engine)
    after = split(engine.network, engine.state.parameters[0])
    for name, tensor in before.items():
        expected = tensor if name.startswith("layer3") else tensor.mean(0, keepdim=True).expand_as(tensor)
        torch.testing.assert_close(after[name], expected)


def test_a_market_alone_equals_the_same_market_as_one_of_several() -> None:
    alone, several = new_engine(tasks_market(), (7,)), new_engine(tasks_market(), (3, 7, 5))
    for engine in (alone, several):
        engine.step(orders(engine, train=(0, 1), buy={2: 1}))
    torch.testing.assert_close(alone.state.loss[0], several.state.loss[1])
    torch.testing.assert_close(alone.state.quotes.loss[0], several.state.quotes.loss[1])
    torch.testing.assert_close(alone.state.parameters[0], several.state.parameters[1])


@pytest.mark.parametrize("disclosure", ["bounds", "full"])
def test_a_sellers_information_about_its_buyers_is_of_the_buyers_task(disclosure: str) -> None:
    batch = MarketBatch(tasks_market(disclosure=disclosure), 2, "cpu")
    batch.reset(torch.arange(2))
    batch.engine.step(orders(batch.engine, train=(0, 1, 2)))
    view = batch.engine.view
    if disclosure == "full":
        assert view.broker.to_sellers(view.state, view.values)[0, 0, 0] == view.values[0, 1, 0]
    else:
        low, high = view.buyer_bounds.unbind(-1)
        gains = view.broker.to_sellers(view.state, view.gains)
        assert ((low <= gains + 1e-4) & (gains <= high + 1e-4)).all()


def test_a_dataset_for_each_agent_that_is_the_same_one_is_one_task(tmp_path: Path) -> None:
    together, each = (new_engine(tiny_market(dataset=data)) for data in ("digits", ("digits", "digits")))
    for engine in (together, each):
        engine.step(orders(engine, train=(0,), buy={1: 0}))
    assert frozen(together.state) == frozen(each.state)


def test_the_configuration_and_saved_markets_come_back(tmp_path: Path) -> None:
    config = tasks_market()
    assert MarketConfig.from_json(config.to_json()) == config
    assert config.to_dict()["data"]["dataset"] == ["digits", "digits-parity", "digits"]
    engine, other = new_engine(config), new_engine(config, (1,))
    engine.step(orders(engine, train=(0, 1, 2)))
    save(engine, tmp_path / "markets")
    load(other, tmp_path / "markets")
    for each in (engine, other):
        each.step(orders(each, train=(1,), buy={0: 0}))
    assert frozen(engine.state) == frozen(other.state)


@pytest.mark.parametrize("changes", [{}, TASKS])
def test_a_common_start_gives_all_agents_the_first_ones_parameters(changes: dict[str, Any]) -> None:
    own, common = (new_engine(tiny_market(**changes, common_start=each), (0, 1)) for each in (False, True))
    # The last tensor has the biases of the logits, which a task can lack.
    starts = [engine.state.parameters[..., :-10] for engine in (own, common)]
    assert torch.equal(starts[1], starts[0][:, :1].expand_as(starts[0]))
    assert not torch.equal(starts[0][:, 0], starts[0][:, 1])
    assert not torch.equal(starts[1][0], starts[1][1])
    common.step(orders(common, train=(0, 1)))
    assert not torch.equal(common.state.parameters[:, 0], common.state.parameters[:, 1])


@pytest.mark.parametrize("changes", [{}, TASKS])
def test_a_pretrained_start_was_trained_on_a_share_of_the_first_task(changes: dict[str, Any]) -> None:
    pretrained = {"common_start": True, "pretraining_passes": 3, "pretraining_share": 0.25, "local_steps": 1}
    config = tiny_market(**changes, **pretrained, optimizer=SGD(lr=0.2))
    engine, plain = new_engine(config, (0, 1)), new_engine(config.changed(pretraining_passes=0), (0, 1))
    seed, sizes = torch.tensor([1]), config.data.split_sizes(engine.tasks.number)
    samples = engine.tasks.share_of_first(sizes, seed, 0.25)
    everybodys, _, _ = splits(engine.tasks.parts[0], sizes[0], seed)
    assert samples.shape[1] == round(everybodys.shape[1] / 4)
    module = plain.network.module(plain.state.parameters[1, 0])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    data = Samples(engine.dataset.inputs, engine.dataset.labels)
    for number in range(3):
        order = shuffled(samples, samples.shape[1], stream(seed, "pretraining", number))
        train_plain(module, optimizer, data, order[0], config.training.largest_batch, None)
    found, start = engine.state.parameters[1], plain.state.parameters[1]
    torch.testing.assert_close(found[0], nn.utils.parameters_to_vector(module.parameters()).detach(), rtol=0, atol=1e-5)
    trunk, same_task = engine.broker.common, engine.tasks.of_agent == 0
    assert all(torch.equal(each[trunk], found[0][trunk]) for each in found)
    assert all(torch.equal(each, found[0]) for each in found[same_task])
    assert torch.equal(found[~same_task][:, ~trunk], start[~same_task][:, ~trunk])
    assert not any(tensor.any() for tensor in engine.state.optimizer.values())
    assert engine.state.passes.eq(0).all()


# --- the observation -------------------------------------------------------------------------------------------------


def test_an_agent_sees_the_chance_level_of_its_task_where_tasks_differ() -> None:
    batch = MarketBatch(tasks_market(), 1, "cpu")
    batch.reset(torch.arange(1))
    seen = batch.layout.unpack(batch.observe_and_mask()[0])
    torch.testing.assert_close(seen["chance"][0, :, 0], torch.tensor([10.0, 2.0, 10.0]).log())
    assert "chance" not in MarketBatch(tiny_market(), 1, "cpu").layout.slices


# --- what is refused -------------------------------------------------------------------------------------------------


def headed(network: Network) -> dict[str, list[str]]:
    return {"upper half": ["layer2", "layer3"]}


@pytest.mark.parametrize("rule", ["full", headed])
def test_the_head_is_not_for_sale(rule: Any) -> None:
    with pytest.raises(ValueError, match=r"broker.parameter_sets=.* a rule with sets without the head, 'layer3', .* t"):
        Engine(tasks_market(parameter_sets=rule), 1, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": ("digits", "digits-parity")}, r"data\.dataset=.* one value, or one for each of the 3 agents"),
        ({"optimizer": ("sgd", "adam")}, r"training\.optimizer=.* one value, or one for each of the 3 agents"),
        ({"batch_size": (8, 8)}, r"training\.batch_size=\(8, 8\) .* one value, or one for each of the 3 agents"),
        ({"batch_size": (8, 41, 8)}, "80 are too few for 41 to each of agents=2"),
        ({"pretraining_passes": 1}, r"network\.pretraining_passes=1 is not allowed: it must be 0 unless common_start"),
        ({"passes": (1, 0, 1)}, r"training\.passes=0 is not allowed"),
        ({"local_steps": (1, 2)}, r"training\.local_steps=\(1, 2\) .* one value, or one for each of the 3 agents"),
        ({"dataset": ()}, r"data\.dataset=\(\) is not allowed"),
        ({"dataset": ("digits", "typo", "digits")}, "unknown dataset 'typo': choose from "),
        ({"train_samples": (80, 120, 80)}, r"data\.train_samples=.* one for each task, of which there are 2"),
        ({"train_samples": (80, 0)}, r"data\.train_samples=0 is not allowed"),
        ({"train_samples": (80, 5000)}, r"data\.train_samples=5000 is not allowed: it must be at most the "),
        (
            {"dataset": ("digits", "digits-enlarged:28", "digits")},
            r"shape of a sample of digits-enlarged=\(1, 28, 28\)",
        ),
        ({"batch_size": 41}, "80 are too few for 41 to each of agents=2"),
    ],
)
def test_impossible_tasks_are_refused_with_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(tasks_market(**changes), 1, "cpu")


def without_bias(features: tuple[int, ...], classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes, bias=False))


def test_unused_logits_need_biases() -> None:
    architecture = from_module(without_bias)
    with pytest.raises(
        ValueError, match=r"network's last tensor='3.weight \(10, 8\)' is not allowed: it must be the 10"
    ):
        Engine(tasks_market(architecture=architecture), 1, "cpu")
    same = tasks_market(architecture=architecture, dataset=("digits", "digits-rotated", "digits"))
    assert Engine(same, 1, "cpu").offers == 2
