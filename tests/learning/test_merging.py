"""Parameter sets and merges, held against a loop over state dicts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks import reference
from paramarket_env.learning.merging import interpolate
from paramarket_env.learning.networks.mlp import MLPNetwork
from paramarket_env.learning.networks.network import initial_parameters, parameter_count, split
from paramarket_env.learning.parameter_sets import PARAMETER_SETS, parameter_sets
from paramarket_env.seeding import stream

NETWORK = MLPNetwork((4,), 3, (6, 5))
TENSORS = [spec.name for spec in NETWORK.parameters]


def goods(rule: str) -> dict[str, Tensor]:
    """The masks of a rule's parameter sets by name."""
    sets = parameter_sets(PARAMETER_SETS.parse(rule), NETWORK, torch.device("cpu"))
    return dict(zip(sets.names, sets.masks, strict=True))


def pair() -> tuple[Tensor, Tensor]:
    """A buyer and a seller."""
    buyer, seller = initial_parameters(NETWORK, stream(torch.tensor(0), "network", torch.arange(2)))
    return buyer, seller


def tensors_of(mask: Tensor) -> set[str]:
    """The tensors that a mask holds; each as a whole."""
    parts = split(NETWORK, mask)
    assert all(part.all() or not part.any() for part in parts.values())
    return {name for name, part in parts.items() if part.all()}


# --- parameter sets ---------------------------------------------------------------------------------------------------


def test_full_is_the_whole_network() -> None:
    sets = goods("full")
    assert list(sets) == ["full"]
    assert sets["full"].dtype == torch.bool
    assert sets["full"].shape == (parameter_count(NETWORK),)
    assert sets["full"].all()


def test_layers_are_sold_one_by_one_with_their_biases() -> None:
    sets = goods("layers")
    assert {name: tensors_of(mask) for name, mask in sets.items()} == {
        "layer1": {"layer1.weight", "layer1.bias"},
        "layer2": {"layer2.weight", "layer2.bias"},
        "layer3": {"layer3.weight", "layer3.bias"},
    }
    assert list(sets) == ["layer1", "layer2", "layer3"]


def test_prefixes_are_the_first_layers() -> None:
    sets = goods("prefixes")
    assert list(sets) == ["to_layer1", "to_layer2", "to_layer3"]
    assert [tensors_of(mask) for mask in sets.values()] == [set(TENSORS[:2]), set(TENSORS[:4]), set(TENSORS)]


@pytest.mark.parametrize(
    ("rule", "name", "tensors"),
    [
        ("span(first=0, last=0)", "layer1", TENSORS[:2]),
        ("span(last=1)", "layer1_to_layer2", TENSORS[:4]),
        ("span:1", "layer2_to_layer3", TENSORS[2:]),
        ("span", "layer1_to_layer3", TENSORS),
    ],
)
def test_a_span_has_consecutive_layers(rule: str, name: str, tensors: list[str]) -> None:
    assert {name: set(tensors)} == {good: tensors_of(mask) for good, mask in goods(rule).items()}


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("span(first=2, last=1)", r"span.last=1 is not allowed: it must be None, or at least first=2"),
        ("span(last=3)", r"broker.parameter_sets=Span\(first=0, last=3\) is not allowed: .* the network's 3 layers"),
        ("span:3", r"broker.parameter_sets=Span\(first=3, last=None\) is not allowed"),
    ],
)
def test_a_span_outside_of_the_network_is_refused(rule: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        goods(rule)


def test_an_unknown_rule_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown parameter set rule 'halves': choose from full, layers, prefixes"):
        goods("halves")


# --- merges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["full", "layers", "prefixes"])
@pytest.mark.parametrize("weight", [0.05, 0.3, 0.5, 0.95])
def test_a_merge_equals_a_loop_over_the_state_dicts(rule: str, weight: float) -> None:
    buyer, seller = pair()
    modules = [NETWORK.module(buyer), NETWORK.module(seller)]
    mine, theirs = (module for module in modules if isinstance(module, nn.Sequential))
    names = dict(zip(TENSORS, mine.state_dict(), strict=True))
    for mask in goods(rule).values():
        plain = copy.deepcopy(theirs)
        reference.merge(mine, theirs, weight, plain, [names[tensor] for tensor in tensors_of(mask)])
        expected = nn.utils.parameters_to_vector(plain.parameters())
        torch.testing.assert_close(interpolate(buyer, seller, weight * mask), expected.detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("rule", ["full", "layers", "prefixes"])
def test_weight_one_gives_the_sellers_set_and_the_buyers_rest_to_the_bit(rule: str) -> None:
    buyer, seller = pair()
    for mask in goods(rule).values():
        merged = interpolate(buyer, seller, 1.0 * mask)
        assert torch.equal(merged[mask], seller[mask])
        assert torch.equal(merged[~mask], buyer[~mask])


def test_weight_zero_gives_the_buyer_to_the_bit() -> None:
    buyer, seller = pair()
    buyer[::3] = -0.0
    merged = interpolate(buyer, seller, torch.zeros(parameter_count(NETWORK)))
    assert torch.equal(merged.view(torch.int32), buyer.view(torch.int32))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_what_is_not_finite_outside_the_set_does_not_leak(poison: float, weight: float) -> None:
    buyer, seller = pair()
    mask = goods("layers")["layer2"]
    poisoned = seller.masked_fill(~mask, poison)
    assert torch.equal(interpolate(buyer, poisoned, weight * mask), interpolate(buyer, seller, weight * mask))


def test_what_is_not_finite_inside_the_set_is_not_hidden() -> None:
    buyer, seller = pair()
    seller[3] = torch.nan
    assert interpolate(buyer, seller, torch.full_like(buyer, 0.5)).isnan().nonzero().tolist() == [[3]]


def test_merges_of_many_pairs_weights_and_sets_are_those_of_each() -> None:
    (buyer, seller), masks = pair(), torch.stack(list(goods("prefixes").values()))
    buyers, sellers = torch.stack([buyer, seller]), torch.stack([seller, buyer])
    weights = torch.tensor([0.2, 0.7])[:, None] * masks[:, None]
    merged = interpolate(buyers[:, None, None], sellers[:, None, None], weights)
    assert merged.shape == (2, 3, 2, parameter_count(NETWORK))
    for row in range(2):
        for good in range(3):
            for tried in range(2):
                one = interpolate(buyers[row], sellers[row], weights[good, tried])
                assert torch.equal(merged[row, good, tried], one)


def test_a_merge_leaves_its_arguments_as_they_were() -> None:
    (buyer, seller), (mine, theirs) = pair(), pair()
    interpolate(buyer, seller, torch.full_like(buyer, 0.5))
    assert torch.equal(buyer, mine)
    assert torch.equal(seller, theirs)
