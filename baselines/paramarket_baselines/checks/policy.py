"""The checks of a policy."""

from __future__ import annotations

import time
from functools import cached_property

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
from paramarket_baselines.checks.play import (
    ActionError,
    Disturb,
    PolicyError,
    Recording,
    play,
    repeat,
    require_in_space,
    seated,
    undisturbed,
)
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, Policy, PolicyFactory, seat_of

DEATHS = {1: 1, 3: 0}
"""The agent whose network fails, by cycle."""

ILLEGAL_SHARE = 0.1
"""The largest share of illegal actions. A learned policy without masks takes a few of them."""

SHORT_EPISODE = 5
"""Steps of the episodes with deaths and of those in a closed market."""


class PolicyTrial(MarketTrial):
    """A policy in a market. It plays one episode, which all checks share.

    Raises ``ValueError`` if there is no such policy.
    """

    def __init__(self, policy: str | PolicyFactory, name: str, market: MarketConfig) -> None:
        super().__init__(name, market)
        self.policy = POLICIES.check(policy)

    def take_seat(self) -> None:
        """See :meth:`MarketTrial.take_seat`."""
        self.policy(seat_of(MarketBatch(self.market, 1, "cpu"), 1))

    @cached_property
    def episode(self) -> Recording | PolicyError | ActionError:
        """The episode, or the reason why it ended early."""
        self.require_claimed()
        try:
            return play(self.policy, self.market)
        except (PolicyError, ActionError) as fault:
            return fault

    @property
    def plays(self) -> bool:
        """Whether the policy takes a seat in the market and plays a whole episode."""
        return self.refusal is None and isinstance(self.episode, Recording)

    @property
    def recording(self) -> Recording:
        """The whole episode; see :meth:`require_episode`."""
        return self.require_episode()

    def require_episode(self) -> Recording:
        """The whole episode; raises :class:`NotRun` if it ended early."""
        if isinstance(self.episode, Recording):
            return self.episode
        raise NotRun(f"needs a whole episode: {self.episode}")

    def seated(self, rows: Tensor) -> Policy:
        """The policy in a new seat in the markets of these rows, int64 ``[B]``."""
        return seated(self.policy, self.recording.seat, self.recording.keys[rows])

    def again(self) -> Tensor:
        """The actions of a new seat that sees the recorded observations, ``[T, M, ...]``. There is no market now."""
        rows = self.recording.rows
        return repeat(self.seated(rows), self.recording, rows)

    @cached_property
    def repetitions(self) -> tuple[Tensor, Tensor]:
        """The actions of two new seats, ``[T, M, ...]`` each."""
        return self.again(), self.again()

    @property
    def deterministic(self) -> bool:
        """Whether two new seats choose the same actions."""
        return torch.equal(*self.repetitions)

    @property
    def expected(self) -> Tensor:
        """The actions of every new seat, ``[T, M, ...]``; raises :class:`NotRun` if they are not always the same."""
        if not self.deterministic:
            raise NotRun("needs is-deterministic")
        return self.repetitions[0]


def policy_trials(policy: str | PolicyFactory, market: str | MarketConfig) -> list[PolicyTrial]:
    """A policy in a market, or in the scenario of that name, and in its variants (see :func:`variants`)."""
    return [PolicyTrial(policy, name, varied) for name, varied in variants(market).items()]


def check_policy(policy: str | PolicyFactory, market: str | MarketConfig = "digits-priced-short") -> None:
    """Run all checks of a policy in a market, or in the scenario of that name, and in its variants.

    Raises ``AssertionError`` that names the first check that fails, the market, what was expected and what came. A
    policy may refuse markets, but not all of them.
    """
    run_all(POLICY_CHECKS, policy_trials(policy, market))


def _expect_same(came: Tensor, expected: Tensor, when: str) -> None:
    """Raise ``AssertionError`` unless these are the actions that were expected, both ``[T, M, ...]``."""
    for step, row, *_ in (came != expected).nonzero().tolist():
        wanted = expected[step, row].tolist()
        expect(False, f"action {wanted} in step {step} of row {row} {when}", f"{came[step, row].tolist()}")


# --- the checks ------------------------------------------------------------------------------------------------------


def takes_or_refuses_a_seat(trial: PolicyTrial) -> None:
    """It takes a seat, or refuses it by a ValueError that says what it needs."""
    expect_proper_refusal(trial.refusal)


def finishes_an_episode(trial: PolicyTrial) -> None:
    """It plays a whole episode without an exception."""
    expect(not isinstance(trial.episode, PolicyError), "no exception", str(trial.episode))


def acts_in_the_space(trial: PolicyTrial) -> None:
    """Actions are int64, [B] in verb mode and [B, 2 + S] in round mode, and within the action space."""
    if isinstance(trial.episode, ActionError):
        raise AssertionError(str(trial.episode))
    trial.require_episode()


def acts_legally(trial: PolicyTrial) -> None:
    """At most one action in ten is illegal under the mask, so the market seldom refuses what it orders."""
    legal = trial.recording.legal
    illegal = int((~legal).sum())
    share = f"at most {ILLEGAL_SHARE:.0%} illegal actions"
    expect(illegal <= ILLEGAL_SHARE * legal.numel(), share, f"{illegal} of {legal.numel()}")


def is_deterministic(trial: PolicyTrial) -> None:
    """The same observations, masks and keys lead to the same actions."""
    one, other = trial.repetitions
    _expect_same(other, one, "as in the first play")


def needs_no_market(trial: PolicyTrial) -> None:
    """It depends on its observations, masks and keys alone: without a market it acts as it did in one."""
    _expect_same(trial.expected, trial.recording.actions, "as in the market")


def leaves_the_market_alone(trial: PolicyTrial) -> None:
    """It changes nothing in the markets that it plays."""
    expect(trial.recording.untouched, "the state of the markets unchanged by act", "another state")


def plays_each_row_alone(trial: PolicyTrial) -> None:
    """A batch of markets is played as each market alone, in any order."""
    expected, recording = trial.expected, trial.recording
    for rows in (*recording.rows.split(1), recording.rows.flip(0)):
        came = repeat(trial.seated(rows), recording, rows)
        _expect_same(came, expected[:, rows], f"as in a batch of all markets, with only the markets {rows.tolist()}")


def leaves_its_inputs_alone(trial: PolicyTrial) -> None:
    """It changes neither observations nor masks nor keys in place."""
    recording, rows = trial.recording, trial.recording.rows
    keys, places = recording.keys.clone(), rows.clone()
    player = trial.seated(rows)
    player.reset(places, keys)
    expect(torch.equal(keys, recording.keys) and torch.equal(places, rows), "keys and rows unchanged", "others")
    for seen, allowed in zip(recording.observations, recording.masks, strict=True):
        observation, mask = seen.clone(), allowed.clone()
        player.act(observation, mask)
        expect(torch.equal(observation, seen), "observations unchanged by act", "others")
        expect(torch.equal(mask, allowed), "masks unchanged by act", "others")


def leaves_global_randomness_alone(trial: PolicyTrial) -> None:
    """It does not touch the global random generators of torch, NumPy and Python."""
    with unchanged_randomness():
        trial.again()


def begins_anew(trial: PolicyTrial) -> None:
    """After a reset it plays as in its first episode."""
    expected, recording, rows = trial.expected, trial.recording, trial.recording.rows
    player = trial.seated(rows)
    repeat(player, recording, rows)
    player.reset(rows.clone(), recording.keys.clone())
    _expect_same(repeat(player, recording, rows), expected, "in the second episode")


def resets_only_the_given_rows(trial: PolicyTrial) -> None:
    """A reset of some rows leaves the others in their episodes."""
    expected, recording = trial.expected, trial.recording
    player = trial.seated(recording.rows)
    actions = []
    for step, (observation, mask) in enumerate(zip(recording.observations, recording.masks, strict=True)):
        if step == recording.num_steps // 2:
            player.reset(torch.tensor([0], device="cpu"), recording.keys[:1].clone())
        actions.append(player.act(observation.clone(), mask.clone()))
    _expect_same(torch.stack(actions)[:, 1:], expected[:, 1:], "of the rows after row 0, which alone was reset")


def survives_deaths(trial: PolicyTrial) -> None:
    """It plays on when another agent's network fails, and when its own does."""

    def fail(batch: MarketBatch, cycle: int) -> None:
        if cycle in DEATHS:
            parameters = batch.engine.state.parameters.clone()
            parameters[:, DEATHS[cycle]] = torch.nan
            batch.engine.overwrite(parameters)

    _expect_episode(trial, trial.market, fail)


def survives_a_closed_market(trial: PolicyTrial) -> None:
    """It plays on while the market is closed."""
    _expect_episode(trial, trial.market.changed(opens_at=trial.market.max_cycles))


def _expect_episode(trial: PolicyTrial, market: MarketConfig, disturb: Disturb = undisturbed) -> None:
    """Raise ``AssertionError`` if an episode in a market like the trial's ends early."""
    trial.require_episode()
    try:
        play(trial.policy, market, disturb, SHORT_EPISODE)
    except (PolicyError, ActionError) as fault:
        raise AssertionError(f"expected an episode of {SHORT_EPISODE} steps, got {fault}") from fault


def plays_any_observation(trial: PolicyTrial) -> None:
    """It acts in the space for every observation within the bounds, the lowest and the highest among them."""
    seat, rows = trial.recording.seat, trial.recording.rows
    player = trial.seated(rows)
    low, high = (torch.from_numpy(bound) for bound in (seat.layout.low, seat.layout.high))
    draws = torch.rand(
        len(rows), seat.layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    )
    for share in (torch.zeros_like(draws), torch.ones_like(draws), draws):
        require_in_space(player.act(low + (high - low) * share, trial.recording.masks[0].clone()), seat, len(rows))


POLICY_CHECKS = tuple(
    Check(function)
    for function in (
        takes_or_refuses_a_seat,
        finishes_an_episode,
        acts_in_the_space,
        acts_legally,
        is_deterministic,
        needs_no_market,
        leaves_the_market_alone,
        plays_each_row_alone,
        leaves_its_inputs_alone,
        leaves_global_randomness_alone,
        begins_anew,
        resets_only_the_given_rows,
        survives_deaths,
        survives_a_closed_market,
        plays_any_observation,
    )
)
"""All checks of a policy. Those that need another one are after it."""

COST_ROWS = 64
"""The number of markets that are played at once to measure the cost of a policy."""


def steps_per_second(policy: PolicyFactory, recording: Recording) -> float:
    """The agent-steps that a policy plays in a second on recorded observations."""
    rows = torch.arange(COST_ROWS, device="cpu") % len(recording.keys)
    player = seated(policy, recording.seat, recording.keys[rows])
    begin = time.perf_counter()
    repeat(player, recording, rows)
    return COST_ROWS * recording.num_steps / (time.perf_counter() - begin)
