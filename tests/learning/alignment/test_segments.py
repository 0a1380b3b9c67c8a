"""Permutations of segments and blocks: concatenated, flattened and divided axes."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.learning.alignment.aligner import Aligner
from paramarket_env.learning.alignment.assignment import assign, teams_of
from paramarket_env.learning.alignment.frank_wolfe import FrankWolfe
from paramarket_env.learning.alignment.inner_products import InnerProducts, places
from paramarket_env.learning.alignment.permutations import by_name, identity, inverse, permute
from paramarket_env.learning.alignment.weight_matching import WeightMatching, weight_matching
from paramarket_env.learning.networks.network import Blocks, split
from tests.learning.alignment.described import NETWORKS, Described, draw, draw_permutations, no_samples, tensor

CPU = torch.device("cpu")
DETERMINISTIC = settings(derandomize=True, deadline=None, database=None, max_examples=30)
NAMES = pytest.mark.parametrize("name", NETWORKS)
PLANTED = 100


def permuted_by_hand(network: Described, parameters: Tensor, orders: dict[str, Tensor]) -> Tensor:
    """One network with its units in this order, element by element."""
    result = []
    for spec, values in zip(network.parameters, split(network, parameters).values(), strict=True):
        for place in product(*(range(size) for size in spec.shape)):
            source = []
            for axis, index in zip(spec.axes, place, strict=True):
                start = 0
                for segment in axis:
                    if start <= index < start + segment.size:
                        unit, element = divmod(index - start, segment.repeat)
                        moved = unit if segment.permutation is None else int(orders[segment.permutation][unit])
                        source.append(start + moved * segment.repeat + element)
                    start += segment.size
            result.append(values[tuple(source)])
    return torch.stack(result)


@NAMES
def test_permute_moves_every_element_as_by_hand(name: str) -> None:
    network = NETWORKS[name]
    parameters, orders = draw(network, 2), draw_permutations(network, 2)
    for row, moved in enumerate(permute(network, parameters, orders)):
        own = {unit: order[row] for unit, order in by_name(network, orders).items()}
        assert torch.equal(moved, permuted_by_hand(network, parameters[row], own))


@NAMES
def test_the_inverse_undoes_a_permutation(name: str) -> None:
    network = NETWORKS[name]
    parameters, orders = draw(network, 3), draw_permutations(network, 3)
    assert torch.equal(permute(network, permute(network, parameters, orders), inverse(network, orders)), parameters)


@NAMES
def test_the_products_of_units_sum_to_the_inner_product(name: str) -> None:
    """For a permutation that meets no tensor twice, they sum to the share of the tensors on which it acts."""
    network = NETWORKS[name]
    buyers, sellers, orders = draw(network, 3, 1), draw(network, 3, 2), draw_permutations(network, 3)
    products = InnerProducts(network, buyers, sellers)
    tensors = split(network, buyers.double() * permute(network, sellers, orders).double())
    for unit, current in by_name(network, orders).items():
        matrix = products.of_units(unit, orders)
        found = matrix.gather(2, current.unsqueeze(-1)).sum((1, 2))
        expected = torch.zeros(3, dtype=torch.float64)
        for place in places(network)[unit]:
            part = tensors[place.spec.name].narrow(place.axis + 1, place.start, place.segment.size)
            expected += part.flatten(1).sum(1)
        torch.testing.assert_close(found, expected)


@NAMES
def test_permutations_as_matrices_give_the_same_products(name: str) -> None:
    network = NETWORKS[name]
    buyers, sellers, orders = draw(network, 3, 1), draw(network, 3, 2), draw_permutations(network, 3)
    products, current = InnerProducts(network, buyers, sellers), by_name(network, orders)
    matrices = {unit: torch.nn.functional.one_hot(order, order.shape[1]).double() for unit, order in current.items()}
    torch.testing.assert_close(products.of_matrices(matrices), products.of_networks(orders))
    for unit in current:
        torch.testing.assert_close(
            products.of_units_mixed(unit, matrices), products.of_units(unit, orders), rtol=0, atol=1e-12
        )


# --- blocks -----------------------------------------------------------------------------------------------------------


@DETERMINISTIC
@given(count=st.integers(1, 3), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2), seed=st.integers(0, 10**6))
def test_blocks_are_assigned_as_the_best_of_all_orders(count: int, sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = tuple(f"p{place}" for place in range(len(sizes)))
    shapes = [(1, count * size, count * size) for size in sizes]
    products = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    found = assign(Blocks(count, names), products, torch.ones(1, dtype=torch.bool))
    chosen = [matrix.gather(2, order.unsqueeze(-1)) for matrix, order in zip(products, found, strict=True)]
    value = sum(float(part.sum()) for part in chosen)
    assert value == pytest.approx(best_by_trying_all(count, sizes, products))


def best_by_trying_all(count: int, sizes: list[int], products: list[Tensor]) -> float:
    best = -1.0
    for blocks in permutations(range(count)):
        total = 0.0
        for size, matrix in zip(sizes, products, strict=True):
            for block, source in enumerate(blocks):
                part = matrix[0, block * size : (block + 1) * size, source * size : (source + 1) * size]
                total += max(sum(float(part[i, j]) for i, j in enumerate(o)) for o in permutations(range(size)))
        best = max(best, total)
    return best


def is_in_blocks(network: Described, orders: Tensor) -> bool:
    """Whether the permutations move the blocks as wholes, in one order for all the permutations of a team."""
    own = by_name(network, orders)
    for team in teams_of(network):
        sources = [
            own[name].unflatten(1, (team.count, -1)) * team.count // own[name].shape[1] for name in team.permutations
        ]
        together = all(bool((source == source[:, :, :1]).all()) for source in sources)
        if not together or any(bool((source[:, :, 0] != sources[0][:, :, 0]).any()) for source in sources):
            return False
    return True


@pytest.mark.parametrize("aligner", [WeightMatching(), FrankWolfe()], ids=["weight-matching", "frank-wolfe"])
def test_aligners_keep_heads_together(aligner: Aligner) -> None:
    network = NETWORKS["attention"]
    buyers, sellers = draw(network, 20, 1), draw(network, 20, 2)
    found = aligner(network, buyers, sellers, identity(network, CPU).repeat(20, 1), no_samples)
    assert is_in_blocks(network, found)
    assert not torch.equal(found, identity(network, CPU).repeat(20, 1))
    assert not is_in_blocks(network, identity(network, CPU).roll(1).unsqueeze(0))  # the judge can say no


# --- searches ---------------------------------------------------------------------------------------------------------


@NAMES
def test_coordinate_ascent_ends_and_never_lowers_the_inner_product(name: str) -> None:
    network = NETWORKS[name]
    buyers, sellers, start = draw(network, 20, 1), draw(network, 20, 2), draw_permutations(network, 20)
    products = InnerProducts(network, buyers, sellers)
    found = products.of_networks(weight_matching(network, buyers, sellers, start))
    assert (found >= products.of_networks(start)).all()
    assert (found >= products.of_networks(identity(network, CPU).repeat(20, 1))).all()
    assert (found > products.of_networks(start)).any()


@NAMES
def test_frank_wolfe_is_never_below_coordinate_ascent(name: str) -> None:
    network = NETWORKS[name]
    buyers, sellers, start = draw(network, 20, 1), draw(network, 20, 2), draw_permutations(network, 20)
    products = InnerProducts(network, buyers, sellers)
    found = FrankWolfe()(network, buyers, sellers, start, no_samples)
    ascended = weight_matching(network, buyers, sellers, start)
    assert (products.of_networks(found) >= products.of_networks(ascended)).all()


@NAMES
def test_frank_wolfe_finds_what_was_planted(name: str) -> None:
    network = NETWORKS[name]
    buyers, planted = draw(network, PLANTED), draw_permutations(network, PLANTED)
    noise = 0.25 * draw(network, PLANTED, seed=7)
    sellers = permute(network, buyers + noise, planted)
    start = identity(network, CPU).repeat(PLANTED, 1)
    found = FrankWolfe()(network, buyers, sellers, start, no_samples)
    assert (found == inverse(network, planted)).all(dim=1).sum() >= 95 * PLANTED // 100


def test_coordinate_ascent_alone_loses_what_was_planted_in_residual_blocks() -> None:
    """This is why there is a second search: many layers share the permutation of the residual stream."""
    network = NETWORKS["residual"]
    buyers, planted = draw(network, PLANTED), draw_permutations(network, PLANTED)
    sellers = permute(network, buyers + 0.25 * draw(network, PLANTED, seed=7), planted)
    found = weight_matching(network, buyers, sellers)
    assert (found == inverse(network, planted)).all(dim=1).sum() < 95 * PLANTED // 100


def test_a_match_does_not_depend_on_the_other_pairs() -> None:
    network = NETWORKS["residual"]
    buyers, sellers = draw(network, 6, 1), draw(network, 6, 2)
    start, aligner = identity(network, CPU).repeat(6, 1), FrankWolfe()
    together = aligner(network, buyers, sellers, start, no_samples)
    alone = [aligner(network, buyers[i : i + 1], sellers[i : i + 1], start[:1], no_samples) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))


def test_no_pairs_and_no_permutations_are_no_work() -> None:
    aligner = FrankWolfe()
    none, plain = NETWORKS["residual"], Described((tensor("out", 10, 16),))
    assert aligner(none, draw(none, 0), draw(none, 0), identity(none, CPU).repeat(0, 1), no_samples).shape[0] == 0
    assert aligner(plain, draw(plain, 2), draw(plain, 2), identity(plain, CPU).repeat(2, 1), no_samples).shape == (2, 0)
