"""Two encodings of the same orders, and masks that mean what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from paramarket_env.interface.actions import Actions, RoundActions, VerbActions, build_actions, client_mask
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.parallel import ParaMarketEnv
from paramarket_env.market.engine import Orders
from tests.helpers import frozen, priced_market, random_action

MODES = ("verb", "round")
OFFERS, LEVELS = 4, 3


def said(train: bool, offer: int, ask: int) -> Orders:
    return Orders(torch.tensor([train]), torch.tensor([offer]), torch.tensor([ask]))


def parts(orders: Orders) -> tuple[bool, int, int]:
    return bool(orders.train), int(orders.offer), int(orders.ask)


def every_action(mode: Any) -> Tensor:
    if mode == "verb":
        return torch.arange(2 + OFFERS + LEVELS)
    return torch.cartesian_prod(torch.arange(2), torch.arange(1 + OFFERS), torch.arange(1 + LEVELS))


def played(mode: Any, **changes: Any) -> MarketBatch:
    batch = MarketBatch(priced_market(action_mode=mode, budget=20, max_cycles=8, **changes), markets=3, device="cpu")
    batch.reset(torch.arange(3))
    return batch


def some_actions(batch: MarketBatch, rng: np.random.Generator) -> Tensor:
    space, markets, agents = batch.actions.space(), range(batch.engine.markets), range(batch.config.agents)
    return torch.from_numpy(np.array([[random_action(space, rng) for _ in agents] for _ in markets]))


# --- the two encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_encoding_what_an_action_decodes_to_gives_the_action(mode: Any) -> None:
    actions, numbers = build_actions(mode, OFFERS, LEVELS), every_action(mode)
    assert torch.equal(actions.encode(actions.decode(numbers)), numbers)


@pytest.mark.parametrize("mode", MODES)
def test_different_actions_say_different_orders_and_all_are_in_the_space(mode: Any) -> None:
    actions, numbers = build_actions(mode, OFFERS, LEVELS), every_action(mode)
    decoded = actions.decode(numbers)
    orders = set(zip(decoded.train.tolist(), decoded.offer.tolist(), decoded.ask.tolist(), strict=True))
    space = actions.space()
    size = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.nvec))
    assert len(orders) == len(numbers) == size
    assert all(space.contains(number.numpy().astype(space.dtype)) for number in numbers)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (0, (False, -1, -1)),
        (1, (True, -1, -1)),
        (2, (False, 0, -1)),
        (5, (False, 3, -1)),
        (6, (False, -1, 0)),
        (8, (False, -1, 2)),
    ],
)
def test_a_verb_is_to_hold_to_train_an_offer_or_an_ask_in_this_order(action: int, expected: tuple[Any, ...]) -> None:
    assert parts(VerbActions(OFFERS, LEVELS).decode(torch.tensor([action]))) == expected


@pytest.mark.parametrize(
    ("action", "expected"),
    [((0, 0, 0), (False, -1, -1)), ((1, 4, 3), (True, 3, 2)), ((0, 1, 0), (False, 0, -1)), ((0, 0, 1), (False, -1, 0))],
)
def test_a_round_is_to_train_an_offer_and_an_ask_at_once(action: tuple[int, ...], expected: tuple[Any, ...]) -> None:
    assert parts(RoundActions(OFFERS, LEVELS).decode(torch.tensor([action]))) == expected


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
    actions = VerbActions(OFFERS, LEVELS)
    assert parts(actions.decode(actions.encode(said(*orders)))) == expected


def test_a_round_says_all_orders() -> None:
    actions = RoundActions(OFFERS, LEVELS)
    for train in (False, True):
        for offer in range(-1, OFFERS):
            for ask in range(-1, LEVELS):
                assert parts(actions.decode(actions.encode(said(train, offer, ask)))) == (train, offer, ask)


@pytest.mark.parametrize("mode", MODES)
def test_any_batch_shape_is_decoded(mode: Any) -> None:
    actions, numbers = build_actions(mode, OFFERS, LEVELS), every_action(mode)[:8]
    nested = actions.decode(numbers.view(2, 4, *numbers.shape[1:]))
    assert nested.offer.shape == (2, 4)
    assert torch.equal(nested.offer.flatten(), actions.decode(numbers).offer)


@pytest.mark.parametrize(
    ("mode", "action", "allowed"),
    [
        ("verb", -1, "from 0 to 8"),
        ("verb", 9, "from 0 to 8"),
        ("round", [2, 0, 0], r"below \[2, 5, 4\]"),
        ("round", [0, 5, 0], r"below \[2, 5, 4\]"),
        ("round", [0, 0, 4], r"below \[2, 5, 4\]"),
        ("round", [0, -1, 0], r"below \[2, 5, 4\]"),
    ],
)
def test_an_action_outside_the_space_is_refused_with_its_place_and_what_is_allowed(
    mode: Any, action: Any, allowed: str
) -> None:
    fine = every_action(mode)[0].tolist()
    with pytest.raises(ValueError, match=rf"index \[0, 1\].*{allowed}"):
        build_actions(mode, OFFERS, LEVELS).decode(torch.tensor([[fine, action, fine]]))


@pytest.mark.parametrize("mode", MODES)
def test_the_best_action_has_the_highest_score_of_each_choice(mode: Any) -> None:
    actions = build_actions(mode, OFFERS, LEVELS)
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
    good = batch.actions.encode(Orders(torch.ones(3, 3, dtype=torch.bool), *torch.full((2, 3, 3), -1)))
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


def test_a_verb_mask_is_hold_train_the_legal_offers_and_all_asks() -> None:
    actions, legal = VerbActions(OFFERS, LEVELS), torch.tensor([[True, False, False, True]])
    mask = actions.mask(legal)
    assert mask.int().tolist() == [[1, 1, 1, 0, 0, 1, 1, 1, 1]]
    assert torch.equal(actions.legal_offers(mask), legal)


def test_a_round_mask_is_training_buying_and_asking_one_behind_the_other() -> None:
    actions, legal = RoundActions(OFFERS, LEVELS), torch.tensor([[True, False, False, True]])
    mask = actions.mask(legal)
    assert mask.int().tolist() == [[*(1, 1), *(1, 1, 0, 0, 1), *(1, 1, 1, 1)]]
    assert torch.equal(actions.legal_offers(mask), legal)


@pytest.mark.parametrize("mode", MODES)
def test_to_hold_is_always_legal(mode: Any) -> None:
    actions: Actions = build_actions(mode, OFFERS, LEVELS)
    mask = actions.mask(torch.zeros(2, 3, OFFERS, dtype=torch.bool))
    assert mask.shape == (2, 3, actions.mask_size)
    scores = torch.zeros(mask.shape).masked_fill(~mask, -1.0)
    held = actions.decode(actions.best(scores))
    assert not bool(held.train.any() | (held.offer >= 0).any() | (held.ask >= 0).any())


@pytest.mark.parametrize("changes", [{}, {"opens_at": 1, "trade_every": 2}, {"parameter_sets": "layers"}])
@pytest.mark.parametrize("mode", MODES)
def test_a_purchase_is_refused_exactly_where_the_mask_forbids_it(mode: Any, changes: dict[str, Any]) -> None:
    batch, rng = played(mode, **changes), np.random.default_rng(0)
    seen = set()
    batch.engine.state.parameters[2, 1] = torch.nan
    train = torch.zeros(3, 3, dtype=torch.bool)
    train[2, 1] = True  # and so it leaves
    batch.engine.step(Orders(train, *torch.full((2, 3, 3), -1)))
    for _ in range(7):
        chosen = some_actions(batch, rng)
        orders, alive = batch.actions.decode(chosen), batch.engine.state.alive.clone()
        legal = batch.actions.legal_offers(batch.mask())
        allowed = legal.gather(2, orders.offer.clamp_min(0)[..., None]).squeeze(2)
        record = batch.step(chosen).record
        wanted = (orders.offer >= 0) & alive
        assert torch.equal(record.refusal >= 0, wanted & ~allowed)
        assert torch.equal(record.seller >= 0, wanted & allowed)
        seen |= set(record.refusal.flatten().tolist()) | {bool((record.seller >= 0).any())}
    assert {True, -1, 3} <= seen


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
    for space, style in ((several, "flat"), (one, "tuple"), (one, "flat")):
        mask = client_mask(flat, space, style)
        assert isinstance(mask, np.ndarray)
        assert (mask.dtype, mask.tolist()) == (np.int8, flat.astype(int).tolist())
    one.sample(mask=client_mask(flat, one, "tuple"))
    several.sample(mask=as_parts)
