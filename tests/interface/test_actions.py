"""Two encodings of the same orders, and masks that mean what they say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.economics.clearing import MECHANISMS, REFUSALS
from paramarket_env.interface.actions import (
    Actions,
    Choices,
    RoundActions,
    VerbActions,
    build_actions,
    client_mask,
    mask_info,
)
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.market.orders import Orders, no_orders
from tests import plain
from tests.helpers import CPU, frozen, orders, priced_market, random_action

MODES = ("verb", "round")
POSTED = Choices(offers=4, bids=1, ask_slots=1, levels=3)
AUCTION = Choices(offers=2, bids=3, ask_slots=1, levels=4)
PERSONAL = Choices(offers=3, bids=1, ask_slots=2, levels=2)
BOTH = Choices(offers=2, bids=2, ask_slots=3, levels=2)
OF = pytest.mark.parametrize("of", [POSTED, AUCTION, PERSONAL, BOTH], ids=["posted", "auction", "personal", "both"])


def said(train: bool, offer: int, bid: int, ask: tuple[int, ...]) -> Orders:
    return Orders(torch.tensor([train]), torch.tensor([offer]), torch.tensor([bid]), torch.tensor([ask]))


def parts(orders: Orders) -> tuple[bool, int, int, tuple[int, ...]]:
    return bool(orders.train), int(orders.offer), int(orders.bid), tuple(orders.ask[0].tolist())


def every_action(mode: Any, of: Choices = POSTED) -> Tensor:
    if mode == "verb":
        return torch.arange(2 + of.offers * of.bids + of.ask_slots * of.levels)
    asks = [torch.arange(1 + of.levels)] * of.ask_slots
    return torch.cartesian_prod(torch.arange(2), torch.arange(1 + of.offers * of.bids), *asks)


def played(mode: Any, num_markets: int = 3, **changes: Any) -> MarketBatch:
    config = priced_market(**{"action_mode": mode, "budget": 20, "max_cycles": 8} | changes)
    batch = MarketBatch(config, num_markets, device="cpu")
    batch.reset(torch.arange(num_markets))
    return batch


def some_actions(batch: MarketBatch, rng: np.random.Generator) -> Tensor:
    space, markets, agents = batch.actions.space(), range(batch.num_markets), range(batch.config.agents)
    return torch.from_numpy(np.array([[random_action(space, rng) for _ in agents] for _ in markets]))


# --- the two encodings ----------------------------------------------------------------------------------------------


@OF
@pytest.mark.parametrize("mode", MODES)
def test_encoding_what_an_action_decodes_to_gives_the_action(mode: Any, of: Choices) -> None:
    actions, numbers = build_actions(mode, of), every_action(mode, of)
    assert torch.equal(actions.encode(actions.decode(numbers)), numbers)


@OF
@pytest.mark.parametrize("mode", MODES)
def test_different_actions_say_different_orders_and_all_are_in_the_space(mode: Any, of: Choices) -> None:
    actions, numbers = build_actions(mode, of), every_action(mode, of)
    decoded = actions.decode(numbers)
    columns = (decoded.train.tolist(), decoded.offer.tolist(), decoded.bid.tolist(), map(tuple, decoded.ask.tolist()))
    different = set(zip(*columns, strict=True))
    space = actions.space()
    size = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.nvec))
    assert len(different) == len(numbers) == size
    assert all(space.contains(number.numpy().astype(space.dtype)) for number in numbers)
    assert decoded.ask.shape == (len(numbers), of.ask_slots)
    for column, high in ((decoded.offer, of.offers), (decoded.ask, of.levels)):
        assert (int(column.min()), int(column.max())) == (-1, high - 1)
    assert (int(decoded.bid.min()), int(decoded.bid.max())) == (0, of.bids - 1)


@pytest.mark.parametrize(
    ("of", "action", "expected"),
    [
        (POSTED, 0, (False, -1, 0, (-1,))),
        (POSTED, 1, (True, -1, 0, (-1,))),
        (POSTED, 2, (False, 0, 0, (-1,))),
        (POSTED, 5, (False, 3, 0, (-1,))),
        (POSTED, 6, (False, -1, 0, (0,))),
        (POSTED, 8, (False, -1, 0, (2,))),
        (AUCTION, 2, (False, 0, 0, (-1,))),  # two offers, each at three bids
        (AUCTION, 4, (False, 0, 2, (-1,))),
        (AUCTION, 5, (False, 1, 0, (-1,))),
        (AUCTION, 8, (False, -1, 0, (0,))),
        (PERSONAL, 5, (False, -1, 0, (0, -1))),  # two levels for the first, then for the second
        (PERSONAL, 8, (False, -1, 0, (-1, 1))),
    ],
)
def test_a_verb_is_to_hold_to_train_an_offer_or_an_ask_in_this_order(
    of: Choices, action: int, expected: tuple[Any, ...]
) -> None:
    assert parts(VerbActions(of).decode(torch.tensor([action]))) == expected


@pytest.mark.parametrize(
    ("of", "action", "expected"),
    [
        (POSTED, (0, 0, 0), (False, -1, 0, (-1,))),
        (POSTED, (1, 4, 3), (True, 3, 0, (2,))),
        (POSTED, (0, 1, 0), (False, 0, 0, (-1,))),
        (POSTED, (0, 0, 1), (False, -1, 0, (0,))),
        (AUCTION, (1, 6, 0), (True, 1, 2, (-1,))),
        (AUCTION, (0, 2, 4), (False, 0, 1, (3,))),
        (PERSONAL, (0, 3, 0, 2), (False, 2, 0, (-1, 1))),
        (PERSONAL, (1, 0, 1, 2), (True, -1, 0, (0, 1))),
    ],
)
def test_a_round_is_to_train_an_offer_and_an_ask_at_once(
    of: Choices, action: tuple[int, ...], expected: tuple[Any, ...]
) -> None:
    assert parts(RoundActions(of).decode(torch.tensor([action]))) == expected


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ((True, 1, 2), (False, 1, -1)),
        ((False, 1, 2), (False, 1, -1)),
        ((True, 1, -1), (False, 1, -1)),
        ((True, -1, 2), (False, -1, 2)),
        ((True, -1, -1), (True, -1, -1)),
        ((False, -1, -1), (False, -1, -1)),
    ],
)
def test_of_several_orders_a_verb_says_the_purchase_else_the_ask_else_the_training(
    orders: tuple[bool, int, int], expected: tuple[bool, int, int]
) -> None:
    (train, offer, ask), (does, buys, posts) = orders, expected
    verbs, bids = VerbActions(POSTED), VerbActions(AUCTION)
    assert parts(verbs.decode(verbs.encode(said(train, offer, 0, (ask,))))) == (does, buys, 0, (posts,))
    bid = 2 if buys >= 0 else 0
    assert parts(bids.decode(bids.encode(said(train, offer, bid, (ask,))))) == (does, buys, bid, (posts,))


@pytest.mark.parametrize(("asks", "expected"), [((1, 0), (1, -1)), ((-1, 0), (-1, 0)), ((1, -1), (1, -1))])
def test_of_several_asks_a_verb_says_the_first(asks: tuple[int, ...], expected: tuple[int, ...]) -> None:
    verbs = VerbActions(PERSONAL)
    assert parts(verbs.decode(verbs.encode(said(True, -1, 0, asks)))) == (False, -1, 0, expected)


@OF
def test_a_round_says_all_orders(of: Choices) -> None:
    actions = RoundActions(of)
    purchases = [(-1, 0), *product(range(of.offers), range(of.bids))]
    asks = product(range(-1, of.levels), repeat=of.ask_slots)
    for train, purchase, ask in product((False, True), purchases, asks):
        assert parts(actions.decode(actions.encode(said(train, *purchase, ask)))) == (train, *purchase, ask)


@OF
@pytest.mark.parametrize("mode", MODES)
def test_the_bid_of_who_buys_nothing_is_not_said(mode: Any, of: Choices) -> None:
    actions = build_actions(mode, of)
    asks = (0,) * of.ask_slots
    assert torch.equal(*(actions.encode(said(False, -1, bid, asks)) for bid in (0, of.bids)))


@OF
@pytest.mark.parametrize("mode", MODES)
def test_any_batch_shape_is_decoded(mode: Any, of: Choices) -> None:
    actions, numbers = build_actions(mode, of), every_action(mode, of)[-8:]
    nested, flat = actions.decode(numbers.view(2, 4, *numbers.shape[1:])), actions.decode(numbers)
    assert (nested.offer.shape, nested.ask.shape) == ((2, 4), (2, 4, of.ask_slots))
    for name in ("train", "offer", "bid"):
        assert torch.equal(getattr(nested, name).flatten(), getattr(flat, name)), name
    assert torch.equal(nested.ask.flatten(0, 1), flat.ask)
    assert torch.equal(actions.encode(nested), numbers.view(2, 4, *numbers.shape[1:]))


@pytest.mark.parametrize(
    ("mode", "of", "action", "allowed"),
    [
        ("verb", POSTED, -1, "from 0 to 8"),
        ("verb", POSTED, 9, "from 0 to 8"),
        ("verb", AUCTION, 12, "from 0 to 11"),
        ("verb", PERSONAL, 9, "from 0 to 8"),
        ("round", POSTED, [2, 0, 0], r"below \[2, 5, 4\]"),
        ("round", POSTED, [0, 5, 0], r"below \[2, 5, 4\]"),
        ("round", POSTED, [0, 0, 4], r"below \[2, 5, 4\]"),
        ("round", POSTED, [0, -1, 0], r"below \[2, 5, 4\]"),
        ("round", AUCTION, [0, 7, 0], r"below \[2, 7, 5\]"),
        ("round", PERSONAL, [0, 0, 0, 3], r"below \[2, 4, 3, 3\]"),
    ],
)
def test_an_action_outside_the_space_is_refused_with_its_place_and_what_is_allowed(
    mode: Any, of: Choices, action: Any, allowed: str
) -> None:
    fine = every_action(mode, of)[0].tolist()
    with pytest.raises(ValueError, match=rf"index \[0, 1\].*{allowed}"):
        build_actions(mode, of).decode(torch.tensor([[fine, action, fine]]))


@pytest.mark.parametrize("mode", MODES)
def test_the_best_action_has_the_highest_score_of_each_choice(mode: Any) -> None:
    actions = build_actions(mode, POSTED)
    scores = torch.zeros(2, actions.mask_size)
    if mode == "verb":
        scores[0, 7], scores[1, 1] = 1.0, 1.0
        assert actions.best(scores).tolist() == [7, 1]
    else:
        scores[0, [1, 2 + 4, 7 + 3]], scores[1, [0, 2, 7 + 1]] = 1.0, 1.0
        assert actions.best(scores).tolist() == [[1, 4, 3], [0, 0, 1]]


# --- a batch refuses before anything changes ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_refuses_a_bad_action_before_anything_changes(mode: Any) -> None:
    batch = played(mode)
    good = batch.actions.encode(orders(batch.engine, train=(0, 1, 2)))
    before = frozen(batch.engine.state)
    bad = good.clone()
    bad[2, 1] = batch.actions.mask_size
    with pytest.raises(ValueError, match=r"index \[2, 1\]"):
        batch.step(bad)
    for wrong in (good[:2], good[:, :2], good[..., None], torch.zeros(3, 3, 2, dtype=torch.int64), good.flatten()):
        with pytest.raises(ValueError, match="shape"):
            batch.step(wrong)
    assert frozen(batch.engine.state) == before
    batch.step(good)
    assert frozen(batch.engine.state) != before


# --- masks ----------------------------------------------------------------------------------------------------------


def test_a_verb_mask_is_hold_train_the_legal_purchases_and_all_asks() -> None:
    actions, legal = VerbActions(POSTED), torch.tensor([[[True], [False], [False], [True]]])
    mask = actions.mask(legal)
    assert mask.int().tolist() == [[1, 1, 1, 0, 0, 1, 1, 1, 1]]
    assert torch.equal(actions.legal_purchases(mask), legal)


def test_a_round_mask_is_training_buying_and_asking_one_behind_the_other() -> None:
    actions, legal = RoundActions(POSTED), torch.tensor([[[True], [False], [False], [True]]])
    mask = actions.mask(legal)
    assert mask.int().tolist() == [[*(1, 1), *(1, 1, 0, 0, 1), *(1, 1, 1, 1)]]
    assert torch.equal(actions.legal_purchases(mask), legal)


@OF
@pytest.mark.parametrize("mode", MODES)
def test_a_mask_forbids_the_actions_whose_purchase_is_not_legal_and_no_other(mode: Any, of: Choices) -> None:
    actions, numbers = build_actions(mode, of), every_action(mode, of)
    legal = torch.rand(of.offers, of.bids, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = actions.mask(legal)
    assert mask.shape == (actions.mask_size,)
    assert torch.equal(actions.legal_purchases(mask), legal)
    decoded = actions.decode(numbers)
    expected = (decoded.offer < 0) | legal[decoded.offer.clamp_min(0), decoded.bid]
    starts = [sum(actions.nvec[:part]) for part in range(len(actions.nvec))]
    chosen = numbers.view(len(numbers), -1) + torch.tensor(starts)
    assert torch.equal(mask[chosen].all(1), expected)
    assert 0 < int(expected.sum()) < len(numbers)


@OF
@pytest.mark.parametrize("mode", MODES)
def test_to_hold_is_always_legal(mode: Any, of: Choices) -> None:
    actions: Actions = build_actions(mode, of)
    mask = actions.mask(torch.zeros(2, 3, of.offers, of.bids, dtype=torch.bool))
    assert mask.shape == (2, 3, actions.mask_size)
    scores = torch.zeros(mask.shape).masked_fill(~mask, -1.0)
    held = actions.decode(actions.best(scores))
    assert not bool(held.train.any() | (held.offer >= 0).any() | (held.ask >= 0).any())


# What the mask may allow although it is refused then, as what the others asked or bid is not seen.
UNFORESEEN = {"double-auction": "underbid", "second-price": "outbid"}
MARKETS: list[dict[str, Any]] = [{}, {"opens_at": 1, "trade_every": 2}, {"parameter_sets": "layers"}]


@pytest.mark.parametrize("changes", MARKETS, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_purchase_is_refused_exactly_where_the_mask_forbids_it(
    mechanism: str, mode: Any, changes: dict[str, Any]
) -> None:
    markets = 9
    batch = played(mode, markets, mechanism=mechanism, budget=30, max_cycles=14, **changes)
    rng = np.random.default_rng(0)
    seen: set[Any] = set()
    batch.engine.state.parameters[2, 1] = torch.nan
    train = torch.zeros(markets, 3, dtype=torch.bool)
    train[2, 1] = True  # and so it leaves
    batch.engine.step(replace(no_orders(markets, 3, batch.engine.exchange.ask_slots, CPU), train=train))
    for _ in range(13):
        chosen = some_actions(batch, rng)
        orders, alive = batch.actions.decode(chosen), batch.engine.state.alive.clone()
        legal = batch.actions.legal_purchases(batch.mask())
        market, agent = torch.meshgrid(torch.arange(markets), torch.arange(3), indexing="ij")
        allowed = legal[market, agent, orders.offer.clamp_min(0), orders.bid]
        record = batch.step(chosen).record
        wanted = (orders.offer >= 0) & alive
        unforeseen = record.refusal == (REFUSALS.index(UNFORESEEN[mechanism]) if mechanism in UNFORESEEN else 99)
        assert torch.equal((record.refusal >= 0) & ~unforeseen, wanted & ~allowed)
        assert torch.equal(record.seller >= 0, wanted & allowed & ~unforeseen)
        names = (REFUSALS[code] for code in record.refusal.flatten().tolist() if code >= 0)
        seen |= {*names, bool((record.seller >= 0).any())}
    assert {True, "unaffordable"} <= seen
    assert (UNFORESEEN.get(mechanism) in seen) == (mechanism in UNFORESEEN)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_is_said_in_a_round_is_what_the_engine_does(mechanism: str) -> None:
    """Bids and asks reach the offers and the buyers that they name."""
    batch, twin = (played("round", mechanism=mechanism, budget=1000) for _ in range(2))
    slots = batch.engine.exchange.ask_slots
    asks = {0: [2, 1][:slots], 2: [0, 3][:slots]}
    bid = {0: 3, 1: 1} if mechanism in plain.BIDS else {}
    chosen = orders(batch.engine, train=(1,), buy={0: 1, 1: 0}, ask=asks, bid=bid)
    record = batch.step(batch.actions.encode(chosen)).record
    twin.engine.step(chosen)
    assert int((record.seller >= 0).sum()) == 6
    assert frozen(batch.engine.state) == frozen(twin.engine.state)


@pytest.mark.parametrize("style", ["tuple", "flat"])
@pytest.mark.parametrize("mode", MODES)
def test_a_masked_agent_is_never_refused(mode: Any, style: Any) -> None:
    env = ParaMarketEnv(priced_market(action_mode=mode, budget=15, opens_at=1), device="cpu", mask_style=style)
    bought = 0
    for seed in range(3):
        _, infos = env.reset(seed=seed)
        for agent in env.agents:
            env.action_space(agent).seed(seed)
        while env.agents:
            actions = {agent: env.action_space(agent).sample(as_tuple(env, infos[agent])) for agent in env.agents}
            *_, infos = env.step(actions)
            bought += sum(info["seller"] >= 0 for info in infos.values())
        assert [info["refused"] for info in infos.values()] == [0, 0, 0]
    assert bought > 3


def as_tuple(env: ParaMarketEnv, info: dict[str, Any]) -> Any:
    """The mask as Gymnasium's spaces take it, whatever the style."""
    mask, space = info["action_mask"], env.action_space("trader_0")
    if isinstance(space, spaces.MultiDiscrete) and env.mask_style == "flat":
        return tuple(np.split(mask, np.cumsum(space.nvec)[:-1]))
    return mask


def test_clients_get_int8_masks_in_the_style_they_take() -> None:
    flat = np.array([1, 1, 1, 0, 1, 0, 1, 1, 0], dtype=bool)
    several, one = spaces.MultiDiscrete([2, 4, 3]), spaces.Discrete(9)
    as_parts = client_mask(flat, several, "tuple")
    assert isinstance(as_parts, tuple)
    assert [part.tolist() for part in as_parts] == [[1, 1], [1, 0, 1, 0], [1, 1, 0]]
    assert all(part.dtype == np.int8 for part in as_parts)
    assert mask_info(flat, several, "none") == mask_info(flat, one, "none") == {}
    assert list(mask_info(flat, one, "flat")) == ["action_mask"]
    for space, style in ((several, "flat"), (one, "tuple"), (one, "flat")):
        mask = client_mask(flat, space, style)
        assert isinstance(mask, np.ndarray)
        assert (mask.dtype, mask.tolist()) == (np.int8, flat.astype(int).tolist())
    one.sample(mask=client_mask(flat, one, "tuple"))
    several.sample(mask=as_parts)
