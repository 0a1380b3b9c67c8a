"""Training many networks at once, held against one module at a time with torch's own optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks import reference
from paramarket_env.config import BrokerConfig, DataConfig, MarketConfig, NetworkConfig, TrainingConfig
from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP, MLPNetwork
from paramarket_env.learning.networks.network import initial_parameters, split
from paramarket_env.learning.training import SGD, Adam, OptimizerState, Training, fresh_state, shuffled, train
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import Orders, no_orders
from paramarket_env.seeding import as_seeds, stream

SIZES = torch.tensor([23, 17, 10])
NETWORK = MLPNetwork((5,), 3, (6, 4))
PLAIN = Training(SGD(lr=0.3), batch_size=5, passes=1, local_steps=None)
MOMENTUM = replace(PLAIN, optimizer=SGD(lr=0.3, momentum=0.9))
ADAM = replace(PLAIN, optimizer=Adam(lr=0.03))
CONFIGS = pytest.mark.parametrize("config", [PLAIN, MOMENTUM, ADAM], ids=["sgd", "momentum", "adam"])


def make_dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 5, generator=generator)
    return Dataset(inputs, torch.randint(3, (60,), generator=generator), classes=3, official_test=0)


def endowments() -> Tensor:
    """Three networks' samples, which overlap, largest first, then -1."""
    rows = torch.full((3, 23), -1)
    for row, size in enumerate(SIZES.tolist()):
        rows[row, :size] = (3 * torch.arange(size) + row) % 60
    return rows


def initial(rows: int = 3) -> Tensor:
    return initial_parameters(NETWORK, stream(torch.tensor(1), "network", torch.arange(rows)))


def flat(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


def run(config: Training, parameters: Tensor, order: Tensor, passes: int = 1) -> OptimizerState:
    """Train in place; the optimizer's state at the end."""
    optimizer = config.optimizer
    state = optimizer.fresh(parameters)
    for _ in range(passes):
        sizes = (order >= 0).sum(1).numpy()
        train(NETWORK, config, make_dataset(), parameters, state, order, sizes, torch.arange(len(sizes)))
    return state


@CONFIGS
@pytest.mark.parametrize("local_steps", [None, 1, 3, 100])
def test_training_equals_torch_one_network_at_a_time(config: Training, local_steps: int | None) -> None:
    config = replace(config, local_steps=local_steps)
    order, dataset, parameters = shuffled(endowments(), 23, torch.arange(3)), make_dataset(), initial()
    run(config, parameters, order, passes=3)
    for row, size in enumerate(SIZES.tolist()):
        module = NETWORK.module(initial()[row])
        optimizer = reference.make_optimizer_of(config.optimizer)(module)
        samples = reference.Samples(dataset.inputs, dataset.labels)
        for _ in range(3):
            reference.train(module, optimizer, samples, order[row, :size], config.batch_size, local_steps)
        torch.testing.assert_close(parameters[row], flat(module), rtol=0, atol=1e-5)
        assert (flat(module) - initial()[row]).abs().max() > 0.02


@CONFIGS
def test_a_network_is_trained_the_same_alone_and_in_a_batch(config: Training) -> None:
    together = initial()
    state = run(config, together, endowments(), passes=2)
    for row in range(3):
        alone = initial()[row : row + 1]
        own = run(config, alone, endowments()[row : row + 1, : SIZES[row]], passes=2)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-6)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor[row], own[name][0], rtol=0, atol=1e-6)


def test_each_network_counts_its_own_minibatches() -> None:
    assert run(ADAM, initial(), endowments())["steps"].tolist() == [5, 4, 2]


@CONFIGS
def test_a_step_of_some_rows_leaves_the_state_of_the_others(config: Training) -> None:
    optimizer, parameters = config.optimizer, initial()
    state = {name: tensor + 1 for name, tensor in optimizer.fresh(parameters).items()}
    before = parameters.clone()
    gradients = [torch.full((2, size), 2.0) for size in (30, parameters.shape[1] - 30)]
    optimizer.step(parameters[:2], gradients, {name: part[:2] for name, part in state.items()})
    assert torch.equal(parameters[2], before[2])
    assert (parameters[:2] != before[:2]).all()
    for tensor in state.values():
        assert (tensor[2] == 1).all()
        assert (tensor[:2] != 1).any()


@CONFIGS
def test_a_zeroed_state_is_a_fresh_optimizer(config: Training) -> None:
    optimizer, gradient, parameters = config.optimizer, [torch.ones_like(initial())], initial()
    state = optimizer.fresh(parameters)
    assert all((tensor == 0).all() and len(tensor) == 3 for tensor in state.values())
    for _ in range(4):
        optimizer.step(parameters, gradient, state)
    for tensor in state.values():
        tensor[1] = 0
    before, fresh = parameters.clone(), parameters.clone()
    optimizer.step(parameters, gradient, state)
    optimizer.step(fresh, gradient, optimizer.fresh(fresh))
    assert torch.equal(parameters[1], fresh[1])
    assert (config == PLAIN) or ((parameters - before)[0] != (fresh - before)[0]).any()


def test_the_last_short_minibatch_weighs_its_samples_by_their_number() -> None:
    config = replace(PLAIN, optimizer=SGD(lr=1.0), batch_size=4)
    parameters = initial(2)
    order = torch.tensor([[0, 1, 2, 3], [7, -1, -1, -1]])
    run(config, parameters, order)
    module, dataset = NETWORK.module(initial(2)[1]), make_dataset()
    loss = nn.functional.cross_entropy(module(dataset.inputs[[7]]), dataset.labels[[7]])
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])
    torch.testing.assert_close(parameters[1], initial(2)[1] - gradient, rtol=0, atol=1e-6)


def test_a_shuffle_permutes_each_row_and_keeps_the_padding_last() -> None:
    rows = endowments()
    order = shuffled(rows, 23, torch.arange(3))
    assert order.shape == (3, 23)
    for row, size in enumerate(SIZES.tolist()):
        assert sorted(order[row, :size].tolist()) == sorted(rows[row, :size].tolist())
        assert order[row, :size].tolist() != rows[row, :size].tolist()
        assert (order[row, size:] == -1).all()


def test_a_shuffle_follows_from_its_key_alone() -> None:
    keys = stream(torch.arange(3), "shuffle", 0, 0)
    together = shuffled(endowments(), 23, keys)
    alone = shuffled(endowments()[1:2], 17, keys[1:2])
    assert torch.equal(alone[0], together[1, :17])
    assert not torch.equal(shuffled(endowments()[1:2], 17, keys[2:3]), alone)


def test_an_unknown_optimizer_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown optimizer 'lion': choose from adam, known-steps, sgd"):
        TrainingConfig(optimizer="lion")


# --- the engine's step ------------------------------------------------------------------------------------------------


def market_config(training: Training) -> MarketConfig:
    data = DataConfig(train_samples=300, validation_samples=80, test_samples=80, endowment="dirichlet")
    broker = BrokerConfig(merger=Linear(weights=(0.2, 0.5, 0.8)))
    settings = TrainingConfig(**vars(training))
    return MarketConfig(
        agents=3, data=data, network=NetworkConfig(architecture=MLP(hidden=(8, 6))), training=settings, broker=broker
    )


def assert_same(engine: Engine, plain: reference.PlainMarket, market: int) -> None:
    state, quotes, weights = engine.state, engine.state.quotes, engine.broker.weights(engine.state)
    assert state.loss[market].tolist() == pytest.approx(plain.losses, abs=1e-5)
    for agent, module in enumerate(plain.networks):
        torch.testing.assert_close(state.parameters[market, agent], flat(module), rtol=0, atol=1e-5)
        for slot, seller in enumerate(other for other in range(len(plain.networks)) if other != agent):
            quote = plain.quotes[agent, seller]
            assert float(weights[market, agent, slot]) == pytest.approx(quote.weight)
            assert quotes.loss[market, agent, slot].item() == pytest.approx(quote.loss, abs=1e-5)


@pytest.mark.parametrize("local_steps", [None, 2])
@CONFIGS
def test_the_engines_steps_equal_the_plain_markets(config: Training, local_steps: int | None) -> None:
    slower = replace(config.optimizer, lr=config.optimizer.lr / 10)  # type: ignore[type-var, attr-defined]
    training = replace(config, optimizer=slower, local_steps=local_steps)
    engine = Engine(market_config(training), num_markets=2, device="cpu")
    engine.reset(as_seeds(3, 2, engine.device))
    plains = [reference.plain_market(engine, market) for market in range(2)]
    none = torch.full((2, 3), -1)
    # All train; then agent 0 buys from agent 2 (its second offer) while agent 1 trains; then all train again.
    for buyers, trainers in (({}, [0, 1, 2]), ({0: 2}, [1]), ({}, [0, 1, 2])):
        offer = none.clone()
        for buyer, seller in buyers.items():
            offer[:, buyer] = seller - (seller > buyer)
        trains = torch.tensor([[agent in trainers for agent in range(3)]] * 2)
        for market, plain in enumerate(plains):
            plain.step(buyers, reference.coming_passes(engine, market, trainers))
        record = engine.step(replace(no_orders(2, 3, 1, engine.device), train=trains, offer=offer))
        assert (record.seller >= 0).sum() == 2 * len(buyers)
        for market, plain in enumerate(plains):
            assert_same(engine, plain, market)


def test_a_network_that_overflowed_at_a_finite_loss_stops_no_other_market() -> None:
    """A bias of -inf before a ReLU is a dead unit: the loss is finite, the parameters are not."""
    engine = Engine(market_config(PLAIN), num_markets=2, device="cpu")
    engine.reset(as_seeds(3, 2, engine.device))
    before = [tensor.clone() for tensor in (engine.state.loss, engine.state.quotes.loss)]
    parameters = engine.state.parameters.clone()
    split(engine.network, parameters[0, 1])["layer1.bias"][2] = -torch.inf
    engine.overwrite(parameters)
    for now, then in zip((engine.state.loss, engine.state.quotes.loss), before, strict=True):
        torch.testing.assert_close(now[1], then[1])
    assert engine.state.alive[0].tolist()[::2] == [True, True]


# --- one setting for each agent ---------------------------------------------------------------------------------------

EACH = (
    Training(SGD(lr=0.1), batch_size=8, passes=1, local_steps=9),
    Training(Adam(lr=0.003), batch_size=16, passes=3, local_steps=9),
    Training(SGD(lr=0.03, momentum=0.9), batch_size=16, passes=2, local_steps=1),
)


def market_with(trainings: Sequence[Training]) -> MarketConfig:
    settings = {field.name: tuple(getattr(each, field.name) for each in trainings) for field in fields(Training)}
    return replace(market_config(EACH[0]), training=TrainingConfig(**settings))


def everybody(engine: Engine, **changes: Tensor) -> Orders:
    train = torch.ones(engine.num_markets, 3, dtype=torch.bool)
    return replace(no_orders(engine.num_markets, 3, 1, engine.device), train=train, **changes)


def test_agents_with_their_own_settings_train_as_plain_modules_do() -> None:
    engine = Engine(market_with(EACH), num_markets=2, device="cpu")
    engine.reset(as_seeds(3, 2, engine.device))
    modules = [engine.network.module(vector) for vector in engine.state.parameters[1]]
    optimizers = [
        reference.make_optimizer_of(each.optimizer)(module) for each, module in zip(EACH, modules, strict=True)
    ]
    samples = reference.Samples(engine.dataset.inputs, engine.dataset.labels)
    for _ in range(2):
        for agent, (training, module, optimizer) in enumerate(zip(EACH, modules, optimizers, strict=True)):
            for _ in range(training.passes):
                order = reference.coming_passes(engine, 1, [agent])[agent]
                reference.train(module, optimizer, samples, order, training.batch_size, training.local_steps)
                engine.state.passes[1, agent] += 1
            engine.state.passes[1, agent] -= training.passes
        engine.step(everybody(engine))
    assert engine.state.passes.tolist() == [[2, 6, 4]] * 2
    for vector, module in zip(engine.state.parameters[1], modules, strict=True):
        torch.testing.assert_close(vector, flat(module), rtol=0, atol=1e-5)


@pytest.mark.parametrize("agent", range(3))
def test_an_agent_trains_the_same_whatever_the_others_settings(agent: int) -> None:
    engines = [
        Engine(config, num_markets=1, device="cpu")
        for config in (market_with(EACH), market_with(EACH[agent : agent + 1] * 3))
    ]
    for engine in engines:
        engine.reset(as_seeds(3, 1, engine.device))
        engine.step(everybody(engine))
        engine.step(everybody(engine))
    mixed, same = (engine.state.parameters[0, agent] for engine in engines)
    torch.testing.assert_close(mixed, same, rtol=0, atol=1e-5)


def test_a_purchase_renews_all_that_a_buyers_optimizer_keeps() -> None:
    engine = Engine(market_with(EACH), num_markets=1, device="cpu")
    engine.reset(as_seeds(3, 1, engine.device))
    engine.step(everybody(engine))
    assert set(engine.state.optimizer) == {"mean", "square", "steps", "velocity"}
    moved = {name: tensor.view(3, -1).any(1).tolist() for name, tensor in engine.state.optimizer.items()}
    adam, momentum = [False, True, False], [False, False, True]
    assert moved == {"mean": adam, "square": adam, "steps": adam, "velocity": momentum}
    offer = torch.tensor([[-1, 0, 1]])
    record = engine.step(replace(no_orders(1, 3, 1, engine.device), offer=offer))
    assert (record.seller >= 0).tolist() == [[False, True, True]]
    assert not any(bool(tensor.any()) for tensor in engine.state.optimizer.values())


def test_optimizers_that_keep_other_tensors_under_one_name_are_refused() -> None:
    class Wide(SGD):
        def fresh(self, parameters: Tensor) -> OptimizerState:
            return {"velocity": parameters.new_zeros(*parameters.shape, 2)}

    optimizers = (MOMENTUM.optimizer, Wide())
    message = r"training\.optimizer=.*Wide.* must be one that keeps 'velocity' as the others do: torch.float32 \[3, 4\]"
    with pytest.raises(ValueError, match=message):
        fresh_state(optimizers, torch.zeros(3, 4))
