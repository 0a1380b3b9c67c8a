"""Every aligner on networks of the package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.alignment import Planted, draw_permutations, measure, plant
from paramarket_env.learning.alignment.activation_matching import ActivationMatching
from paramarket_env.learning.alignment.aligner import ALIGNERS, Aligner
from paramarket_env.learning.alignment.inner_products import InnerProducts
from paramarket_env.learning.alignment.permutations import compose, identity, permute
from paramarket_env.learning.alignment.restarts import RestartedWeightMatching
from paramarket_env.learning.alignment.weight_matching import weight_matching
from paramarket_env.seeding import stream
from tests.helpers import new_engine, orders, tiny_market

NETWORKS = ("mlp", "cnn", "resnet20(widen=1, depth=10)", "vgg16(width=0.05, norm='batch')", "vit")
PAIRS = 6


def found_by(aligner: str, planted: Planted, pairs: slice = slice(None)) -> Tensor:
    """The orders of some pairs."""
    buyers, sellers = planted.buyers[pairs], planted.sellers[pairs]
    start = identity(planted.network, buyers.device).repeat(len(buyers), 1)
    chosen: Aligner = ALIGNERS.check(aligner)
    return chosen(planted.network, buyers, sellers, start, lambda: planted.samples()[pairs])


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("aligner", ALIGNERS)
def test_functions_are_kept_and_a_match_is_the_same_again_and_alone(aligner: str, architecture: str) -> None:
    planted = plant(architecture, noise=0.5, pairs=3)
    assert measure(planted, aligner)[3]
    together = found_by(aligner, planted)
    assert together.shape == planted.order.shape
    assert torch.equal(together, found_by(aligner, planted))
    assert torch.equal(together[2:3], found_by(aligner, planted, slice(2, 3)))


@pytest.mark.parametrize("aligner", ALIGNERS)
def test_every_aligner_takes_part_in_a_market_in_which_a_network_fails(aligner: str) -> None:
    engine = new_engine(tiny_market(aligner=aligner, agents=3), [0, 1])
    engine.step(orders(engine, train=(0, 1, 2), buy={0: 1}))
    parameters = engine.state.parameters.clone()
    parameters[0, 1, 3] = torch.inf
    engine.overwrite(parameters)
    assert engine.state.quotes.loss[1].isfinite().all()


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "vgg16(width=0.05, norm='batch')"])
def test_activation_matching_finds_what_was_planted(architecture: str) -> None:
    planted = plant(architecture, noise=0.01, pairs=PAIRS)
    found = found_by("activation-matching", planted)
    assert (found == planted.order).float().mean() > 0.97


def test_activation_matching_uses_what_units_do_and_not_their_scale() -> None:
    """Weight matching is drawn to large weights; correlations are not."""
    planted = plant("mlp(hidden=(12,))", noise=0.0, pairs=4)
    network, sellers = planted.network, planted.sellers.clone()
    scales = torch.logspace(-2, 2, 12)
    sellers[:, : 12 * 64].view(4, 12, 64).mul_(scales[:, None])
    sellers[:, 12 * 64 : 12 * 65].mul_(scales)
    start = identity(network, sellers.device).repeat(4, 1)
    found = ActivationMatching()(network, planted.buyers, sellers, start, planted.samples)
    assert torch.equal(found, planted.order)


@pytest.mark.parametrize("architecture", ["mlp", "cnn", "resnet20(widen=1, depth=10)", "vit"])
def test_restarts_are_never_worse_than_a_single_start_and_better_in_hard_cases(architecture: str) -> None:
    planted = plant(architecture, noise=2.0, pairs=PAIRS)
    network, buyers, sellers = planted.network, planted.buyers, planted.sellers
    products = InnerProducts(network, buyers, sellers)
    once = products.of_networks(weight_matching(network, buyers, sellers))
    often = products.of_networks(found_by("restarted-weight-matching", planted))
    assert (often >= once).all()
    if architecture != "mlp":  # for which one start suffices
        assert (often > once * 1.001).any()


def test_more_restarts_are_never_worse() -> None:
    planted = plant("vit", noise=2.0, pairs=PAIRS)
    products = InnerProducts(planted.network, planted.buyers, planted.sellers)
    few, many = (products.of_networks(found_by(f"restarted-weight-matching:{count}", planted)) for count in (2, 6))
    assert (many >= few).all()
    assert RestartedWeightMatching(restarts=2) == ALIGNERS.check("restarted-weight-matching:2")


@pytest.mark.parametrize("architecture", ["mlp", "vit"])
def test_a_composition_permutes_by_the_first_and_then_the_second(architecture: str) -> None:
    planted = plant(architecture, noise=0.5, pairs=3)
    first, second = (
        draw_permutations(planted.network, stream(torch.tensor(n), "order", torch.arange(3))) for n in (1, 2)
    )
    together = compose(planted.network, first, second)
    twice = permute(planted.network, permute(planted.network, planted.buyers, first), second)
    assert torch.equal(permute(planted.network, planted.buyers, together), twice)
