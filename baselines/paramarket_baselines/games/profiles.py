"""Play profiles of policies, one by one, in a form that can be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.evaluation.welfare import returns
from paramarket_baselines.games.payoffs import Profile
from paramarket_env.config import MarketConfig
from paramarket_env.interface.policy import PolicyFactory
from paramarket_env.validation import require


@dataclass(frozen=True)
class PlayedProfile:
    """The returns of a profile's policies."""

    profile: Profile
    seeds: tuple[int, ...]
    returns: Mapping[str, tuple[float, ...]]
    """The mean return of a seat with a policy, over all distinct seatings of the profile, for each seed."""

    def payoff(self) -> dict[str, float]:
        """The mean return of each policy."""
        return {name: float(np.mean(by_seed)) for name, by_seed in self.returns.items()}

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can store."""
        by_name = {name: list(by_seed) for name, by_seed in self.returns.items()}
        return {"profile": list(self.profile), "seeds": list(self.seeds), "returns": by_name}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> PlayedProfile:
        """The returns of a stored form."""
        by_name = {name: tuple(by_seed) for name, by_seed in stored["returns"].items()}
        return cls(tuple(stored["profile"]), tuple(stored["seeds"]), by_name)


def seatings(profile: Sequence[str]) -> Iterator[Profile]:
    """All distinct orders of the profile's policies."""
    if not profile:
        yield ()
    for first in dict.fromkeys(profile):
        rest = list(profile)
        rest.remove(first)
        yield from ((first, *others) for others in seatings(rest))


def play_profile(
    config: MarketConfig,
    profile: Profile,
    policies: Mapping[str, Sequence[str | PolicyFactory]],
    seeds: Sequence[int],
    device: str | torch.device = "auto",
) -> PlayedProfile:
    """Play all distinct seatings of a profile on the same seeds, since the agents of a market have different data.

    ``policies`` maps the names in the profile to the policies that play: one for a rule, and the trainings of a learned
    policy, which take turns from seed to seed.
    """
    require(len(profile) == config.agents, "profile", profile, f"of {config.agents} policies, one for each agent")
    every = list(seatings(profile))
    totals = {name: np.zeros(len(seeds)) for name in profile}
    turns = max(len(policies[name]) for name in profile)
    for turn, seating in product(range(min(turns, len(seeds))), every):
        playing = tuple(policies[name][turn % len(policies[name])] for name in seating)
        found = returns(play(config, Arm("profile", playing), seeds[turn::turns], device, closing_trade=False))
        for seat, name in enumerate(seating):
            totals[name][turn::turns] += found.xs(seat, level="agent")[list(seeds[turn::turns])]
    means = {name: totals[name] / (seats * len(every)) for name, seats in Counter(profile).items()}
    return PlayedProfile(profile, tuple(seeds), {name: tuple(total.tolist()) for name, total in means.items()})
