"""Opponents that are drawn anew for every episode."""

from __future__ import annotations

import pytest
import torch

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.mixed import Mixed, drawn
from paramarket_baselines.policies.varied import BUYER, OPPONENTS, Family, VariedPolicy
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, Seat, seat_of
from paramarket_env.scenarios import scenario
from paramarket_env.seeding import as_seeds, stream

MARKETS = 12


def actions_of(factory: PolicyFactory, name: str = "digits-priced-short") -> torch.Tensor:
    """The actions of a policy in all seats, int64 ``[T, M, N]``."""
    batch = MarketBatch(scenario(name), MARKETS, "cpu")
    seeds = as_seeds(range(MARKETS), MARKETS, batch.device)
    observation, mask = batch.reset(seeds)
    players = [factory(seat_of(batch, MARKETS)) for _ in range(batch.config.agents)]
    for agent, player in enumerate(players):
        player.reset(torch.arange(MARKETS), stream(seeds, "policy", agent))
    chosen = []
    for _ in range(batch.config.max_cycles):
        actions = torch.stack([player.act(observation[:, i], mask[:, i]) for i, player in enumerate(players)], dim=1)
        chosen.append(actions)
        transition = batch.step(actions)
        observation, mask = transition.observation, transition.mask
    return torch.stack(chosen)


def family(kind: str, patience: float) -> PolicyFactory:
    """The policy of a family with one member."""
    return lambda seat: VariedPolicy(seat, Family(prices=(kind,), patience=(patience,)))


def test_a_family_with_one_member_is_that_rule() -> None:
    for patience, rule in ((0, "paper+fixed:3"), (0.5, "patient:6+fixed:3"), (0.92, "patient:11+fixed:3")):
        # The initial ask is level 3, so a rule that keeps it never posts.
        assert torch.equal(actions_of(family("none", patience)), actions_of(POLICIES.check(rule)))


def test_a_bayesian_member_asks_as_the_papers_rule() -> None:
    assert torch.equal(actions_of(family("bayesian", 0)), actions_of(POLICIES.check("paper")))


@pytest.mark.parametrize("mechanism", ["posted", "double-auction(k=1)"])
def test_a_member_pays_its_reserve_and_no_more(mechanism: str) -> None:
    """A buyer pays the ask where prices are posted, and its bid in this double auction."""
    market = scenario("digits-priced-short", mechanism=mechanism)
    levels = market.economy.ask_levels

    def highest_price(reserve: float) -> float:
        free = Family(prices=("random",), patience=(0.25,), margin=(0,), reserve=(reserve,))
        buyers = Arm("buyers", (lambda seat: VariedPolicy(seat, free),))
        return float(play(market, buyers, range(16), "cpu").trades.price.max())

    level = round(0.4 * (len(levels) - 1))
    assert highest_price(0.4) == levels[level]
    assert highest_price(1) > levels[level]


def test_every_value_of_a_family_is_drawn() -> None:
    keys = stream(torch.arange(4000), "test")
    drawn = OPPONENTS.draw(keys)
    assert {name: set(drawn[name].tolist()) for name in BUYER} == {
        name: set(getattr(OPPONENTS, name)) for name in BUYER
    }


def test_a_new_episode_has_a_new_rule_and_the_same_key_the_same_rule() -> None:
    batch = MarketBatch(scenario("digits-priced-short"), MARKETS, "cpu")
    policy = VariedPolicy(seat_of(batch, MARKETS), OPPONENTS)
    rows, keys = torch.arange(MARKETS), stream(torch.arange(MARKETS), "first")
    policy.reset(rows, keys)
    first = {name: value.clone() for name, value in policy.drawn.items()}
    policy.reset(rows[:6], stream(torch.arange(6), "second"))
    assert any(not torch.equal(policy.drawn[name][:6], first[name][:6]) for name in BUYER)
    assert all(torch.equal(policy.drawn[name][6:], first[name][6:]) for name in BUYER)
    policy.reset(rows, keys)
    assert all(torch.equal(policy.drawn[name], first[name]) for name in BUYER)


class Constant(Policy):
    """Always takes the same action."""

    def __init__(self, action: int) -> None:
        self.action = action

    def act(self, observation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.full((len(mask),), self.action)


def constant(action: int) -> PolicyFactory:
    def make(seat: Seat) -> Policy:
        return Constant(action)

    return make


def test_members_are_drawn_alike_anew_for_every_episode() -> None:
    batch = MarketBatch(scenario("digits-short"), 1, "cpu")
    rows = torch.arange(4000)
    player = Mixed([constant(0), constant(1)])(seat_of(batch, len(rows)))
    nothing, mask = torch.zeros(4000, batch.layout.size), torch.ones(4000, batch.actions.mask_size, dtype=torch.bool)
    player.reset(rows, stream(rows, "a"))
    first = player.act(nothing, mask)
    assert torch.equal(player.act(nothing, mask), first)  # the episode goes on with the member that was drawn
    assert abs(float(first.float().mean()) - 0.5) < 0.03
    player.reset(rows[:2000], stream(rows[:2000], "b"))
    second = player.act(nothing, mask)
    assert torch.equal(second[2000:], first[2000:])
    assert 0.4 < float((second[:2000] == first[:2000]).float().mean()) < 0.6


@pytest.mark.parametrize("chances", [(1.0,), (0.25, 0.75), (0.0, 1.0), (0.5, 0.2, 0.3)])
def test_numbers_are_drawn_with_their_chances(chances: tuple[float, ...]) -> None:
    found = drawn(stream(torch.arange(20_000), "test"), chances)
    shares = torch.bincount(found, minlength=len(chances)) / len(found)
    assert shares.tolist() == pytest.approx(chances, abs=0.015)
