"""Networks with batch normalisation: their running statistics are those of the owner's data, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference import coming_passes
from paramarket_baselines.evaluation.federated import average
from paramarket_env.config import MarketConfig
from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.alignment.weight_matching import weight_matching
from paramarket_env.learning.merging import interpolate
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.modules import ModuleNetwork, from_module
from paramarket_env.learning.networks.network import has_statistics, initial_parameters, permutation_sizes, split
from paramarket_env.learning.statistics import SAMPLES
from paramarket_env.learning.training import SGD
from paramarket_env.market.engine import Engine
from paramarket_env.seeding import stream
from tests.helpers import leaves, logits, new_engine, orders, random_orders, tiny_market

FEATURES, CLASSES = (1, 8, 8), 10


class Normed(nn.Module):
    """A small residual network with batch normalisation of channels, one without an affine map, and of units."""

    def __init__(self, features: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features[0], 4, 3, padding=1, stride=2)
        self.norm1 = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout())
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(16, 8)
        self.norm2 = nn.BatchNorm1d(8, affine=False)
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        maps = self.norm1(self.conv(images)).relu()
        maps = self.pool(maps + self.block(maps)).flatten(1)
        logits: Tensor = self.head(self.norm2(self.linear(maps)).relu())
        return logits


NORMED = from_module(Normed)


def normed_market(**changes: Any) -> MarketConfig:
    return tiny_market(**{"architecture": NORMED, "optimizer": SGD(lr=0.1), **changes})


def small() -> ModuleNetwork:
    return NORMED(FEATURES, CLASSES)


def drawn(network: ModuleNetwork, rows: int) -> Tensor:
    parameters = initial_parameters(network, stream(torch.arange(rows), "network"))
    # Scales and shifts that differ, so that their order matters.
    return parameters + 0.1 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1)).abs()


def images(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, *FEATURES, generator=torch.Generator().manual_seed(0)) + 1


def normalising(module: nn.Module) -> nn.Module:
    """The module with its batch normalisations alone in training: they take over the statistics of the next batch."""
    module.eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.train()
            layer.reset_running_stats()
            layer.momentum = None
    return module


def estimated(module: nn.Module, inputs: Tensor) -> nn.Module:
    """The module in ``eval`` mode, with the running statistics of these inputs."""
    with torch.no_grad():
        normalising(module)(inputs)
    return module.eval()


def owners_inputs(engine: Engine, agent: int) -> Tensor:
    """The inputs of the samples on which an agent's statistics are estimated."""
    partition = engine.state.partition
    held = partition.endowments[0, agent, : int(partition.sizes[0, agent])]
    return engine.dataset.inputs[held.repeat(-(-SAMPLES // len(held)))[:SAMPLES]]


def validation_loss(engine: Engine, module: nn.Module) -> float:
    samples = engine.state.partition.validation[0, 0]
    with torch.no_grad():
        return F.cross_entropy(module(engine.dataset.inputs[samples]), engine.dataset.labels[samples]).item()


@pytest.fixture(params=[True, False], ids=["loop", "vmap"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModuleNetwork, "_loops", lambda *_: request.param)


# --- one network ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_way")
def test_the_statistics_are_those_of_torchs_layers() -> None:
    network, inputs = small(), images(3, 7)
    parameters = drawn(network, 3)
    found = split(network, network.with_statistics(parameters, inputs))
    for row in range(3):
        expected = estimated(network.module(parameters[row]), inputs[row]).state_dict()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor[row], expected[name], rtol=1e-4, atol=1e-5, msg=name)
    assert found["norm1.running_var"].std() > 0


@pytest.mark.usefixtures("either_way")
def test_logits_use_the_running_statistics_and_gradients_those_of_the_minibatch() -> None:
    network, inputs = small(), images(3, 7)
    parameters = network.with_statistics(drawn(network, 3), 3 * images(3, 40))
    parts = network.gradients(parameters, inputs, lambda mine: mine.softmax(1) - 0.5)
    gradients = split(network, torch.cat(list(parts), dim=1))
    found = logits(network, parameters.unsqueeze(1), inputs)
    for row in range(3):
        module = network.module(parameters[row]).eval()
        torch.testing.assert_close(found[row, 0].T, module(inputs[row]), rtol=1e-4, atol=1e-5)
        out = normalising(module)(inputs[row])
        out.backward(out.detach().softmax(1) - 0.5)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[name][row], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert not any(gradients[spec.name].any() for spec in network.parameters if spec.statistic)


def test_what_is_computed_in_training_leaves_the_parameters_as_they_are() -> None:
    network = small()
    parameters = drawn(network, 2)
    before = parameters.clone()
    network.gradients(parameters, images(2, 4), lambda mine: mine.softmax(1))
    network.with_statistics(parameters, images(2, 4))
    assert torch.equal(parameters, before)


def test_the_statistics_come_first_and_there_is_no_stem() -> None:
    network = from_module(lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5)))(FEATURES, 5)
    assert network.stem_size == 0
    assert [spec.name for spec in network.parameters if spec.statistic] == ["2.running_mean", "2.running_var"]
    assert [spec.name for spec in network.parameters][2:] == ["1.weight", "1.bias", "2.weight", "2.bias"]
    assert initial_parameters(network, torch.arange(1))[0, :10].tolist() == [0] * 5 + [1] * 5


def test_the_module_has_the_running_statistics_of_one_batch() -> None:
    network = small()
    parameters = network.with_statistics(drawn(network, 1), images(1, 9))[0]
    module = network.module(parameters)
    assert torch.equal(module.get_buffer("norm2.running_var"), split(network, parameters)["norm2.running_var"])
    assert module.get_buffer("norm2.num_batches_tracked").item() == 1
    module(images(4))
    assert module.get_buffer("norm2.num_batches_tracked").item() == 2
    assert not torch.equal(module.get_buffer("norm2.running_var"), split(network, parameters)["norm2.running_var"])


def test_a_layer_that_is_not_called_keeps_its_initial_statistics() -> None:
    class Unused(Normed):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.linear(self.pool(self.norm1(self.conv(images))).flatten(1)))
            return logits

    network = from_module(Unused)(FEATURES, CLASSES)
    found = split(network, network.with_statistics(drawn(network, 1), images(1, 5)))
    assert found["norm2.running_mean"].tolist() == [[0] * 8]
    assert found["norm2.running_var"].tolist() == [[1] * 8]


def test_networks_without_statistics_are_returned_as_they_are() -> None:
    for architecture in (MLP(hidden=(4,)), from_module(lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))):
        network = architecture(FEATURES, 5)
        parameters = initial_parameters(network, torch.arange(2))
        assert not has_statistics(network)
        assert network.with_statistics(parameters, images(2, 3)) is parameters


# --- alignment --------------------------------------------------------------------------------------------------------


def test_a_permutation_moves_the_statistics_with_the_units() -> None:
    network = small()
    parameters = network.with_statistics(drawn(network, 3), images(3, 40))
    sizes = permutation_sizes(network)
    assert sorted(sizes.values()) == [4, 8]
    order = torch.cat([torch.randperm(size, generator=torch.Generator().manual_seed(size)) for size in sizes.values()])
    permuted = permute(network, parameters, order.expand(3, -1))
    before, after = (logits(network, each.unsqueeze(1), images(3, 5)) for each in (parameters, permuted))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(permuted, parameters)


def test_given_permutations_name_the_statistics_too() -> None:
    def build(features: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, classes))

    affine = {
        "1.weight": ("a", None),
        "4.weight": (None, "a"),
        **dict.fromkeys(("1.bias", "2.weight", "2.bias"), ("a",)),
    }
    statistics = dict.fromkeys(("2.running_mean", "2.running_var"), ("a",))
    assert permutation_sizes(from_module(build, {**affine, **statistics})(FEATURES, CLASSES)) == {"a": 6}
    with pytest.raises(ValueError, match="change of the network's outputs by a permutation of its hidden units"):
        from_module(build, affine)(FEATURES, CLASSES)


def test_statistics_take_no_part_in_alignment() -> None:
    engine = new_engine(normed_market())
    broker = engine.broker
    trained = [not spec.statistic for spec in engine.network.parameters for _ in range(spec.size)]
    assert broker.common.tolist() == trained
    networks = torch.where(broker.common, engine.state.parameters[0], 0.0).split(1)
    order = weight_matching(engine.network, *networks, broker.no_quotes(1).permutations[0, 0])
    assert torch.equal(engine.state.quotes.permutations[0, 0], order)


# --- a market ---------------------------------------------------------------------------------------------------------


def require_own_statistics(engine: Engine) -> None:
    """Fail unless the running statistics of all agents of the first market are those of their owners' data."""
    for agent, vector in enumerate(engine.state.parameters[0]):
        expected = estimated(engine.network.module(vector), owners_inputs(engine, agent)).state_dict()
        for name, tensor in split(engine.network, vector).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=f"{agent}: {name}")


def test_a_market_trains_aligns_and_trades_with_the_statistics_of_the_owners_data() -> None:
    engine = new_engine(normed_market(parameter_sets="prefixes", max_cycles=8))
    first = engine.state.loss.clone()
    require_own_statistics(engine)
    for cycle in range(3):
        engine.step(orders(engine, train=(0, 1)))
        require_own_statistics(engine)
        quoted = engine.state.quotes.loss[0, 0, 0].clone()
        offer = int(quoted.argmin())
        engine.step(orders(engine, buy={0: offer}))
        assert engine.state.bought[0].tolist() == [cycle + 1, 0]
        require_own_statistics(engine)
        assert engine.state.loss[0, 0].item() == pytest.approx(quoted[offer].item(), abs=1e-5)
    assert (engine.state.loss < first - 0.2).all()
    module = engine.network.module(engine.state.parameters[0, 1]).eval()
    assert engine.state.loss[0, 1].item() == pytest.approx(validation_loss(engine, module), abs=1e-5)


def test_networks_from_outside_get_the_statistics_of_their_new_owners_data() -> None:
    engine = new_engine(normed_market())
    engine.overwrite(engine.state.parameters.roll(1, dims=1))
    require_own_statistics(engine)
    average(engine)
    require_own_statistics(engine)


@pytest.mark.parametrize("parameter_sets", ["full", "layers"])
def test_a_merge_is_tried_with_statistics_of_the_buyers_data(parameter_sets: str) -> None:
    engine = new_engine(normed_market(parameter_sets=parameter_sets, endowment="complementary(scarcity=0)"))
    engine.step(orders(engine, train=(0, 1)))
    state, broker = engine.state, engine.broker
    assert ("norm1" in broker.goods.names) == (parameter_sets == "layers")
    assert "norm2" not in broker.goods.names  # it has nothing that is trained
    assert not broker.goods.masks[:, ~broker.common].any()
    for buyer, seller in ((0, 1), (1, 0)):
        aligned = permute(engine.network, state.parameters[0, seller][None], state.quotes.permutations[0, buyer])[0]
        for good, mask in enumerate(broker.goods.masks):
            merged = [
                interpolate(state.parameters[0, buyer], aligned, weight * mask) for weight in broker.merge_weights
            ]
            modules = [estimated(engine.network.module(each), owners_inputs(engine, buyer)) for each in merged]
            expected = [validation_loss(engine, module) for module in modules]
            assert state.quotes.loss[0, buyer, 0, good].item() == pytest.approx(min(expected), abs=1e-4)
            assert state.quotes.candidate[0, buyer, 0, good] == np.argmin(expected)


def test_a_short_minibatch_is_filled_up_from_the_beginning_of_the_pass() -> None:
    config = normed_market(batch_size=11, optimizer=SGD(lr=0.05))
    engine = new_engine(config)
    sizes = engine.state.partition.sizes[0]
    assert (sizes % 11 != 0).all()
    passes = coming_passes(engine, 0, range(2))
    modules = [normalising(engine.network.module(vector)) for vector in engine.state.parameters[0]]
    for module, order in zip(modules, passes.values(), strict=True):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for start in range(0, len(order), 11):
            batch = torch.cat([order, order])[start : start + 11]
            own = min(11, len(order) - start)
            optimizer.zero_grad()
            F.cross_entropy(module(engine.dataset.inputs[batch])[:own], engine.dataset.labels[batch[:own]]).backward()
            optimizer.step()
    engine.step(orders(engine, train=(0, 1)))
    for agent, module in enumerate(modules):
        expected = estimated(module, owners_inputs(engine, agent)).state_dict()
        for name, tensor in split(engine.network, engine.state.parameters[0]).items():
            torch.testing.assert_close(tensor[agent], expected[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("changes", [{"endowment": "dirichlet"}, {"local_steps": 3}], ids=str)
def test_a_market_alone_is_the_market_among_several(changes: dict[str, Any]) -> None:
    config = normed_market(agents=3, batch_size=7, **changes)
    together, alone = new_engine(config, (0, 1)), new_engine(config, (1,))
    rng = np.random.default_rng(0)
    for _ in range(3):
        chosen = random_orders(together, rng)
        together.step(chosen)
        alone.step(type(chosen)(*(column[1:2] for column in vars(chosen).values())))
    assert together.state.sold[1].sum() > 0
    for (name, one), (_, several) in zip(leaves(alone.state), leaves(together.state), strict=True):
        torch.testing.assert_close(one[0], several[1], rtol=1e-3, atol=1e-3, msg=name)


def test_looped_play_equals_batched_play(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = []
    for loops in (True, False):
        monkeypatch.setattr(ModuleNetwork, "_loops", lambda *_, loops=loops: loops)
        engine = new_engine(normed_market())
        engine.step(orders(engine, train=(0, 1)))
        engine.step(orders(engine, buy={0: 0}, train=(1,)))
        engines.append(engine)
    for name in ("loss", "parameters", "balance"):
        one, other = (getattr(engine.state, name) for engine in engines)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_agents_with_different_tasks_trade_a_normalised_trunk() -> None:
    config = normed_market(dataset=("digits", "digits-parity"), parameter_sets="trunk", endowment="iid")
    engine = new_engine(config)
    engine.step(orders(engine, train=(0, 1)))
    quoted = engine.state.quotes.loss[0, :, 0, 0].clone()
    engine.step(orders(engine, buy={0: 0, 1: 0}))
    assert engine.state.sold[0].tolist() == [1, 1]
    torch.testing.assert_close(engine.state.loss[0], quoted, rtol=0, atol=1e-5)


def test_a_network_with_batch_normalisation_is_chosen_by_name() -> None:
    engine = new_engine(normed_market(architecture="vgg16(width=0.05, norm='batch')"))
    assert has_statistics(engine.network)
    engine.step(orders(engine, train=(0, 1)))
    quoted = engine.state.quotes.loss[0, 0, 0, 0].item()
    engine.step(orders(engine, buy={0: 0}))
    assert engine.state.loss[0, 0].item() == pytest.approx(quoted, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_merged_network_is_better_with_statistics_estimated_anew(seed: int) -> None:
    engine = new_engine(normed_market(train_samples=600, endowment="iid"), (seed,))
    for _ in range(5):
        engine.step(orders(engine, train=(0, 1)))
    buyer, seller = engine.state.parameters[0]
    aligned = permute(engine.network, seller[None], engine.state.quotes.permutations[0, 0])[0]
    merged = torch.lerp(buyer, aligned, 0.5)
    plain = validation_loss(engine, engine.network.module(merged).eval())
    repaired = validation_loss(engine, estimated(engine.network.module(merged), owners_inputs(engine, 0)))
    assert repaired < plain - 0.1


# --- bad input --------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.head(self.norm(self.norm(self.linear(images.flatten(1))).relu()))
        return logits


def after_linear(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), layer)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: after_linear(nn.BatchNorm1d(5, track_running_stats=False)),
            r"layer '2'=BatchNorm1d\(.* must be an nn",
        ),
        (lambda: after_linear(nn.SyncBatchNorm(5)), r"layer '2'=SyncBatchNorm\(.* such as nn.GroupNorm"),
        (Twice, "number of calls of the network's layer 'norm'=2 is not allowed: it must be 1"),
        (
            lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 5)),
            r"buffers=\['0.running_mean', '0.running_var', '0.num_batches_tracked'\]",
        ),
    ],
)
def test_layers_without_statistics_of_their_own_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_module(lambda *_: build())(FEATURES, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, "training.batch_size=1 is not allowed: it must be at least 2, since the network has batch"),
        ({"disclosure": "bounds"}, "economy.disclosure='bounds' is not allowed: it must be another degree, since"),
    ],
)
def test_settings_that_need_networks_without_statistics_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(normed_market(**changes), 1, "cpu")
