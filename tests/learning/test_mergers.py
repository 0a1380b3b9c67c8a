"""Every merger in a market, and each against its closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paramarket_env.config import MarketConfig
from paramarket_env.learning.activations import SAMPLES, affine, affine_layers, entering
from paramarket_env.learning.data.datasets import DATASETS
from paramarket_env.learning.mergers.best_of import BestOf
from paramarket_env.learning.mergers.fisher import Fisher, fisher_information
from paramarket_env.learning.mergers.pleas import Pleas
from paramarket_env.learning.mergers.regmean import RegMean
from paramarket_env.learning.mergers.spherical import Spherical, slerp
from paramarket_env.learning.mergers.task_vectors import Dare, TaskArithmetic, Ties
from paramarket_env.learning.merging import MERGERS, Linear, MergeInputs, Merger
from paramarket_env.learning.networks.convolutional import CNN, VGG16
from paramarket_env.learning.networks.mlp import MLP, MLPNetwork
from paramarket_env.learning.networks.modules import from_module
from paramarket_env.learning.networks.network import ARCHITECTURES, Network, initial_parameters, parameter_count
from paramarket_env.market.engine import Engine
from paramarket_env.market.snapshot import fork, snapshot
from paramarket_env.seeding import stream
from tests.helpers import frozen, logits, module_loss, new_engine, orders, random_orders, tiny_market

DATASET = DATASETS.parse("digits")()
NETWORKS = {"mlp": MLP(hidden=(8, 6)), "cnn": CNN(channels=(2, 2), hidden=4)}


def merger_named(name: str) -> Merger:
    return MERGERS.parse(name)


def market_of(name: str, **changes: Any) -> MarketConfig:
    """A tiny market with this merger, and a common start if it needs one."""
    merger = merger_named(name)
    return tiny_market(**{"merger": merger, "common_start": merger.needs_common_start, "agents": 3} | changes)


def inputs_for(network: Network, *, like: bool = False, samples: int = 40, sets: Tensor | None = None) -> MergeInputs:
    """Two pairs of drawn networks, which began from a third."""
    keys = stream(torch.tensor(0), "network", torch.arange(5))
    drawn = initial_parameters(network, keys)
    buyers = drawn[:2]
    sellers, start = buyers.clone() if like else drawn[2:4], drawn[4:].expand(2, -1)
    masks = torch.ones_like(buyers, dtype=torch.bool) if sets is None else sets.expand(2, -1)
    return MergeInputs(network, buyers, sellers, start, masks, DATASET, torch.arange(2 * samples).view(2, -1))


def network_of(architecture: Any) -> Network:
    return architecture(DATASET.features, DATASET.classes)


# --- every merger in the engine ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", MERGERS)
def test_the_quoted_loss_is_that_of_what_is_delivered_and_the_rest_is_the_buyers_to_the_bit(
    name: str, architecture: str
) -> None:
    engine = new_engine(market_of(name, parameter_sets="layers", architecture=NETWORKS[architecture]))
    engine.step(orders(engine, train=(0, 2)))
    before, validation = snapshot(engine.state), engine.state.partition.validation[0, 0]
    for offer in range(0, engine.offers, 2):
        market, buyer = torch.tensor([0]), torch.tensor([1])
        delivered = engine.broker.deliver(engine.state, market, buyer, torch.tensor([offer]))[0]
        quoted = float(before.quotes.loss.flatten(2)[0, 1, offer])
        assert module_loss(engine, delivered, validation) == pytest.approx(quoted, rel=1e-4)
        outside = ~engine.broker.goods.masks[offer % len(engine.broker.goods.names)]
        assert torch.equal(delivered[outside], before.parameters[0, 1][outside])


@pytest.mark.parametrize("name", MERGERS)
def test_a_market_is_the_same_alone_and_as_one_of_three_and_after_a_fork(name: str) -> None:
    config = market_of(name)
    alone, many = new_engine(config, [7]), new_engine(config, [3, 7, 5])
    rng = np.random.default_rng(0)
    for _ in range(4):
        chosen = random_orders(many, rng)
        many.step(chosen)
        one = type(chosen)(*(part[1:2] for part in vars(chosen).values()))
        forked = Engine(config, 1, "cpu")
        forked.state = fork(alone.state, torch.tensor([0]))
        alone.step(one)
        forked.step(one)
        assert frozen(forked.state) == frozen(alone.state)
        torch.testing.assert_close(alone.state.parameters[0], many.state.parameters[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.state.loss[0], many.state.loss[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MERGERS)
def test_networks_that_have_failed_are_never_quoted(name: str) -> None:
    engine = new_engine(market_of(name), [0, 1])
    parameters = engine.state.parameters.clone()
    parameters[0, 1, 3] = torch.nan
    engine.overwrite(parameters)
    finite = engine.state.quotes.loss.isfinite()
    assert finite[1].all()
    assert not finite[0, 1].any()
    assert finite[0, [0, 2]].sum() == 2


@pytest.mark.parametrize("name", MERGERS)
def test_bounds_are_disclosed_only_of_lines(name: str) -> None:
    if name == "linear":
        market_of(name, disclosure="bounds")
        return
    with pytest.raises(ValueError, match=r"economy.disclosure='bounds'.*unless broker.merger is linear"):
        market_of(name, disclosure="bounds")


# --- every merger alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", [name for name in MERGERS if not merger_named(name).needs_common_start])
def test_identical_networks_stay_as_they_are(name: str, architecture: str) -> None:
    inputs = inputs_for(network_of(NETWORKS[architecture]), like=True)
    merged = merger_named(name).candidates(inputs)
    torch.testing.assert_close(merged, inputs.buyers.unsqueeze(1).expand_as(merged), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", MERGERS)
def test_candidates_are_one_for_each_weight_and_the_same_alone_and_again(name: str, architecture: str) -> None:
    merger, inputs = merger_named(name), inputs_for(network_of(NETWORKS[architecture]))
    found = merger.candidates(inputs)
    assert found.shape == (2, len(merger.weights), parameter_count(inputs.network))
    assert found.dtype == torch.float32
    assert torch.equal(found, merger.candidates(inputs))
    for pair in range(2):
        tensors = {field: value[pair : pair + 1] for field, value in vars(inputs).items() if isinstance(value, Tensor)}
        alone = merger.candidates(MergeInputs(network=inputs.network, dataset=DATASET, **tensors))
        torch.testing.assert_close(alone[0], found[pair], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MERGERS)
def test_a_merge_is_the_candidate_chosen_within_the_set(name: str) -> None:
    network = network_of(NETWORKS["mlp"])
    sets = torch.arange(parameter_count(network)) % 3 == 0
    merger, inputs = merger_named(name), inputs_for(network, sets=sets)
    chosen = torch.tensor([len(merger.weights) - 1, 0])
    merged, candidates = merger.merge(inputs, chosen), merger.candidates(inputs)
    for pair in range(2):
        assert torch.equal(merged[pair][~sets], inputs.buyers[pair][~sets])
        torch.testing.assert_close(merged[pair][sets], candidates[pair, chosen[pair]][sets], rtol=0, atol=1e-6)


def test_task_arithmetic_at_one_half_is_the_linear_mean() -> None:
    inputs = inputs_for(network_of(NETWORKS["mlp"]))
    merged = TaskArithmetic(weights=(0.5, 1.0)).candidates(inputs)
    mean = torch.lerp(inputs.buyers, inputs.sellers, 0.5)
    torch.testing.assert_close(merged[:, 0], mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged[:, 1], inputs.buyers + inputs.sellers - inputs.start, rtol=1e-5, atol=1e-6)


def test_ties_keeps_the_large_entries_and_elects_their_sign() -> None:
    buyers = torch.tensor([[4.0, 1.0, -3.0, 2.0, 0.5, 9.0]])
    sellers = torch.tensor([[2.0, -5.0, 2.0, 0.1, 0.2, -9.0]])
    masks = torch.tensor([[True, True, True, True, True, False]])
    found = Ties(density=0.6).change(buyers, sellers, masks)
    # Trimmed: buyer 4 0 -3 2 0, seller 2 -5 2 0 0. The entry outside of the set does not count.
    assert found[0, :5].tolist() == [3.0, -5.0, -3.0, 2.0, 0.0]


def test_identical_networks_stay_as_they_are_under_ties_that_trims_nothing() -> None:
    inputs = inputs_for(network_of(NETWORKS["mlp"]), like=True)
    merged = Ties(weights=(1.0,), density=1.0).candidates(inputs)[:, 0]
    torch.testing.assert_close(merged, inputs.buyers, rtol=1e-5, atol=1e-6)


def test_dare_drops_its_share_and_keeps_the_sum_on_average() -> None:
    ones = torch.ones(1, 100_000)
    found = Dare(rate=0.75).change(ones, torch.zeros_like(ones), ones.bool())
    assert found.unique().tolist() == [0.0, 4.0]
    assert float(found.mean()) == pytest.approx(1, abs=0.02)
    both = Dare(rate=0.75).change(ones, ones, ones.bool())
    assert both.unique().tolist() == [0.0, 4.0, 8.0]  # buyers and sellers lose different entries


def test_dare_that_drops_nothing_is_task_arithmetic() -> None:
    inputs = inputs_for(network_of(NETWORKS["mlp"]))
    assert torch.equal(Dare(rate=0).candidates(inputs), TaskArithmetic().candidates(inputs))


@pytest.mark.parametrize("name", [name for name in MERGERS if merger_named(name).needs_common_start])
def test_task_vectors_need_a_common_start(name: str) -> None:
    with pytest.raises(ValueError, match=r"broker.merger.*must be another one unless network.common_start=True"):
        market_of(name, common_start=False)


# --- the best of several ----------------------------------------------------------------------------------------------


def test_the_best_of_several_quotes_the_least_of_their_losses() -> None:
    parts = ("linear(weights=(0.2, 0.5))", "spherical(weights=(0.5,))", "regmean")
    engines = [new_engine(tiny_market(merger=each), [0, 1]) for each in (*parts, f"best-of(mergers={parts})")]
    for engine in engines:
        engine.step(orders(engine, train=(0, 1)))
    *single, best = (engine.state.quotes.loss for engine in engines)
    torch.testing.assert_close(best, torch.stack(single).amin(0))
    assert len(engines[-1].state.quotes.candidate.unique()) > 1


def test_the_best_of_several_has_a_textual_form_with_those_of_its_parts() -> None:
    merger = BestOf(mergers=(Spherical(weights=(0.5,)), Ties(density=0.4)))
    text = MERGERS.text(merger)
    assert text == "best-of(mergers=('spherical(weights=(0.5,))', 'ties(density=0.4)'))"
    assert MERGERS.parse(text) == merger
    assert merger.needs_common_start
    assert merger.weights == (0.5, *Ties().weights)


def test_the_best_of_several_serves_what_all_of_them_serve() -> None:
    network = network_of(VGG16(width=0.05, norm="batch"))
    with pytest.raises(ValueError, match=r"broker.merger=Fisher"):
        BestOf(mergers=("linear", "fisher")).require_serves(network)


# --- inputs of layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit", "resnet20(widen=1, depth=10)", "vgg16(width=0.05)"])
def test_layers_times_their_inputs_give_the_logits(name: str) -> None:
    network = network_of(ARCHITECTURES.parse(name))
    parameters = initial_parameters(network, stream(torch.tensor(0), "network", torch.arange(2)))
    samples = DATASET.take(torch.arange(10).view(2, 5))
    found = entering(network, parameters, samples, torch.clone)
    head = list(found)[-1]
    expected = logits(network, parameters[:, None], samples).squeeze(1)
    torch.testing.assert_close(affine(network, parameters, head) @ found[head], expected, rtol=1e-4, atol=1e-5)


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_the_points_of_an_arc_have_its_norm_and_its_angles() -> None:
    buyer, seller = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    found = slerp(buyer, seller, torch.tensor([0.25, 0.5]))[0]
    angles = torch.tensor([torch.pi / 8, torch.pi / 4])
    torch.testing.assert_close(found, 2 * torch.stack([angles.cos(), angles.sin()], dim=1))


@pytest.mark.parametrize("factor", [0.0, 1.0, 3.0, -1.0])
def test_vectors_without_an_arc_are_interpolated_on_the_line(factor: float) -> None:
    buyer = torch.tensor([[1.0, -2.0, 0.5]])
    found = slerp(buyer, factor * buyer, torch.tensor([0.25]))[0, 0]
    torch.testing.assert_close(found, (0.75 + 0.25 * factor) * buyer[0], rtol=0, atol=1e-3)


LINEAR = MLPNetwork((64,), 10, ())
"""A softmax regression, for which the information and the least squares have closed forms."""


def test_the_fisher_information_of_a_softmax_regression_is_its_closed_form() -> None:
    inputs = inputs_for(LINEAR)
    found = fisher_information(LINEAR, DATASET, inputs.buyers, inputs.samples)
    for pair in range(2):
        features = DATASET.inputs[inputs.samples[pair]].flatten(1)
        weight, bias = inputs.buyers[pair].split([640, 10])
        shares = (features @ weight.view(10, 64).T + bias).softmax(1)
        spread = shares * (1 - shares)
        expected = torch.cat([(spread.T @ features.square()).flatten(), spread.sum(0)]) / len(features)
        torch.testing.assert_close(found[pair], expected, rtol=1e-4, atol=1e-8)


def test_a_fisher_average_is_nearer_to_the_network_that_knows_more() -> None:
    inputs = inputs_for(LINEAR)
    inputs.buyers[:] *= 20  # its probabilities are near 0 and 1, so the data say little about its parameters
    merged = Fisher(weights=(0.5,)).candidates(inputs)[:, 0]
    share = (merged - inputs.buyers) / (inputs.sellers - inputs.buyers)
    assert share.nanmedian() > 0.5
    mine, theirs = (
        fisher_information(LINEAR, DATASET, each, inputs.samples) for each in (inputs.buyers, inputs.sellers)
    )
    matter = theirs > 1e-4
    torch.testing.assert_close(share[matter], ((theirs + 1e-6) / (mine + theirs + 2e-6))[matter], rtol=1e-2, atol=1e-2)


def test_fisher_cannot_serve_batch_normalisation() -> None:
    network = network_of(VGG16(width=0.05, norm="batch"))
    with pytest.raises(ValueError, match=r"broker.merger=Fisher.*normalises batches"):
        Fisher().require_serves(network)


def test_regmean_of_one_layer_is_the_least_squares_solution_of_both() -> None:
    """Each network has inputs of its own where a hidden layer is before the last; here both have the same."""
    inputs = inputs_for(MLPNetwork((64,), 10, (7,)), samples=SAMPLES)
    weight = 0.3
    merged = RegMean(weights=(weight,), shrink=1.0).candidates(inputs)[:, 0].double()
    size = 65 * 7
    for pair in range(2):
        features = DATASET.inputs[inputs.samples[pair]].flatten(1).double()
        rows, targets = [], []
        for vector, share in ((inputs.buyers[pair], 1 - weight), (inputs.sellers[pair], weight)):
            first, second = vector.double().split([size, 80])
            hidden = (features @ first[: 64 * 7].view(7, 64).T + first[64 * 7 :]).relu()
            hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1)
            last = torch.cat([second[:70].view(10, 7), second[70:, None]], dim=1)
            rows.append(hidden * share**0.5)
            targets.append(hidden @ last.T * share**0.5)
        solution = torch.linalg.lstsq(torch.cat(rows), torch.cat(targets)).solution.T
        found = torch.cat([merged[pair, size : size + 70].view(10, 7), merged[pair, size + 70 :, None]], dim=1)
        torch.testing.assert_close(found, solution, rtol=1e-3, atol=1e-3)
        average = torch.lerp(inputs.buyers[pair], inputs.sellers[pair], weight).double()
        torch.testing.assert_close(merged[pair, :size], average[:size], rtol=1e-4, atol=1e-5)  # the same inputs


def test_a_fitted_single_layer_has_the_average_of_both_networks_logits() -> None:
    inputs = inputs_for(LINEAR, samples=SAMPLES)
    merged = Pleas(weights=(0.3,)).candidates(inputs)[:, 0]
    torch.testing.assert_close(merged, torch.lerp(inputs.buyers, inputs.sellers, 0.3), rtol=1e-4, atol=1e-5)


def test_a_fitted_network_is_nearer_to_both_networks_logits_than_the_averaged_one() -> None:
    network = network_of(MLP(hidden=(16, 12)))
    inputs = inputs_for(network, samples=SAMPLES)
    samples = DATASET.take(inputs.samples)
    mine, theirs = (logits(network, each[:, None], samples) for each in (inputs.buyers, inputs.sellers))
    mean = torch.lerp(mine, theirs, 0.5)
    fitted, averaged = (
        (logits(network, merger.candidates(inputs), samples) - mean).square().mean()
        for merger in (Pleas(weights=(0.5,), ridge=1e-6), Linear(weights=(0.5,)))
    )
    assert fitted < 0.2 * averaged


def test_the_last_layer_is_the_ridge_regression_of_the_average_logits() -> None:
    network = MLPNetwork((64,), 10, (7,))
    inputs = inputs_for(network, samples=SAMPLES)
    merged = Pleas(weights=(0.5,), least_correlation=-1.0, ridge=1e-9).candidates(inputs)[:, 0]
    samples = DATASET.take(inputs.samples)
    mine, theirs = (logits(network, each[:, None], samples)[:, 0] for each in (inputs.buyers, inputs.sellers))
    head = affine_layers(network)[-1]
    hidden = entering(network, merged, samples, torch.clone, only=head)[head]
    solution = torch.linalg.lstsq(hidden.mT.double(), torch.lerp(mine, theirs, 0.5).mT.double()).solution.mT
    torch.testing.assert_close(affine(network, merged, head).double(), solution, rtol=1e-2, atol=1e-3)


def test_units_that_do_not_correlate_stay_the_buyers() -> None:
    network = network_of(NETWORKS["mlp"])
    inputs = inputs_for(network, samples=SAMPLES)
    merged = Pleas(weights=(0.5,), least_correlation=1.0, ridge=1e-9).candidates(inputs)[:, 0]
    first = affine_layers(network)[0]
    samples = DATASET.take(inputs.samples)
    columns = entering(network, merged, samples, torch.clone, only=first)[first]
    mine, found = (affine(network, each, first) @ columns for each in (inputs.buyers, merged))
    torch.testing.assert_close(found, mine, rtol=1e-4, atol=1e-4)


class Scales(nn.Module):
    """A linear map, written without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10, 64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.scale.T


@pytest.mark.parametrize("merger", [RegMean, Pleas])
def test_a_network_without_such_layers_is_refused(merger: type[Merger]) -> None:
    network = network_of(from_module(lambda features, classes: Scales()))
    with pytest.raises(ValueError, match=r"broker.merger=.*no linear and no convolutional layer"):
        merger().require_serves(network)


def test_mergers_that_increase_no_weight_are_refused() -> None:
    with pytest.raises(ValueError, match=r"spherical.weights=\(0.5, 0.5\).*increasing"):
        Spherical(weights=(0.5, 0.5))
