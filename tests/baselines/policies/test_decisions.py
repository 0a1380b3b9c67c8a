"""The behaviour of every rule, step by step in played markets and on hand-made observations."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paramarket_baselines.policies.decisions import (
    RULES,
    Greedy,
    Hold,
    Paper,
    Patient,
    Random,
    RulePolicy,
    Train,
)
from paramarket_baselines.policies.learned import Learned
from paramarket_baselines.policies.pricing import (
    PRICING,
    Bayesian,
    Bounds,
    CostPlus,
    Fixed,
    PricingRule,
    RandomPrice,
    Thompson,
)
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, Seat, seat_of
from paramarket_env.learning.merging import Linear
from paramarket_env.market.orders import Orders
from paramarket_env.seeding import stream
from tests.helpers import priced_market, tiny_market


def spell(orders: Orders) -> str:
    """One agent's orders as letters: t train, b<offer>@<bid> buy (@0 is left out), a<level> ask, . nothing."""
    train, offer, bid = bool(orders.train), int(orders.offer), int(orders.bid)
    buys = (f"b{offer}" + (f"@{bid}" if bid else "")) if offer >= 0 else ""
    asks = "".join(f"a{level}" for level in orders.ask.flatten().tolist() if level >= 0)
    return ("t" if train else "") + buys + asks or "."


def seated(policy: str | PolicyFactory, seat: Seat, seeds: Tensor | None = None, agent: int = 0) -> Policy:
    """The policy in the seat, at the beginning of an episode in each row; ``seeds`` are 0, 1, ... unless given."""
    rows = torch.arange(seat.num_markets)
    player = POLICIES.check(policy)(seat)
    player.reset(rows, stream(rows if seeds is None else seeds, "policy", agent))
    return player


def trace(name: str, config: MarketConfig, seed: int = 0) -> list[str]:
    """A whole episode of a rule against its like: one line of letters an agent."""
    batch = MarketBatch(config, 1, "cpu")
    batch.reset(torch.tensor([seed]))
    players = [seated(name, seat_of(batch, 1), torch.tensor([seed]), agent) for agent in range(config.agents)]
    lines: list[list[str]] = [[] for _ in players]
    for _ in range(config.max_cycles):
        observation, mask = batch.observe(), batch.mask()
        actions = [player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players)]
        for line, action in zip(lines, actions, strict=True):
            line.append(spell(batch.actions.decode(action)))
        batch.step(torch.stack(actions, dim=1))
    return [" ".join(line) for line in lines]


# The markets and seeds are such that no decision hangs on rounding: the traces are the same if the initial parameters
# are disturbed by 1e-6 of their size.
GOLDEN_VERB = {
    "hold": [
        ". . . . . . . . . . . .",
        ". . . . . . . . . . . .",
    ],
    "train": [
        "t t t t t t t t t t t t",
        "t t t t t t t t t t t t",
    ],
    "random": [
        "t . a0 a2 . . a0 . a3 . . a0",
        "t t a3 t t a2 t a1 b0 . a2 a0",
    ],
    "greedy": [
        "t b0 b0 b0 b0 t b0 t b0 t b0 b0",
        "b0 t t b0 t b0 t b0 t b0 t b0",
    ],
    "paper": [
        "a2 t b0 t b0 t b0 t b0 t b0 b0",
        "b0 t t t b0 t b0 t b0 t b0 t",
    ],
    "patient": [
        "a2 t t t t t t t b0 t t b0",
        "a2 t t t t t t t b0 t t b0",
    ],
    "choosy": [
        "a2 t t b0 t t b0 t b0 t b0 t",
        "a2 t t t t b0 t b0 t t t t",
    ],
    "early": [
        "a2 t b0 t b0 t t t t t t t",
        "b0 t t t b0 t t t a2 t t t",
    ],
}
GOLDEN_ROUND = {
    "hold": [
        ". . . . . . . .",
        ". . . . . . . .",
        ". . . . . . . .",
    ],
    "train": [
        "t t t t t t t t",
        "t t t t t t t t",
        "t t t t t t t t",
    ],
    "random": [
        "ta2 ta3 b0a2 ta0 tb1a2 a0 ta3 tb1a2",
        "tb0a4 ta1 a4 b0a4 b0a1 b0a1 a3 ta4",
        "a4 tb0a1 tb1a2 b0a3 tb0a4 tb0a1 b1a0 t",
    ],
    "greedy": [
        "tb1 tb0 tb0 tb0 tb1 tb0 t t",
        "tb1 t tb1 tb1 tb1 tb1 tb1 tb1",
        "t tb1 tb1 tb1 tb1 tb1 tb1 tb1",
    ],
    "paper": [
        "tb1a3 t ta2 tb0 tb1a1 t ta2 t",
        "tb1a3 t ta2 t tb1a3 t tb0a2 tb1",
        "ta3 t ta2 tb1 tb1 tb0a3 t tb1a2",
    ],
    "patient": [
        "ta3 t ta2 t ta1 t t tb0",
        "ta3 t ta2 t ta1 t t tb1",
        "ta3 t ta2 t ta1 t t tb1",
    ],
    "choosy": [
        "ta3 t ta2 t tb0a1 t t t",
        "ta3 t ta2 t ta1 ta3 t ta2",
        "ta3 t ta2 t ta1 t t t",
    ],
    "early": [
        "tb1a3 t ta2 tb0 ta1 t t t",
        "tb1a3 t ta2 t ta3 t ta2 t",
        "ta3 t ta2 tb1 t ta1 t t",
    ],
}


@pytest.mark.parametrize("name", RULES)
def test_golden_trace_with_one_verb_a_step(name: str) -> None:
    config = tiny_market(max_cycles=12, merger=Linear(weights=(0.5, 0.8)), ask_levels=(0, 20, 80), initial_ask=1)
    assert trace(name, config, seed=3) == GOLDEN_VERB[name]


@pytest.mark.parametrize("name", RULES)
def test_golden_trace_in_rounds(name: str) -> None:
    assert trace(name, priced_market(action_mode="round", max_cycles=8)) == GOLDEN_ROUND[name]


def seat(config: MarketConfig, rows: int = 1) -> Seat:
    return seat_of(MarketBatch(config, rows, "cpu"), rows)


def see(seat: Seat, rows: int = 1, **fields: Any) -> tuple[Tensor, Tensor]:
    """An observation and mask in which the named fields have these values; others are 0, and all agents are alive."""
    values = {field.name: torch.full((rows, field.size), field.name == "alive").float() for field in seat.layout.fields}
    for name, value in fields.items():
        values[name] = torch.as_tensor(value, dtype=torch.float32).expand(rows, -1).clone()
    legal = (values["offer_legal"] > 0).unsqueeze(2).expand(-1, -1, seat.actions.choices.bids)
    return seat.layout.pack(values), seat.actions.mask(legal)


def wants(policy: Policy, seat: Seat, **fields: Any) -> str:
    return spell(seat.actions.decode(policy.act(*see(seat, **fields))))


OFFERS = {
    "offer_legal": [1, 1],
    "kappa": [2],
    "time_left": [0.5],
    "offer_price": [0.05, 0.01],
    "selling": [1],
    "ask": [0.06],  # optimal for the belief at the start, so that nobody re-prices
}


@pytest.mark.parametrize(
    ("name", "gains", "expected"),
    [
        ("greedy", [0.30, 0.20], "tb0"),  # the largest gain
        ("greedy", [0.02, 0.01], "tb0"),  # whatever it costs
        ("greedy", [-0.1, -0.2], "t"),  # but never a loss
        ("paper", [0.30, 0.29], "tb1"),  # 0.60 - 0.05 < 0.58 - 0.01
        ("paper", [0.02, 0.001], "t"),  # worth less than their prices
        ("train", [0.30, 0.20], "t"),
        ("hold", [0.30, 0.20], "."),
    ],
)
def test_what_is_bought_follows_from_gains_values_and_prices(name: str, gains: list[float], expected: str) -> None:
    chair = seat(priced_market(action_mode="round"))
    assert wants(seated(name, chair), chair, offer_gain=gains, **OFFERS) == expected


def test_an_offer_that_is_not_legal_is_not_bought() -> None:
    chair = seat(priced_market(action_mode="round"))
    fields = OFFERS | {"offer_legal": [0, 1]}
    assert wants(seated("greedy", chair), chair, offer_gain=[0.5, 0.1], **fields) == "tb1"


@pytest.mark.parametrize("mechanism", ["double-auction", "second-price"])
@pytest.mark.parametrize(
    ("name", "gains", "expected"),
    [
        ("greedy", [0.30, 0.20], "tb0@3"),  # the most that it can bid
        ("paper", [0.014, 0.012], "tb0@2"),  # worth 28 and 24 ticks: the highest bid up to the value, 25
        ("paper", [0.005, 0.0129], "tb1@2"),
        ("paper", [0.0049, 0.001], "tb0"),  # worth less than 10 ticks, for which it bids nothing
        ("paper", [-0.1, 0.0], "t"),
    ],
)
def test_where_bids_are_taken_the_papers_rule_bids_the_value(
    mechanism: str, name: str, gains: list[float], expected: str
) -> None:
    chair = seat(priced_market(action_mode="round", mechanism=mechanism))
    free = {"offer_price": [0, 0]} if mechanism == "second-price" else {}
    fields = {key: value for key, value in OFFERS.items() if key != "offer_price"} | free
    assert wants(seated(name, chair), chair, offer_gain=gains, **fields) == expected


def test_the_papers_rule_does_not_bid_below_a_reserve_that_it_sees() -> None:
    chair = seat(priced_market(action_mode="round", mechanism="second-price"))
    fields = OFFERS | {"offer_price": [0.03, 0.01]}  # and they are worth 28 and 26 ticks
    assert wants(seated("paper", chair), chair, offer_gain=[0.014, 0.013], **fields) == "tb1@2"


def test_a_highest_bid_is_one_that_is_legal() -> None:
    chair = seat(priced_market(action_mode="round", mechanism="second-price"))
    observation, _ = see(chair, offer_gain=[0.5, 0.5], **{key: OFFERS[key] for key in OFFERS if key != "offer_price"})
    legal = torch.tensor([[[False] * 4, [True, True, False, False]]])
    for name in ("greedy", "paper"):
        action = seated(name, chair).act(observation, chair.actions.mask(legal))
        assert spell(chair.actions.decode(action)) == "tb1@1"


@pytest.mark.parametrize(
    ("since", "left", "expected"),
    [(2, 4, "t"), (3, 4, "tb0"), (4, 4, "tb0"), (0, 2, "t"), (0, 1, "tb0")],  # the last step is for buying
)
def test_the_patient_rule_waits_for_its_steps_but_not_beyond_the_end(since: int, left: int, expected: str) -> None:
    config = priced_market(action_mode="round")
    chair = seat(config)
    fields = OFFERS | {"since_purchase": [since / config.max_cycles], "time_left": [left / config.max_cycles]}
    assert wants(seated("patient:3", chair), chair, offer_gain=[0.5, 0.1], **fields) == expected


def test_random_draws_every_legal_action_and_no_other() -> None:
    rows = 600
    chair = seat(priced_market(), rows)
    legal = torch.tensor([1, 0])
    action = seated("random", chair).act(*see(chair, rows, offer_legal=legal, time_left=[0.5]))
    counts = action.bincount(minlength=chair.actions.mask_size)
    assert counts[3] == 0  # hold, train, offer 0, offer 1, ...
    allowed = counts[[index for index in range(len(counts)) if index != 3]]
    assert allowed.min() > 0.6 * rows / len(allowed)


def test_a_random_seat_acts_the_same_alone_and_in_a_batch() -> None:
    config = priced_market(action_mode="round")
    crowd, alone = seat(config, 5), seat(config, 1)
    acts = seated("random", crowd).act(*see(crowd, 5, time_left=[0.5]))
    single = seated("random", alone, seeds=torch.tensor([3]))
    assert torch.equal(single.act(*see(alone, 1, time_left=[0.5])), acts[3:4])


def test_a_reset_gives_a_random_seat_a_new_stream_in_its_rows_alone() -> None:
    chair = seat(priced_market(action_mode="round"), 40)
    player, seen = seated("random", chair), see(chair, 40, time_left=[0.5])
    before = player.act(*seen)
    rows, keys = torch.arange(0, 40, 2), stream(torch.arange(100, 120), "policy", 0)
    held = keys.clone()
    player.reset(rows, keys)
    after = player.act(*seen)
    assert torch.equal(after[1::2], before[1::2])
    assert not torch.equal(after[::2], before[::2])
    assert torch.equal(keys, held)


# --- the textual form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("patient:7", Patient(7)),
        ("patient", Patient(8, pricing=Bayesian())),
        ("paper", Paper(pricing=Bayesian())),
        ("greedy", Greedy(pricing=None)),
        ("paper+fixed:3", Paper(pricing=Fixed(3))),
        ("paper+fixed", Paper(pricing=Fixed(None))),
        ("paper+thompson", Paper(pricing=Thompson())),
        ("hold+random", Hold(pricing=RandomPrice())),
        ("patient(patience=7)+fixed(level=3)", Patient(7, pricing=Fixed(3))),
        ("patient:7+cost-plus(markup=0.2)", Patient(7, pricing=CostPlus(0.2))),
        ("paper(pricing=None)", Paper(pricing=None)),
        ("paper(pricing='fixed:3')", Paper(pricing=Fixed(3))),
        ("random", Random()),
        ("learned:runs/mine+more", Learned("runs/mine+more")),
    ],
)
def test_a_text_names_a_policy_with_its_configuration(text: str, policy: PolicyFactory) -> None:
    assert POLICIES.parse(text) == policy
    assert POLICIES.parse(POLICIES.text(policy)) == policy


PROBABILITIES = st.floats(0, 1)
PRICING_RULES: st.SearchStrategy[PricingRule] = st.one_of(
    st.builds(Fixed, st.none() | st.integers(0, 9)),
    st.builds(CostPlus, st.floats(0, 9)),
    st.builds(Bayesian, PROBABILITIES, PROBABILITIES, PROBABILITIES),
    st.builds(Bounds, st.integers(2, 64), PROBABILITIES, PROBABILITIES),
    st.sampled_from([PRICING.parse(name) for name in PRICING]),
)


@given(
    st.one_of(
        *(st.builds(rule, pricing=st.none() | PRICING_RULES) for rule in (Hold, Train, Greedy, Paper)),
        st.builds(Patient, st.integers(0, 99), pricing=st.none() | PRICING_RULES),
        st.builds(Learned, st.text()),
    )
)
def test_every_policy_is_what_its_text_names(policy: PolicyFactory) -> None:
    assert POLICIES.parse(POLICIES.text(policy)) == policy


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "nobody",
            "unknown policy 'nobody': choose from choosy, early, greedy, hold, learned, linear-equilibrium, "
            "paper, patient, random, sb3, train, varied$",
        ),
        ("nobody+fixed:1", "unknown policy 'nobody': choose from choosy, early"),
        ("paper+nobody", "unknown pricing rule 'nobody': choose from bayesian, bounds, cost-plus, fixed"),
        ("train:3", "pricing=3 is not allowed: it must be one of"),
        ("patient:", "patient.patience='' is not allowed"),
        ("patient:x", "patient.patience='x' is not allowed"),
        ("patient:-1", "patient.patience=-1 is not allowed: it must be greater than or equal to 0"),
        ("patient(k=3)", r"it must be patient\(patience=8, pricing='bayesian'\), .*; there is no field 'k'"),
        ("random+fixed", r"policy='random\+fixed' is not allowed: it must be random, .*there is no field 'pricing'"),
        ("learned", r"policy='learned' is not allowed: it must be learned\(folder\), with a value for folder"),
    ],
)
def test_a_text_that_names_no_policy_is_refused_with_those_that_exist(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        POLICIES.parse(text)


def test_rules_do_without_stable_baselines() -> None:
    code = (
        "import sys\n"
        "from paramarket_env.interface.policy import POLICIES\n"
        "POLICIES.parse('patient:3+bayesian'), POLICIES.parse('learned:nowhere')\n"
        "assert not {'stable_baselines3', 'sb3_contrib', 'paramarket_env.adapters.sb3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- with a pricing rule --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected"), [("paper+fixed:2", "tb0a2"), ("train+fixed:0", "ta0"), ("hold", ".")])
def test_a_pricing_rule_behind_a_plus_sets_the_asks(name: str, expected: str) -> None:
    chair = seat(priced_market(action_mode="round"))
    assert wants(seated(name, chair), chair, offer_gain=[0.5, 0.1], **OFFERS) == expected


def test_a_pricing_rule_asks_of_each_buyer_where_prices_are_personal() -> None:
    chair = seat(priced_market(action_mode="round", mechanism="personal"))
    fields = OFFERS | {"selling": [1, 0], "ask": [0.025, 0.0]}
    assert wants(seated("train+fixed:2", chair), chair, offer_gain=[0, 0], **fields) == "ta2"
    assert wants(seated("train+fixed:1", chair), chair, offer_gain=[0, 0], **fields) == "ta1a1"


def test_a_reset_of_some_rows_leaves_the_memory_of_the_others() -> None:
    chair = seat(priced_market(action_mode="round"), 3)
    player = seated("paper+thompson", chair)
    assert isinstance(player, RulePolicy)
    assert player.seller is not None
    fresh = player.seller.memory
    for sold in (0, 1, 1):
        player.act(*see(chair, 3, sold_now=[sold, 0], **OFFERS))
    learned = player.seller.memory
    player.reset(torch.tensor([1]), torch.tensor([7]))
    for name in ("taken", "left"):
        assert torch.equal(player.seller.memory[name][1], fresh[name][1])
        assert torch.equal(player.seller.memory[name][::2], learned[name][::2])
    assert player.seller.memory["keys"].tolist() == [int(learned["keys"][0]), 7, int(learned["keys"][2])]
    assert not torch.equal(learned["taken"], fresh["taken"])
