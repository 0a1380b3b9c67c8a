"""The broker against a plain one: align, try, quote, deliver, in loops and with ordinary modules."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_env.interface.batch import MarketBatch
from paramarket_env.learning import merging, trials
from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.alignment.weight_matching import WeightMatching, weight_matching
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.networks.mlp import MLP
from paramarket_env.learning.networks.network import Network, split
from paramarket_env.learning.parameter_sets import parameter_sets
from paramarket_env.learning.trials import Groups, Pairs, try_merges
from paramarket_env.market import broker
from paramarket_env.market.engine import Engine
from paramarket_env.market.snapshot import snapshot
from tests.helpers import CPU, module_loss, new_engine, orders, priced_market, random_orders, tiny_market

RULES = ("full", "layers", "prefixes")


def merged(engine: Engine, buyer: Tensor, seller: Tensor, match: Tensor, good: str, weight: float) -> Tensor:
    """The merge of a buyer ``[P]`` with a seller ``[P]``: explicit alignment, then interpolation on the parameter set.

    ``match`` ``[H]`` is the one that the broker holds: a match from there finds nothing better.
    """
    network, config = engine.network, engine.config.broker
    if isinstance(config.aligner, WeightMatching):
        seller = permute(network, seller[None], weight_matching(network, buyer[None], seller[None], match[None]))[0]
    mask = parameter_sets(config.parameter_sets, network, CPU).masks[engine.broker.goods.names.index(good)]
    return torch.where(mask, torch.lerp(buyer, seller, torch.tensor(weight)), buyer)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[set[tuple[int, int, int]]]:
    """The couples of every trial from now on (``couples_of``); markets count among those that it looks at."""
    calls: list[set[tuple[int, int, int]]] = []

    def counting(network: Network, groups: Groups, pairs: Pairs, weights: Tensor) -> Tensor:
        triples = zip(pairs.group.tolist(), pairs.buyer.tolist(), pairs.seller.tolist(), strict=True)
        calls.append({(group, min(pair), max(pair)) for group, *pair in triples})
        return try_merges(network, groups, pairs, weights)

    monkeypatch.setattr(merging, "try_merges", counting)
    return calls


def couples_of(*couples: tuple[int, int]) -> set[tuple[int, int, int]]:
    """Couples of the first market: each is the other's buyer, in one trial."""
    return {(0, first, second) for first, second in couples}


# --- what is quoted and what is delivered ---------------------------------------------------------------------------


@pytest.mark.parametrize("aligner", ["weight-matching", "none"])
@pytest.mark.parametrize("rule", RULES)
def test_a_quote_is_the_best_of_the_grid_tried_in_a_loop_with_ordinary_modules(rule: str, aligner: str) -> None:
    engine = new_engine(tiny_market(parameter_sets=rule, aligner=aligner, architecture=MLP(hidden=(8, 6))))
    engine.step(orders(engine, train=(0, 1)))
    state, grid = engine.state, engine.config.broker.merger.weights
    validation = state.partition.validation[0, 0]
    for buyer, seller in ((0, 1), (1, 0)):
        networks = (*state.parameters[0, [buyer, seller]], state.quotes.permutations[0, buyer, 0])
        for number, good in enumerate(engine.broker.goods.names):
            tried = [module_loss(engine, merged(engine, *networks, good, weight), validation) for weight in grid]
            best = min(range(len(grid)), key=tried.__getitem__)
            assert float(engine.broker.weights(state)[0, buyer, 0, number]) == pytest.approx(grid[best])
            assert float(state.quotes.loss[0, buyer, 0, number]) == pytest.approx(tried[best], rel=1e-5)


def test_the_best_weight_is_not_always_the_same() -> None:
    quotes = new_engine(tiny_market(parameter_sets="layers"), range(5)).state.quotes
    assert len(quotes.candidate.unique()) == 3


@pytest.mark.parametrize("aligner", ["weight-matching", "none"])
@pytest.mark.parametrize("rule", RULES)
def test_the_purchased_network_is_the_explicit_merge_of_the_networks_before_the_step(rule: str, aligner: str) -> None:
    engine = new_engine(tiny_market(agents=3, parameter_sets=rule, aligner=aligner, architecture=MLP(hidden=(8, 6))))
    engine.step(orders(engine, train=(0, 2)))
    before = engine.state.parameters[0].clone()
    goods = engine.broker.goods.names
    offer = len(goods) + 1 if len(goods) > 1 else 1  # of agent 1: the second seller is agent 2
    quoted = float(engine.state.quotes.loss[0, 1].flatten()[offer])
    match = engine.state.quotes.permutations[0, 1, 1].clone()
    record = engine.step(orders(engine, buy={1: offer}, train=(2,)))
    assert record.seller.tolist() == [[-1, 2, -1]]
    expected = merged(engine, before[1], before[2], match, goods[offer % len(goods)], float(record.weight[0, 1]))
    assert torch.equal(engine.state.parameters[0, 1], expected)
    assert not torch.equal(expected, before[1])
    assert float(engine.state.loss[0, 1]) == pytest.approx(quoted, rel=1e-6)
    assert float(record.gain[0, 1]) == pytest.approx(module_loss_before(engine, before[1]) - quoted, rel=1e-3)


def module_loss_before(engine: Engine, parameters: Tensor) -> float:
    return module_loss(engine, parameters, engine.state.partition.validation[0, 0])


def test_outside_the_parameter_set_the_buyer_keeps_its_parameters_to_the_bit() -> None:
    engine = new_engine(tiny_market(parameter_sets="layers"))
    before = split(engine.network, engine.state.parameters[0, 0].clone())
    engine.step(orders(engine, buy={0: engine.broker.goods.names.index("layer2")}))
    after = split(engine.network, engine.state.parameters[0, 0])
    assert {name: torch.equal(after[name], before[name]) for name in before} == {
        "layer1.weight": True,
        "layer1.bias": True,
        "layer2.weight": False,
        "layer2.bias": False,
    }


def test_a_seller_with_shuffled_units_is_worth_as_much_as_itself_where_the_broker_aligns() -> None:
    for aligner in ("weight-matching", "none"):
        engine = new_engine(tiny_market(aligner=aligner, merger=Linear(weights=(0.5,))))
        engine.step(orders(engine, train=(0, 1)))
        buyer = engine.state.parameters[0, 0]
        shuffled = permute(engine.network, buyer[None], torch.arange(8).flip(0)[None])[0]
        engine.overwrite(torch.stack([buyer, shuffled])[None])
        assert (abs(float(engine.gains[0, 0, 0])) < 1e-6) == (aligner != "none")


def test_gains_are_the_buyers_loss_less_the_quoted_loss() -> None:
    engine = new_engine(tiny_market(agents=3, parameter_sets="layers"), [0, 1])
    state = engine.state
    for market in range(2):
        for buyer in range(3):
            quoted = state.quotes.loss[market, buyer].flatten()
            assert torch.equal(engine.gains[market, buyer], state.loss[market, buyer] - quoted)


def test_networks_that_are_alike_are_quoted_no_gain_at_all() -> None:
    engine = new_engine(tiny_market(architecture=MLP(hidden=(8, 6))), range(6))
    engine.step(orders(engine, train=(0, 1)))
    assert bool((engine.gains != 0).all())
    one = engine.state.parameters[:, 0]
    other_order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4, 5, 4, 3, 0, 1, 2]).expand(6, -1)
    engine.overwrite(torch.stack([one, permute(engine.network, one, other_order)], dim=1))
    assert bool((engine.gains == 0).all())
    assert bool(engine.legal_purchases.all())


def test_offers_are_numbered_seller_by_seller_and_set_by_set() -> None:
    engine = new_engine(tiny_market(agents=3, parameter_sets="layers"), seeds=(0, 1))
    assert engine.broker.goods.names == ("layer1", "layer2")
    assert engine.state.meetings.partners.tolist() == [[[1, 2], [0, 2], [0, 1]]] * 2
    assert engine.offers == 4
    offers = torch.tensor([[2, 1, -1], [0, 3, 3]])
    assert engine.broker.seller_of(engine.state, offers).tolist() == [[2, 0, -1], [1, 2, 1]]


# --- when quotes are made -------------------------------------------------------------------------------------------


def test_only_couples_of_which_a_network_changed_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine(priced_market())
    calls = counted(monkeypatch)
    engine.step(orders(engine, ask={0: 2}))
    assert calls == []
    engine.step(orders(engine, train=(2,)))
    assert calls.pop() == couples_of((0, 2), (1, 2))
    engine.step(orders(engine, buy={0: 0}))
    assert calls.pop() == couples_of((0, 1), (0, 2))
    engine.step(orders(engine, train=(0, 1, 2)))
    assert len(calls.pop()) == 3
    assert calls == []


def test_a_refused_purchase_makes_no_quote_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine(priced_market(budget=0))
    calls = counted(monkeypatch)
    record = engine.step(orders(engine, buy={0: 0}))
    assert int(record.refusal[0, 0]) >= 0
    assert calls == []


def test_a_reset_tries_all_couples_of_the_markets_that_begin_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine(tiny_market(), [0, 1, 2])
    calls = counted(monkeypatch)
    engine.reset(torch.tensor([9]), torch.tensor([1]))
    assert calls == [couples_of((0, 1))]


@pytest.mark.parametrize("changes", [{}, {"opens_at": 1, "trade_every": 2}])
def test_kept_quotes_equal_quotes_from_scratch(changes: dict[str, int]) -> None:
    engine, rng = new_engine(priced_market(**changes, max_cycles=9), [0, 1]), np.random.default_rng(5)
    compared = 0
    for _ in range(8):
        engine.step(random_orders(engine, rng))
        fresh = snapshot(engine.state)
        fresh.quotes = engine.broker.no_quotes(2)
        fresh.quotes.permutations = engine.state.quotes.permutations.clone()  # where the next match begins
        engine.broker.evaluate_and_quote(fresh, torch.ones_like(fresh.changed), engine.market_open)
        if bool(engine.market_open.all()):
            compared += 1
            torch.testing.assert_close(engine.state.quotes.loss, fresh.quotes.loss, rtol=1e-6, atol=0)
            assert torch.equal(engine.state.quotes.candidate, fresh.quotes.candidate)
            assert torch.equal(engine.state.quotes.permutations, fresh.quotes.permutations)
    assert compared == (4 if changes else 8)


@pytest.mark.parametrize("module", [broker, trials])
def test_many_pairs_are_tried_in_parts_with_the_same_result(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = new_engine(priced_market(), [0, 1]).state.quotes
    calls = counted(monkeypatch)
    monkeypatch.setattr(module, "chunk_elements", lambda device: 150)
    parts = new_engine(priced_market(), [0, 1]).state.quotes
    assert len(calls) == (6 if module is broker else 1)  # couples: two markets, three each
    torch.testing.assert_close(parts.loss, whole.loss, rtol=1e-6, atol=0)
    assert torch.equal(parts.candidate, whole.candidate)


def test_purchases_clear_from_the_opening_on_every_so_many_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    engine = new_engine(tiny_market(opens_at=4, trade_every=3, max_cycles=9))
    was_open, bought, quoted = [], [], []
    for _ in range(9):
        was_open.append(bool(engine.market_open))
        assert bool(engine.legal_purchases.any()) == bool(engine.gains.isfinite().any()) == was_open[-1]
        quoted.append(bool(calls))
        calls.clear()
        record = engine.step(orders(engine, buy={0: 0}, train=(1,)))
        bought.append(record.seller[0, 0] >= 0)
    expected = [cycle in (4, 7) for cycle in range(9)]  # not at 1, three cycles before the opening
    assert was_open == bought == quoted == expected
    assert engine.state.refusals[0].tolist() == [[7, 0, 0, 0, 0, 0], [0] * 6]


def test_networks_that_changed_while_the_market_was_closed_are_quoted_when_it_opens() -> None:
    closed, always = (new_engine(tiny_market(**changes)) for changes in ({"opens_at": 3}, {}))
    for engine in (closed, always):
        for trains in ((0,), (1,), ()):
            engine.step(orders(engine, train=trains))
    torch.testing.assert_close(closed.gains, always.gains, rtol=1e-6, atol=1e-9)


# --- what is never quoted -------------------------------------------------------------------------------------------


def overflowing(engine: Engine) -> Tensor:
    """Networks ``[M, 2, P]`` with finite losses of which every merge overflows, with weights of 0.5 and more."""
    networks = torch.zeros_like(engine.state.parameters)
    buyer, seller = (split(engine.network, networks[:, agent]) for agent in (0, 1))
    seller["layer1.weight"].fill_(1e30)
    buyer["layer2.weight"].fill_(1e30)
    buyer["layer2.weight"][:, 0] = -1e30
    return networks


def test_observations_are_not_nan_if_derivatives_overflow() -> None:
    batch = MarketBatch(tiny_market(disclosure="bounds", merger=Linear(weights=(0.5, 1.0))), 1, "cpu")
    batch.reset(torch.tensor([0]))
    batch.engine.overwrite(overflowing(batch.engine))
    assert not bool(batch.observe().isnan().any())


def test_a_merge_that_is_not_finite_is_never_quoted() -> None:
    engine = new_engine(tiny_market())
    engine.overwrite(overflowing(engine))
    assert bool(engine.state.alive.all())
    assert not bool(engine.gains.isfinite().any())
    assert not bool(engine.legal_purchases.any())
    before = engine.state.parameters.clone()
    record = engine.step(orders(engine, buy={0: 0, 1: 0}))
    assert record.refusal.tolist() == [[1, 1]]
    assert torch.equal(engine.state.parameters, before)


def test_of_a_grid_that_is_finite_in_part_the_best_finite_weight_is_quoted() -> None:
    engine = new_engine(tiny_market(merger=Linear(weights=(0.5, 1.0))))
    engine.overwrite(overflowing(engine))
    assert engine.broker.weights(engine.state).flatten().tolist() == [1.0, 1.0]
    assert bool(engine.gains.isfinite().all())


def test_a_terminated_agent_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine(tiny_market(agents=3))
    engine.state.parameters[0, 1] = torch.nan
    engine.step(orders(engine, train=(0, 1, 2)))
    assert engine.state.alive.tolist() == [[True, False, True]]
    calls = counted(monkeypatch)
    engine.step(orders(engine, train=(0, 1, 2)))
    assert calls == [couples_of((0, 2))]
    assert not bool(engine.state.quotes.loss[0, 1].isfinite().any())
