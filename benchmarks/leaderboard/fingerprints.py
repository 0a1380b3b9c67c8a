"""Fingerprints say whether a policy is still the one that was met before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.leaderboard.entries import LEARNED
from paramarket_baselines.policies.learned import MANIFEST, WEIGHTS, read_manifest
from paramarket_baselines.policies.varied import OPPONENTS
from paramarket_env.files import expanded


def fingerprint(policy: str) -> str:
    """The textual form of a rule, or what defines the policy, wherever that lies, as hashes."""
    if policy.startswith("file:"):
        return hashlib.sha256(Path(policy.removeprefix("file:")).read_bytes()).hexdigest()
    if policy == "varied":
        return f"{policy} {hashlib.sha256(repr(OPPONENTS).encode()).hexdigest()}"
    manifest = expanded(policy.removeprefix(LEARNED)) / MANIFEST
    if not (policy.startswith(LEARNED) and manifest.is_file()):
        return policy
    saved = read_manifest(manifest)
    return " ".join([saved.files[WEIGHTS], *map(str, saved.chances[1:])])


def fingerprints(policies: Iterable[str]) -> list[str]:
    """The fingerprint of each policy."""
    return [fingerprint(policy) for policy in policies]
