"""Weight matching: it never changes a function, finds what was planted, and equals the plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks import reference
from paramarket_env.learning.alignment.permutations import identity, inverse, permute
from paramarket_env.learning.alignment.weight_matching import weight_matching
from paramarket_env.learning.kernels import build
from paramarket_env.learning.kernels.selection import forced
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import initial_parameters, permutation_sizes
from paramarket_env.seeding import permutation, stream
from tests.helpers import logits

CPU = torch.device("cpu")
HIDDEN = pytest.mark.parametrize("hidden", [(), (1,), (9,), (8, 6), (6, 6, 6), (12, 12, 12, 6), (8,) * 8])
DEPTHS = pytest.mark.parametrize("hidden", [(9,), (8, 6), (8, 8, 8)])
DETERMINISTIC = settings(derandomize=True, deadline=None, database=None, max_examples=40)


@pytest.fixture(scope="module", autouse=True, params=["torch", "compiled"])
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "compiled" and build.library() is None:
        pytest.skip("the C++ kernels cannot be built here")
    with forced(request.param):
        yield


def make_network(hidden: tuple[int, ...]) -> MLPNetwork:
    return MLPNetwork((10,), 4, hidden)


def draw(network: MLPNetwork, count: int, seed: int = 0) -> Tensor:
    return initial_parameters(network, stream(torch.tensor(seed), "network", torch.arange(count)))


def draw_permutations(network: MLPNetwork, count: int, seed: int = 0) -> Tensor:
    keys = stream(torch.tensor(seed), "planted", torch.arange(count))
    parts = [permutation(stream(keys, name), size) for name, size in permutation_sizes(network).items()]
    return torch.cat(parts, dim=1) if parts else torch.zeros(count, 0, dtype=torch.int64)


def by_layer(network: MLPNetwork, orders: Tensor) -> list[Tensor]:
    return list(orders.split(list(permutation_sizes(network).values()), dim=-1))


def likeness(network: MLPNetwork, buyers: Tensor, sellers: Tensor, orders: Tensor) -> Tensor:
    """The inner product that weight matching makes large, of each pair."""
    return (buyers.double() * permute(network, sellers, orders).double()).sum(1)


def sequential(network: MLPNetwork, parameters: Tensor) -> nn.Sequential:
    module = network.module(parameters)
    assert isinstance(module, nn.Sequential)
    return module


# --- permute ----------------------------------------------------------------------------------------------------------


@DETERMINISTIC
@given(hidden=st.lists(st.integers(1, 7), max_size=4), seed=st.integers(0, 2**62))
def test_a_permutation_never_changes_the_function(hidden: list[int], seed: int) -> None:
    network = make_network(tuple(hidden))
    parameters, inputs = draw(network, 3, seed), torch.randn(1, 8, 10, generator=torch.Generator().manual_seed(1))
    permuted = permute(network, parameters, draw_permutations(network, 3, seed))
    before, after = (logits(network, some[None], inputs) for some in (parameters, permuted))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def test_a_permutation_moves_rows_biases_and_the_columns_that_follow() -> None:
    network = MLPNetwork((1,), 1, (3,))
    parameters = torch.tensor([[10.0, 11, 12, 20, 21, 22, 30, 31, 32, 40]])
    permuted = permute(network, parameters, torch.tensor([[2, 0, 1]]))
    assert permuted.tolist() == [[12, 10, 11, 22, 20, 21, 32, 30, 31, 40]]


@HIDDEN
def test_a_permutation_equals_the_plain_one(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    parameters, orders = draw(network, 3), draw_permutations(network, 3)
    for vector, order, permuted in zip(parameters, orders, permute(network, parameters, orders), strict=True):
        plain = reference.reorder(sequential(network, vector), by_layer(network, order))
        assert torch.equal(permuted, nn.utils.parameters_to_vector(plain.parameters()))


@HIDDEN
def test_the_identity_changes_no_bit(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    parameters = draw(network, 4)
    parameters[1, ::3], parameters[2, ::4] = torch.nan, -0.0
    permuted = permute(network, parameters, identity(network, CPU).repeat(4, 1))
    assert torch.equal(permuted.view(torch.int32), parameters.view(torch.int32))


@HIDDEN
def test_the_opposite_order_undoes_a_permutation(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    parameters, orders = draw(network, 4), draw_permutations(network, 4)
    undone = permute(network, permute(network, parameters, orders), inverse(network, orders))
    assert torch.equal(undone, parameters)


# --- weight matching --------------------------------------------------------------------------------------------------


@HIDDEN
def test_a_network_is_matched_to_itself_by_the_identity(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    parameters = draw(network, 5)
    assert torch.equal(weight_matching(network, parameters, parameters), identity(network, CPU).repeat(5, 1))


@DEPTHS
@pytest.mark.parametrize("noise", [0.0, 1e-2])
def test_a_planted_permutation_is_found(hidden: tuple[int, ...], noise: float) -> None:
    network = make_network(hidden)
    buyers, orders = draw(network, 6), draw_permutations(network, 6)
    disturbed = buyers + noise * torch.randn(buyers.shape, generator=torch.Generator().manual_seed(0))
    found = weight_matching(network, buyers, permute(network, disturbed, orders))
    planted = torch.cat([order.argsort(dim=1) for order in by_layer(network, orders)], dim=1)
    assert torch.equal(found, planted)
    assert not torch.equal(found, identity(network, CPU).repeat(6, 1))


@HIDDEN
def test_weight_matching_equals_the_plain_loop(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    buyers, sellers = draw(network, 8, seed=1), draw(network, 8, seed=2)
    found = weight_matching(network, buyers, sellers)
    assert found.shape == (8, sum(hidden))
    for buyer, seller, order in zip(buyers, sellers, found, strict=True):
        plain = reference.align(sequential(network, buyer), sequential(network, seller))
        assert torch.equal(order, torch.cat([torch.zeros(0, dtype=torch.int64), *plain]))


@HIDDEN
def test_a_match_from_an_earlier_one_equals_the_plain_loop(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    buyers, sellers, start = draw(network, 8, seed=1), draw(network, 8, seed=2), draw_permutations(network, 8)
    sellers[:4] = permute(network, buyers[:4], inverse(network, start[:4]))  # half begin at the best
    found = weight_matching(network, buyers, sellers, start)
    assert torch.equal(found[:4], start[:4])
    for row, (buyer, seller) in enumerate(zip(buyers, sellers, strict=True)):
        plain = reference.align(sequential(network, buyer), sequential(network, seller), by_layer(network, start[row]))
        assert torch.equal(found[row], torch.cat([torch.zeros(0, dtype=torch.int64), *plain]))


@HIDDEN
def test_to_match_the_other_way_round_is_the_inverse(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    one, other = draw(network, 20, seed=1), draw(network, 20, seed=2)
    there, back = weight_matching(network, one, other), weight_matching(network, other, one)
    assert torch.equal(back, inverse(network, there))


def test_matching_one_hidden_layer_finds_the_best_of_all_permutations() -> None:
    network = make_network((5,))
    buyers, sellers = draw(network, 4, seed=1), draw(network, 4, seed=2)
    found = likeness(network, buyers, sellers, weight_matching(network, buyers, sellers))
    every = torch.tensor(list(permutations(range(5))))
    for pair in range(4):
        tried = likeness(network, buyers[pair].expand(120, -1), sellers[pair].expand(120, -1), every)
        assert found[pair].item() == pytest.approx(tried.max().item(), abs=1e-9)
        assert tried.max() > tried[0] + 0.01  # the identity is not it


@DETERMINISTIC
@given(hidden=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 2**62))
def test_the_match_is_never_worse_than_the_identity_or_the_start(hidden: list[int], seed: int) -> None:
    network = make_network(tuple(hidden))
    buyers, sellers, start = draw(network, 3, seed), draw(network, 3, seed + 1), draw_permutations(network, 3, seed)
    found = weight_matching(network, buyers, sellers, start)
    assert all((order.sort(dim=1).values == torch.arange(order.shape[1])).all() for order in by_layer(network, found))
    untouched = likeness(network, buyers, sellers, identity(network, CPU).repeat(3, 1))
    assert (likeness(network, buyers, sellers, found) >= untouched - 1e-9).all()
    assert (likeness(network, buyers, sellers, found) >= likeness(network, buyers, sellers, start) - 1e-9).all()


@DEPTHS
def test_no_exchange_of_two_units_improves_the_match(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    buyers, sellers = draw(network, 4, seed=1), draw(network, 4, seed=2)
    found = weight_matching(network, buyers, sellers)
    best, first = likeness(network, buyers, sellers, found), 0
    for size in hidden:
        for i, j in combinations(range(first, first + size), 2):
            exchanged = found.clone()
            exchanged[:, [i, j]] = found[:, [j, i]]
            assert (likeness(network, buyers, sellers, exchanged) <= best + 1e-9).all()
        first += size


@DEPTHS
def test_a_pair_is_matched_alike_alone_and_as_one_of_several(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    buyers, sellers = draw(network, 7, seed=1), draw(network, 7, seed=2)
    sellers[4] = buyers[4]  # done after one sweep, the others are not
    together = weight_matching(network, buyers, sellers)
    for pair in range(7):
        alone = weight_matching(network, buyers[pair : pair + 1], sellers[pair : pair + 1])
        assert torch.equal(alone[0], together[pair])


def test_no_pairs_are_matched_by_no_permutations() -> None:
    network = make_network((8, 6))
    assert weight_matching(network, draw(network, 0), draw(network, 0)).shape == (0, 14)


def draw_twins(network: MLPNetwork, count: int, seed: int) -> Tensor:
    """Networks in which each odd unit of a layer is a copy of the one before it."""
    twins = [torch.arange(size) // 2 * 2 for size in permutation_sizes(network).values()]
    return permute(network, draw(network, count, seed), torch.cat(twins).expand(count, -1))


def test_units_that_could_as_well_be_exchanged_stay_where_they_are() -> None:
    network = make_network((6, 6, 6))
    parameters = draw_twins(network, 40, seed=1)
    assert torch.equal(weight_matching(network, parameters, parameters), identity(network, CPU).repeat(40, 1))


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6, 1e15])
def test_networks_of_any_scale_with_twin_units_are_matched(scale: float) -> None:
    network = make_network((6, 6, 6))
    buyers, sellers = (scale * draw_twins(network, 40, seed) for seed in (1, 2))
    found = weight_matching(network, buyers, sellers)
    untouched = likeness(network, buyers, sellers, identity(network, CPU).repeat(40, 1))
    assert (likeness(network, buyers, sellers, found) >= untouched - 1e-9 * untouched.abs()).all()


@pytest.mark.skipif(build.library() is None, reason="the C++ kernels cannot be built here")
@pytest.mark.parametrize("hidden", [(1,), (33, 7), (20, 40, 9), (300,)])
def test_compiled_matches_equal_torchs(hidden: tuple[int, ...]) -> None:
    network = make_network(hidden)
    buyers, sellers = draw(network, 5, seed=1), draw(network, 5, seed=2)
    found = []
    for backend in ("torch", "compiled"):
        with forced(backend):
            cold = weight_matching(network, buyers, sellers)
            found += [cold, weight_matching(network, buyers, 0.7 * sellers + 0.3 * buyers, cold)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


@pytest.mark.skipif(build.library() is None, reason="the C++ kernels cannot be built here")
def test_compiled_matches_do_not_depend_on_the_number_of_threads() -> None:
    network = make_network((20, 9))
    buyers, sellers = draw(network, 9, seed=1), draw(network, 9, seed=2)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        with forced("compiled"):
            found.append(weight_matching(network, buyers, sellers))
    torch.set_num_threads(1)
    assert torch.equal(*found)


def test_networks_that_are_not_finite_are_refused() -> None:
    network = make_network((8, 6))
    buyers, sellers = draw(network, 3, seed=1), draw(network, 3, seed=2)
    sellers[1, 5] = torch.nan
    with pytest.raises(ValueError, match=r"not finite|invalid numeric entries"):
        weight_matching(network, buyers, sellers)


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_an_ascent_begins_at_permutations_of_any_integer_type(backend: str, dtype: torch.dtype) -> None:
    network = MLPNetwork((6,), 3, (5, 4))
    buyers, sellers = initial_parameters(network, stream(torch.tensor([[1], [2]]), "network", torch.arange(7)))
    with forced(backend):
        start = weight_matching(network, buyers, sellers)
        assert torch.equal(weight_matching(network, buyers, sellers, start.to(dtype)), start)
        assert torch.equal(permute(network, sellers, start.to(dtype)), permute(network, sellers, start))
