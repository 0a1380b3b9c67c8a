"""Random crops and flips in training, compared with loops over images, networks and minibatches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramarket_env.config import MarketConfig
from paramarket_env.learning.data.augmentation import CropsAndFlips, Joined
from paramarket_env.learning.data.datasets import load_dataset
from paramarket_env.learning.data.tasks import load_tasks
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.learning.training import shuffled
from paramarket_env.market.engine import Engine
from paramarket_env.seeding import bits, stream
from tests.helpers import CPU, Images, frozen, module_loss, new_engine, orders, tiny_market

BLACK = (-0.5, 0.25, 3.0)
RULES = [
    CropsAndFlips(BLACK, padding=4, flips=True),
    CropsAndFlips(BLACK, padding=2),
    CropsAndFlips(BLACK, flips=True),
    CropsAndFlips(BLACK, padding=20, flips=True),
]


def plain(rule: CropsAndFlips, image: Tensor, key: Tensor) -> Tensor:
    """One image ``[channels, height, width]``: padded, cropped and flipped as torchvision does it."""
    down, right, flipped = bits(key, 3).tolist()
    sides, places = image.shape[1:], 2 * rule.padding + 1
    padded = [F.pad(part, (rule.padding,) * 4, value=black) for part, black in zip(image, rule.black, strict=True)]
    top, left = down % places, right % places
    cropped = torch.stack(padded)[:, top : top + sides[0], left : left + sides[1]]
    return cropped.flip(2) if rule.flips and flipped % 2 else cropped


def draw(samples: int, channels: int = 3, sides: tuple[int, int] = (6, 5)) -> Tensor:
    return torch.randn(samples, channels, *sides, generator=torch.Generator().manual_seed(0))


def drawn_keys(count: int) -> Tensor:
    return bits(torch.tensor(1), count)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_crops_and_flips_equal_a_loop_over_images(rule: CropsAndFlips) -> None:
    images, keys = draw(40), drawn_keys(40)
    expected = [plain(rule, image, key) for image, key in zip(images, keys, strict=True)]
    assert torch.equal(rule(images, torch.arange(40), keys), torch.stack(expected))


def test_images_are_neither_moved_nor_mirrored_without_being_told_to() -> None:
    assert torch.equal(CropsAndFlips(BLACK)(draw(20), torch.arange(20), drawn_keys(20)), draw(20))


def test_all_places_and_both_sides_are_equally_likely() -> None:
    pixels = torch.arange(1.0, 26).view(1, 1, 5, 5).expand(18_000, -1, -1, -1)
    changed = CropsAndFlips((0.0,), padding=1, flips=True)(pixels, torch.arange(18_000), drawn_keys(18_000))
    seen, counts = changed.unique(dim=0, return_counts=True)
    assert len(seen) == 18
    assert ((counts - 1000).abs() < 5 * 31).all()  # 31: the standard deviation of such a count


def test_joined_samples_keep_the_augmentation_of_their_own_dataset() -> None:
    rule = CropsAndFlips(BLACK, padding=2, flips=True)
    joined = Joined((None, rule, RULES[2]), (10, 5, 7))
    samples = torch.tensor([3, 21, 14, 9, 10, 15, 0])
    images, keys = draw(7), drawn_keys(7)
    before = images.clone()
    changed = joined(images, samples, keys)
    own = [None, RULES[2], rule, None, rule, RULES[2], None]
    for place, part in enumerate(own):
        expected = images[place] if part is None else plain(part, images[place], keys[place])
        assert torch.equal(changed[place], expected)
    assert torch.equal(images, before)


# --- in training ------------------------------------------------------------------------------------------------------


CROPPED, MIRRORED, PLAIN = Images(padding=2, flips=True), Images(flips=True), Images(plain=True)
SEVERAL: dict[str, Any] = {
    "dataset": (PLAIN, CROPPED, MIRRORED),
    "agents": 3,
    "parameter_sets": "trunk",
    "endowment": "iid",
}


def market(**changes: Any) -> MarketConfig:
    return tiny_market(**{"dataset": CROPPED, "train_samples": 101, "architecture": "mlp(hidden=(8,))"} | changes)


def plain_pass(engine: Engine, index: int, agent: int, source: Images, start: int) -> nn.Module:
    """The agent's network after its next pass, trained minibatch by minibatch on images that are changed in turn."""
    state = engine.state
    module = engine.network.module(state.parameters[index, agent])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    key = stream(state.seeds[index], "shuffle", agent, state.passes[index, agent])
    endowment, size = state.partition.endowments[index, agent], state.partition.sizes[index, agent]
    order = shuffled(endowment[None], size[None], key[None])[0] - start
    dataset = load_dataset(source)
    for number, batch in enumerate(order.split(engine.config.training.batch_size)):
        inputs, keys = dataset.inputs[batch], bits(stream(key, "augmentation", number), len(batch))
        if not source.plain:
            rule = dataset.augmentation
            assert isinstance(rule, CropsAndFlips)
            inputs = torch.stack([plain(rule, image, own) for image, own in zip(inputs, keys, strict=True)])
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), dataset.labels[batch]).backward()
        optimizer.step()
    return module


@pytest.mark.parametrize("changes", [{}, {"architecture": "cnn(channels=(3, 4), hidden=8)"}, SEVERAL], ids=str)
def test_training_equals_a_loop_over_networks_and_images(changes: dict[str, Any]) -> None:
    engine = new_engine(market(**changes), (0, 1))
    for _ in range(2):
        modules = {}
        for agent, source in enumerate(engine.config.datasets):
            assert isinstance(source, Images)
            start = 300 * int(engine.tasks.of_agent[agent])
            for index in range(2):
                modules[index, agent] = plain_pass(engine, index, agent, source, start)
        engine.step(orders(engine, train=range(engine.config.agents)))
        for place, module in modules.items():
            expected = nn.utils.parameters_to_vector(module.parameters())
            torch.testing.assert_close(engine.state.parameters[place], expected, rtol=1e-3, atol=1e-4)


def test_the_brokers_and_the_reports_samples_are_never_changed() -> None:
    engine = new_engine(market())
    engine.step(orders(engine, train=(0, 1)))
    parameters, partition = engine.state.parameters[0, 0], engine.state.partition
    loss, test_loss = (module_loss(engine, parameters, part[0, 0]) for part in (partition.validation, partition.test))
    assert float(engine.state.loss[0, 0]) == pytest.approx(loss, rel=1e-5)
    assert float(engine.test_metrics()[0][0, 0]) == pytest.approx(test_loss, rel=1e-5)


@pytest.mark.parametrize("changes", [{}, SEVERAL], ids=["one task", "three tasks"])
def test_a_market_alone_equals_the_same_market_as_one_of_several(changes: dict[str, Any]) -> None:
    alone, several = new_engine(market(**changes), (7,)), new_engine(market(**changes), (3, 7, 5))
    for engine in (alone, several):
        for _ in range(2):
            engine.step(orders(engine, train=range(engine.config.agents)))
    torch.testing.assert_close(alone.state.parameters[0], several.state.parameters[1])


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_results_do_not_depend_on_the_number_of_networks_at_once(at_once: int) -> None:
    together, parts = new_engine(market(), (0, 1, 2)), new_engine(market(), (0, 1, 2))
    parts._networks_at_once = at_once
    together.step(orders(together, train=(0, 1)))
    parts.step(orders(parts, train=(0, 1)))
    torch.testing.assert_close(parts.state.parameters, together.state.parameters)


def test_every_pass_and_every_network_changes_the_samples_anew() -> None:
    dataset, samples = load_dataset(CROPPED), torch.arange(40).expand(2, -1)
    keys = stream(torch.tensor(0), "shuffle", torch.arange(2))
    one, other = dataset.augmented(samples, keys, 0)
    assert not torch.equal(one, other)
    assert not torch.equal(dataset.augmented(samples, keys, 1)[0], one)
    assert torch.equal(dataset.augmented(samples[:, :30], keys, 0)[0], one[:30])


def test_without_an_augmentation_nothing_changes() -> None:
    one, other = (new_engine(market(dataset=source)) for source in (PLAIN, Images()))
    with forced("torch"):  # the other back ends hand augmented samples to it
        for engine in (one, other):
            engine.step(orders(engine, train=(0, 1), buy={0: 0}))
    assert frozen(one.state) == frozen(other.state)


def test_tasks_of_which_none_augments_are_joined_without_one() -> None:
    tasks = load_tasks([PLAIN, Images(plain=True, padding=1)], CPU)
    assert tasks.differ
    assert tasks.dataset.augmentation is None
