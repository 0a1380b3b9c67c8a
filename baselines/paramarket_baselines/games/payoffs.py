"""Payoffs of a symmetric game, by counts of strategies.

A strategy is a policy. All players have the same strategies, and a strategy's payoff depends on how many opponents play
each strategy, not on who they are. For markets whose agents differ, this holds for the mean over all seatings; see
:mod:`paramarket_baselines.games.profiles`.

A market of many agents has too many profiles. Its deviation-preserving reduction is a game of fewer players, each of
whose opponents stands for an equal share of the other agents; only the player itself is a single agent (Wiedenbeck and
Wellman, *Scaling simulation-based game analysis through deviation-preserving reduction*, AAMAS 2012). With two players,
a payoff is the return of one agent while all others have one policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from scipy.special import gammaln

from paramarket_env.validation import require

Profile = tuple[str, ...]
"""The strategies of all agents of a market, sorted by name."""

SAME = 1e-9
"""The largest difference of payoffs that are taken as equal, in units of their range."""


@dataclass(frozen=True, eq=False)
class Payoffs:
    """The payoffs of a symmetric game."""

    strategies: tuple[str, ...]
    players: int
    table: np.ndarray
    """The payoff of each strategy against each multiset of opponents' strategies, float64 ``[strategies, multisets]``.

    The multisets are in the order of :attr:`opponents`. For two players, a multiset is a strategy, and the table is the
    payoff matrix of the row player.
    """

    def __post_init__(self) -> None:
        """Refuse tables of the wrong shape, and missing payoffs."""
        require(self.players >= 2, "players", self.players, "at least 2")
        require(len(set(self.strategies)) == len(self.strategies), "strategies", self.strategies, "different")
        shape = (len(self.strategies), len(self.opponents))
        require(self.table.shape == shape, "table", self.table.shape, f"of shape {shape}")
        require(bool(np.isfinite(self.table).all()), "table", self.table, "finite")

    @cached_property
    def opponents(self) -> np.ndarray:
        """The number of opponents that play each strategy, int64 ``[multisets, strategies]``."""
        return _counts(len(self.strategies), self.players - 1)

    @cached_property
    def profiles(self) -> np.ndarray:
        """The number of players with each strategy in each profile, int64 ``[profiles, strategies]``."""
        return _counts(len(self.strategies), self.players)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The payoffs against one opponent and each multiset of the others, the multisets, and their numbers of orders.

        Payoffs float64 ``[strategies, strategies, multisets]``, counts int64 ``[multisets, strategies]``, numbers
        float64 ``[multisets]``.
        """
        others = _counts(len(self.strategies), self.players - 2)
        columns = [[self._column[tuple(counts)] for counts in (others + one).tolist()] for one in self._units]
        orders = np.rint(np.exp(gammaln(self.players - 1) - gammaln(others + 1).sum(1)))
        return self.table[:, columns], others, orders

    @cached_property
    def _column(self) -> dict[tuple[int, ...], int]:
        """The column of the table for each multiset of opponents."""
        return {tuple(counts): column for column, counts in enumerate(self.opponents.tolist())}

    @cached_property
    def _units(self) -> np.ndarray:
        """The counts of a single player of each strategy."""
        return np.eye(len(self.strategies), dtype=int)

    def against_each(self, mixtures: np.ndarray) -> np.ndarray:
        """The expected payoff of each strategy against one opponent's strategy, ``[..., strategies, strategies]``.

        All other opponents draw their strategies from the mixture ``[..., strategies]``, so their counts are
        multinomial.
        """
        table, others, orders = self._pairs
        chances = orders * (mixtures[..., None, :] ** others).prod(-1)
        return np.asarray(np.einsum("...m,ijm->...ij", chances, table))

    def against(self, mixtures: np.ndarray) -> np.ndarray:
        """The expected payoff of each strategy if all opponents draw theirs from the mixture ``[..., strategies]``."""
        return np.asarray((self.against_each(mixtures) @ mixtures[..., None])[..., 0])

    def incentives(self) -> np.ndarray:
        """The incentive to deviate to each strategy in each profile, float64 ``[strategies, profiles]``.

        It is the payoff of the strategy minus that of a player's own, averaged over the players of the profile.
        """
        incentives = np.zeros((len(self.strategies), len(self.profiles)))
        for index, counts in enumerate(self.profiles):
            for own in np.flatnonzero(counts):
                payoffs = self.table[:, self._column[tuple((counts - self._units[own]).tolist())]]
                incentives[:, index] += counts[own] / self.players * (payoffs - payoffs[own])
        return incentives

    def restricted(self, kept: Sequence[int]) -> Payoffs:
        """The game with the strategies of these indices alone, which are in ascending order."""
        inside = self.opponents[:, list(kept)].sum(1) == self.players - 1
        return Payoffs(tuple(self.strategies[index] for index in kept), self.players, self.table[list(kept)][:, inside])

    def distinct(self) -> list[int]:
        """The indices of the strategies without copies of earlier ones, which never make a difference to any payoff."""
        kept: list[int] = []
        for strategy in range(len(self.strategies)):
            if not any(self._is_copy(strategy, earlier) for earlier in kept):
                kept.append(strategy)
        return kept

    def _is_copy(self, strategy: int, earlier: int) -> bool:
        """Whether all payoffs stay the same if the earlier strategy takes a strategy's place."""
        replaced = np.arange(len(self.strategies))
        replaced[strategy] = earlier
        columns = [self._column[tuple(counts)] for counts in (self.opponents @ self._units[replaced]).tolist()]
        return bool(abs(self.table[replaced][:, columns] - self.table).max() <= SAME * self.scale)

    @property
    def scale(self) -> float:
        """The largest difference of two payoffs, or 1 if all are equal."""
        return float(np.ptp(self.table)) or 1.0

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can store."""
        return {"strategies": list(self.strategies), "players": self.players, "table": self.table.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Payoffs:
        """The payoffs of a stored form."""
        return cls(tuple(stored["strategies"]), stored["players"], np.array(stored["table"], dtype=float))


def profiles(strategies: Sequence[str], players: int, agents: int) -> list[Profile]:
    """The profiles of a market of so many agents that a game of so many players needs, without repetition."""
    return list(dict.fromkeys(_profile(own, others, agents) for own, others in _cells(strategies, players)))


def tabulate(
    strategies: Sequence[str], players: int, agents: int, payoff: Callable[[Profile], Mapping[str, float]]
) -> Payoffs:
    """The payoffs of a game, from a function that returns the mean payoff of each strategy in a profile of the market.

    With fewer players than agents, the game is the deviation-preserving reduction. Then the number of other agents must
    be a multiple of the number of other players. The function is called once for each of :func:`profiles`.
    """
    played = {profile: payoff(profile) for profile in profiles(strategies, players, agents)}
    cells = [played[_profile(own, others, agents)][own] for own, others in _cells(strategies, players)]
    return Payoffs(tuple(strategies), players, np.array(cells, dtype=float).reshape(len(strategies), -1))


def _cells(strategies: Sequence[str], players: int) -> list[tuple[str, Profile]]:
    """A strategy and its opponents' strategies for every cell of the table, row by row."""
    opponents = list(combinations_with_replacement(strategies, players - 1))
    return [(own, others) for own in strategies for others in opponents]


def _profile(own: str, others: Profile, agents: int) -> Profile:
    """The profile of a market in which one agent has its own strategy, and every opponent stands for equally many."""
    require((agents - 1) % len(others) == 0, "players", len(others) + 1, f"such that {agents - 1} others share equally")
    return tuple(sorted((own, *others * ((agents - 1) // len(others)))))


def _counts(strategies: int, size: int) -> np.ndarray:
    """All multisets of so many of the strategies, as counts, int64 ``[multisets, strategies]``."""
    chosen = np.array(list(combinations_with_replacement(range(strategies), size)), dtype=int)
    return np.asarray((chosen[:, :, None] == np.arange(strategies)).sum(1))
