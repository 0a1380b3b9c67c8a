"""The checks of a pricing rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from paramarket_baselines.checks.check import (
    Check,
    NotRun,
    expect,
    expect_proper_refusal,
    run_all,
    unchanged_randomness,
)
from paramarket_baselines.checks.markets import MarketTrial, variants
from paramarket_baselines.checks.play import Recording, play
from paramarket_baselines.policies.pricing import PRICING, Fields, Memory, PricingRule
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import POLICIES, Seat


@lru_cache(maxsize=16)
def _episode(market: MarketConfig) -> Recording:
    """An episode of a seat that acts at random, so that it sells at many prices."""
    return play(POLICIES.parse("random"), market)


class PricingTrial(MarketTrial):
    """A pricing rule in a market. It prices what a seat saw that acted at random.

    Raises ``ValueError`` if there is no such rule.
    """

    def __init__(self, rule: str | PricingRule, name: str, market: MarketConfig) -> None:
        super().__init__(name, market)
        self.rule = PRICING.check(rule)

    def take_seat(self) -> None:
        """See :meth:`MarketTrial.take_seat`."""
        self.rule.require_playable(self.recording.seat)

    @property
    def recording(self) -> Recording:
        """The observations that the rule prices."""
        return _episode(self.market)

    def seat(self, rows: Tensor) -> Seat:
        """The seat in the markets of these rows."""
        return replace(self.recording.seat, num_markets=len(rows))

    def fields(self, rows: Tensor) -> Iterator[Fields]:
        """A copy of the recorded observations of these rows, step by step."""
        layout = self.recording.seat.layout
        return (layout.unpack(observation.clone()) for observation in self.recording.observations[:, rows])

    def price(self, rows: Tensor) -> list[Tensor]:
        """The levels that the rule asks in each step of an episode in these rows."""
        seat, levels = self.seat(rows), []
        memory, before = self.rule.memory(seat, self.recording.keys[rows].clone()), None
        for now in self.fields(rows):
            memory = memory if before is None else self.rule.learn(seat, memory, before, now)
            levels.append(self.rule.price(seat, memory, now))
            before = now
        return levels

    @cached_property
    def priced(self) -> list[Tensor] | Exception:
        """The levels of the whole batch, or the exception that the rule raises."""
        self.require_claimed()
        try:
            return self.price(self.recording.rows)
        except Exception as error:  # a check judges whatever the rule raises
            return error

    @cached_property
    def wrong(self) -> str:
        """The fault of the first levels that are wrong; empty if all are right."""
        if isinstance(self.priced, Exception):
            raise NotRun(f"needs prices-every-observation: {self.priced}")
        return next(filter(None, (wrong_levels(levels, self.recording.seat) for levels in self.priced)), "")

    @property
    def levels(self) -> Tensor:
        """The levels of the whole batch; see :meth:`require_levels`."""
        return self.require_levels()

    def require_levels(self) -> Tensor:
        """The levels of the whole batch, int64 ``[T, M, S]``; raises :class:`NotRun` if they are wrong."""
        if self.wrong:
            raise NotRun("needs returns-levels")
        assert isinstance(self.priced, list)
        return torch.stack(self.priced)

    @cached_property
    def again(self) -> Tensor:
        """The levels of the whole batch when it is priced a second time."""
        return torch.stack(self.price(self.recording.rows))


def wrong_levels(levels: Tensor, seat: Seat) -> str:
    """The fault of levels that a rule returns; empty if they are right."""
    shape, top = [seat.num_markets, seat.actions.choices.ask_slots], len(seat.prices)
    if levels.dtype != torch.int64 or list(levels.shape) != shape:
        return f"{levels.dtype} {list(levels.shape)} instead of int64 {shape}"
    inside = bool(((levels >= 0) & (levels <= top)).all())
    return "" if inside else f"{levels.tolist()}, which are not all from 0 to {top}"


def pricing_trials(rule: str | PricingRule, market: str | MarketConfig) -> list[PricingTrial]:
    """A pricing rule in a market, or in the scenario of that name, and in its variants (see :func:`variants`)."""
    return [PricingTrial(rule, name, varied) for name, varied in variants(market).items()]


def check_pricing(rule: str | PricingRule, market: str | MarketConfig = "three-firms-short") -> None:
    """Run all checks of a pricing rule in a market, or in the scenario of that name, and in its variants.

    Raises ``AssertionError`` that names the first check that fails, the market, what was expected and what came. A
    rule may refuse markets, but not all of them.
    """
    run_all(PRICING_CHECKS, pricing_trials(rule, market))


# --- the checks ------------------------------------------------------------------------------------------------------


def takes_or_refuses_a_market(trial: PricingTrial) -> None:
    """It plays a market, or refuses it by a ValueError that says what it needs."""
    expect_proper_refusal(trial.refusal)


def prices_every_observation(trial: PricingTrial) -> None:
    """It learns and prices through a whole episode without an exception."""
    if isinstance(trial.priced, Exception):
        raise trial.priced


def returns_levels(trial: PricingTrial) -> None:
    """It returns levels, int64 [B, S], from 0 to the number of prices."""
    expect(not trial.wrong, "levels in the market", trial.wrong)


def posts_in_a_period(trial: PricingTrial) -> None:
    """The posting period is at least one cycle."""
    trial.require_claimed()
    period = trial.rule.posting_period(trial.recording.seat)
    expect(isinstance(period, int) and period >= 1, "an integer >= 1 as posting period", period)


def keeps_a_memory_of_rows(trial: PricingTrial) -> None:
    """The memory has a row for each market, and what is learned has the same names, shapes and dtypes."""
    trial.require_levels()
    rows = trial.recording.rows
    seat, (before, now, *_) = trial.seat(rows), trial.fields(rows)
    memory = trial.rule.memory(seat, trial.recording.keys.clone())
    first = _shapes(memory)
    one_each = all(shape[:1] == (len(rows),) for shape, _ in first.values())
    expect(one_each, f"tensors of {len(rows)} rows", first)
    expect(_shapes(trial.rule.learn(seat, memory, before, now)) == first, f"a memory like {first}", "another one")


def _shapes(memory: Memory) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in memory.items()}


def is_deterministic(trial: PricingTrial) -> None:
    """The same observations and keys lead to the same levels, so the rule itself remembers nothing."""
    expect(torch.equal(trial.levels, trial.again), "the levels of the first time", "others")


def prices_each_row_alone(trial: PricingTrial) -> None:
    """A batch of markets is priced as each market alone."""
    levels = trial.levels
    if not torch.equal(levels, trial.again):
        raise NotRun("needs is-deterministic")
    for row in trial.recording.rows.split(1):
        alone = torch.stack(trial.price(row))
        expect(torch.equal(alone, levels[:, row]), "the levels of the batch in a row alone", "others")


def leaves_its_inputs_alone(trial: PricingTrial) -> None:
    """It changes neither observations nor the memory in place."""
    trial.require_levels()
    rows = trial.recording.rows
    seat, (before, now, *_) = trial.seat(rows), trial.fields(rows)
    keys = trial.recording.keys.clone()
    memory = trial.rule.memory(seat, keys)
    given = (before, now, memory, {"keys": keys})
    copies = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in given]
    trial.rule.price(seat, trial.rule.learn(seat, memory, before, now), now)
    for tensors, copy in zip(given, copies, strict=True):
        changed = [name for name, tensor in tensors.items() if not torch.equal(tensor, copy[name])]
        expect(not changed, "inputs unchanged", f"changed {', '.join(changed)}")


def leaves_global_randomness_alone(trial: PricingTrial) -> None:
    """It does not touch the global random generators of torch, NumPy and Python."""
    trial.require_levels()
    with unchanged_randomness():
        trial.price(trial.recording.rows)


def prices_any_observation(trial: PricingTrial) -> None:
    """It returns levels for every observation within the bounds, the lowest and the highest among them."""
    trial.require_levels()
    rows, layout = trial.recording.rows, trial.recording.seat.layout
    seat = trial.seat(rows)
    memory = trial.rule.memory(seat, trial.recording.keys.clone())
    bounds = torch.from_numpy(layout.low), torch.from_numpy(layout.high)
    low, high = (layout.unpack(bound.repeat(len(rows), 1)) for bound in bounds)
    for before, now in ((low, high), (high, low), (high, high)):
        memory = trial.rule.learn(seat, memory, before, now)
        wrong = wrong_levels(trial.rule.price(seat, memory, now), seat)
        expect(not wrong, "levels in the market", wrong)


PRICING_CHECKS = tuple(
    Check(function)
    for function in (
        takes_or_refuses_a_market,
        prices_every_observation,
        returns_levels,
        posts_in_a_period,
        keeps_a_memory_of_rows,
        is_deterministic,
        prices_each_row_alone,
        leaves_its_inputs_alone,
        leaves_global_randomness_alone,
        prices_any_observation,
    )
)
"""All checks of a pricing rule. Those that need another one are after it."""
