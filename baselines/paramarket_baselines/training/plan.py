"""The plan of a training: its settings, those that suit a scenario, and whether a checkpoint fits to them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from paramarket_baselines.policies.learned import MANIFEST, read_manifest
from paramarket_baselines.training.candidates import candidate_folder
from paramarket_baselines.training.league import DEFAULTS, LeagueSettings
from paramarket_env.config import MarketConfig
from paramarket_env.files import expanded
from paramarket_env.interface.policy import POLICIES
from paramarket_env.scenarios import scenario
from paramarket_env.validation import Count, configuration, explain, require

CANDIDATE_STRIDE = 648_055
"""The seeds of two candidates differ by this number: near 2**20 times the golden ratio, so that few seeds coincide."""


@configuration
class Plan:
    """The settings of a training. To resume it, only ``timesteps`` may differ, and ``candidates`` may be more."""

    config: MarketConfig
    algo: str = "ppo"
    """`ppo`, `a2c`, `dqn` (only in verb mode) or, with sb3-contrib, `maskable-ppo` or `recurrent-ppo` (an LSTM)."""
    timesteps: Count = 200_000
    """Agent-steps to train for, counting only agents that learn."""
    num_markets: Count = 48
    """Number of markets."""
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    """Seed of the algorithm and of the markets."""
    against: tuple[str, ...] = ()
    """In each market one agent learns, and one of these policies has all other seats. Without any, all agents learn."""
    league: bool = False
    """In each episode draw one of the opponents anew; imitate rules first, and remember the episode."""
    league_settings: LeagueSettings = DEFAULTS
    """The settings of a league's algorithm."""
    candidates: Annotated[int, Field(ge=1, le=5)] = 1
    """The number of policies that a league trains one after another, each for so many timesteps. A later one meets the
    earlier ones in half of its episodes. The league keeps a mixture of them."""

    def each_candidate(self) -> list[Plan]:
        """The plans of the candidates: of each the plan with its seed and one candidate. The first has this seed."""
        seeds = [(self.seed + number * CANDIDATE_STRIDE) % 2**20 for number in range(self.candidates)]
        return [replace(self, seed=seed, candidates=1) for seed in seeds]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        settings = asdict(self.league_settings) | {"layers": list(self.league_settings.layers)}
        return {
            **vars(self),
            "config": self.config.to_dict(),
            "against": list(self.against),
            "league_settings": settings,
        }

    def __post_init__(self) -> None:
        verb = self.config.action_mode == "verb"
        require(self.algo != "dqn" or verb, "algo", self.algo, "an algorithm other than dqn in round mode")
        require(not self.league or self.algo == "ppo", "algo", self.algo, "ppo in a league")
        require(not self.league or len(self.against) > 0, "against", self.against, "one or more policies in a league")
        require(self.league or self.candidates == 1, "candidates", self.candidates, "1 without a league")
        settings = self.league_settings
        require(self.league or settings == DEFAULTS, "league_settings", settings, "the default without a league")
        members, rollout = settings.members * self.config.agents, self.config.max_cycles * self.num_markets
        fits = not self.league or self.num_markets % members == 0
        require(fits, "num_markets", self.num_markets, f"a multiple of {members} in a league")
        equal = not self.league or rollout % settings.minibatches == 0
        require(equal, "minibatches", settings.minibatches, f"a divisor of the {rollout} agent-steps of a rollout")


TRAINING_OPPONENTS = ("train", "paper", "patient", "greedy")
"""The default populations of a training. An evaluation has others, too."""

TUNED: dict[str, dict[str, Any]] = {
    # With three agents or three parameter sets a step takes twice as long.
    "digits-layers-short": {"timesteps": 120_000},
    "three-firms-short": {"timesteps": 120_000},
    "costly-training-short": {"timesteps": 120_000},
    # One learner among eight would learn from an eighth of what is computed.
    "crowd-short": {"against": (), "num_markets": 12, "timesteps": 120_000},
    "crowd-64": {"against": (), "num_markets": 2, "timesteps": 120_000},
    "crowd-256": {"against": (), "num_markets": 1, "timesteps": 120_000},
}
"""Settings by scenario that differ from a plan's defaults with one learner against ``TRAINING_OPPONENTS``."""


LEAGUES: dict[str, dict[str, Any]] = {
    # A step with more firms takes longer. With fewer agent-steps, smaller rollouts leave enough updates.
    "three-firms-short": {"timesteps": 120_000, "num_markets": 384},
    "costly-training-short": {"timesteps": 120_000, "num_markets": 384},
    "crowd-short": {"timesteps": 40_000, "num_markets": 192, "candidates": 1},
}
"""Settings by scenario that differ from the defaults of a league."""


def tuned_league(config: MarketConfig, name: str = "", settings: LeagueSettings = DEFAULTS) -> Plan:
    """The plan of a league in a market, or in the scenario of that name."""
    unit = math.lcm(settings.members * config.agents, settings.minibatches)
    markets = max(768 // unit, 1) * unit
    chosen = {"timesteps": 200_000, "num_markets": markets, "candidates": 2, **LEAGUES.get(name, {})}
    return Plan(config, against=("varied",), league=True, league_settings=settings, **chosen)


def tuned(name: str) -> Plan:
    """The plan for a scenario."""
    return Plan(scenario(name), **{"against": TRAINING_OPPONENTS, **TUNED.get(name, {})})


def check_resume(plan: Plan, folder: Path | str) -> None:
    """Refuse to resume with a plan that differs from that of the checkpoint in the folder.

    A setting that the stored plan lacks has its default there. Raises ``FileNotFoundError`` if there is no checkpoint,
    and ``ValueError`` for a damaged one, for one with settings that are unknown, and for a different plan.
    """
    folder = expanded(folder)
    places = [folder] if plan.candidates == 1 else [candidate_folder(folder, place) for place in range(plan.candidates)]
    manifests = [place / "checkpoint" / MANIFEST for place in places]
    begun = [pair for pair in zip(plan.each_candidate(), manifests, strict=True) if pair[1].exists()]
    if not begun:
        several = f" with {plan.candidates} candidates" if plan.candidates > 1 else ""
        raise FileNotFoundError(f"out={str(folder)!r} has no checkpoint{several} to resume: train without --resume")
    for candidate, manifest in begun:
        _check_same(candidate, manifest)


def _check_same(plan: Plan, manifest: Path) -> None:
    """Raise ``ValueError`` unless the plan is that of a checkpoint, or one with other timesteps."""
    saved = _stored_plan(manifest)
    # As policies, not as texts: `patient` and `patient(patience=6)` are the same if 6 is the default.
    same_opponents = [*map(POLICIES.parse, plan.against)] == [*map(POLICIES.parse, saved.against)]
    for name, now, then in _differences(plan.to_dict(), saved.to_dict()):
        same = name == "timesteps" or (name == "against" and same_opponents)
        require(same, name, now, f"{then!r}, as in the checkpoint in {str(manifest.parent)!r}")


def _stored_plan(manifest: Path) -> Plan:
    try:
        text = json.dumps(read_manifest(manifest).metadata.get("plan"))
        plan: Plan = TypeAdapter(Plan).validate_json(text)
    except ValidationError as error:
        raise ValueError(f"{str(manifest)!r} cannot be resumed: {explain(error, 'plan')}") from None
    return plan


def _differences(here: Any, there: Any, name: str = "") -> Sequence[tuple[str, Any, Any]]:
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted({*here, *there})
        pairs = [(f"{name}.{key}".lstrip("."), here.get(key), there.get(key)) for key in keys]
        return [found for field, now, then in pairs for found in _differences(now, then, field)]
    return [] if here == there else [(name, here, there)]
