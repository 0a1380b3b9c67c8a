"""The protocol of the leaderboard: which opponents decide, on which scale, and which policies may take part.

Populations come in three sets. The *training set* may be trained against. The *held-out set* decides: its mean is the
headline of a policy. The *sealed set* is drawn with a secret salt (``benchmarks/sealed.py``). The reasons and sources
are in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paramarket_baselines.evaluation import trainings
from paramarket_baselines.evaluation.estimates import Estimate
from paramarket_baselines.evaluation.trainings import Trainings
from paramarket_baselines.policies.learned import MANIFEST, Learned, read_manifest, trainings_of
from paramarket_env.config import MarketConfig
from paramarket_env.files import expanded
from paramarket_env.interface.policy import POLICIES, PolicyFactory

PROTOCOL = 2
"""The version. Runs that were made under another one cannot be compared."""

TRAININGS = 5
"""The least number of trainings of a learned policy."""

LEAST_GAIN = 0.1
"""The least advantage of the best response, in units of reward. Against other populations there is no scale."""

TRAINING_SET = ("varied", "train", "paper", "patient", "greedy")
"""Populations that may be trained against, as may everything else that is not held out."""

HELD_OUT_RULES = {
    "random": "noise",
    "patient:4": "patience",
    "patient:10": "patience",
    "choosy": "threshold",
    "early": "horizon",
    "paper+reciprocal": "reciprocity",
    "paper+thompson": "bandit",
    "patient:5+cost-plus": "cost",
    "patient:6+ratchet": "adaptive price",
    "greedy+mirror": "adaptive price",
}
"""The rules that are held out, with their families."""

HELD_OUT_LEARNED = {"self-play": "learned", "exploiter": "learned"}
"""The learned policies that are held out, with their family. The leaderboard keeps one of each for each scenario."""

PRICE_FAMILIES = ("bandit", "cost", "adaptive price")
"""The families that differ from rules of the training set only by their prices."""


def held_out_rules(config: MarketConfig) -> dict[str, str]:
    """The rules that are held out in a market, with their families."""
    if config.economy.ask_levels[-1] > 0:
        return dict(HELD_OUT_RULES)
    return {rule: family for rule, family in HELD_OUT_RULES.items() if family not in PRICE_FAMILIES}


def met(opponents: Sequence[str], populations: Mapping[str, str]) -> list[str]:
    """The names of the populations that are among the opponents of a training.

    ``populations`` has the textual form of each by name. Policies are compared, not texts: ``patient`` is
    ``patient(patience=8)``, and a learned policy is its files, wherever they lie.
    """
    known = [_identity(POLICIES.parse(opponent)) for opponent in opponents]
    return [name for name, text in populations.items() if _identity(POLICIES.parse(text)) in known]


def _identity(policy: PolicyFactory) -> object:
    """A value that is the same for the same policies."""
    if not isinstance(policy, Learned):
        return policy
    manifest = expanded(policy.folder) / MANIFEST
    if manifest.is_file():
        return tuple(sorted(read_manifest(manifest).files.items()))
    return manifest.absolute()


def trained_against(policy: str) -> list[str]:
    """The opponents of all trainings of a policy; none for self-play, and for what is not a saved policy."""
    found: dict[str, None] = {}
    for training in map(POLICIES.parse, trainings_of(policy)):
        manifest = expanded(training.folder) / MANIFEST if isinstance(training, Learned) else None
        if manifest is not None and manifest.is_file():
            found |= dict.fromkeys(read_manifest(manifest).metadata.get("plan", {}).get("against", ()))
    return list(found)


@dataclass(frozen=True)
class Anchor:
    """The upper end of a population's scale: the best response that was found when the anchors were fixed."""

    gain: float
    """The mean of its advantage, in units of reward, over all seats and seeds."""
    by: str
    """The name of the best response."""

    @property
    def has_scale(self) -> bool:
        """Whether the gain is large enough for a scale."""
        return self.gain >= LEAST_GAIN


def best_response(advantages: Mapping[str, Trainings]) -> Anchor:
    """The anchor of a population, from the advantages of policies against it, ``[trainings, seats, seeds]`` each."""
    gains = {name: float(np.mean(found)) for name, found in advantages.items()}
    by = max(gains, key=lambda name: gains[name])
    return Anchor(gains[by], by)


def scaled(advantages: Mapping[str, Trainings], anchors: Mapping[str, Anchor]) -> Trainings:
    """The scores of a policy on the scale of each population, ``[trainings, populations * seats, seeds]``.

    ``advantages`` are those against each population, ``[trainings, seats, seeds]``: returns less those out of the
    market in the same seat and on the same seed. A score of 0 is the return out of the market, and 1 that of the best
    response. Populations without a scale are left out.
    """
    scores = [found / anchors[name].gain for name, found in advantages.items() if anchors[name].has_scale]
    return np.concatenate(scores, axis=1) if scores else np.empty((1, 0, 0))


def headline(advantages: Mapping[str, Trainings], anchors: Mapping[str, Anchor]) -> Estimate:
    """The mean of the scaled scores over populations, seats and seeds, with its interval over trainings and seeds."""
    return trainings.mean(scaled(advantages, anchors))


def lead(mine: Mapping[str, Trainings], theirs: Mapping[str, Trainings], anchors: Mapping[str, Anchor]) -> Estimate:
    """The headline of a policy minus that of another, paired by population, seat and seed, with its interval."""
    return trainings.difference(scaled(mine, anchors), scaled(theirs, anchors))
