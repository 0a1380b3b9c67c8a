"""Candidates: trainings of one plan that differ only in their seeds. The best policy is kept.

Trainings with the same settings settle on different strategies, such as another price. In the end all candidates play
the same episodes, and the one with the highest score is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from paramarket_baselines.policies.learned import MANIFEST, WEIGHTS, read_manifest
from paramarket_baselines.training.comparison import compared
from paramarket_env.config import MarketConfig
from paramarket_env.files import read_member, write_file, write_set

CANDIDATES = "candidates"
"""The folder of the candidates in that of a training."""

COMPARED = 768
"""The number of episodes in which candidates are compared, over all seats. Fewer would favour the lucky one."""


def candidate_folder(folder: Path, number: int) -> Path:
    """The folder of a candidate, which is that of a training of its own."""
    return folder / CANDIDATES / str(number)


def best_candidate(
    config: MarketConfig, places: Sequence[Path], populations: Sequence[str], device: str | torch.device
) -> int:
    """The number of the best of the policies in the folders, by their scores (:func:`~.comparison.compared`)."""
    return int(compared(config, [f"learned:{place}" for place in places], populations, COMPARED, device).argmax())


def keep_candidate(folder: Path, place: Path) -> None:
    """Copy the policy of a candidate, and its evaluations, into the folder of the training."""
    write_file(folder / "evaluations.csv", (place / "evaluations.csv").read_bytes())
    manifest = place / MANIFEST
    content = json.loads(manifest.read_text(encoding="utf-8"))
    write_set(folder / MANIFEST, content, {WEIGHTS: read_member(manifest, read_manifest(manifest).files, WEIGHTS)})
