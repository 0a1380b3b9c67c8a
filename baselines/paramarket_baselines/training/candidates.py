"""Candidates: trainings of one plan that differ only in their seeds. The best policy is kept.

Trainings with the same settings settle on different strategies, such as another price. The evaluations, in which all
candidates meet the same opponents on the same seeds, tell which of them is best.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from paramarket_baselines.policies.learned import MANIFEST, WEIGHTS, read_manifest
from paramarket_env.files import read_member, write_set

CANDIDATES = "candidates"
"""The folder of the candidates in that of a training."""


def candidate_folder(folder: Path, number: int) -> Path:
    """The folder of a candidate, which is that of a training of its own."""
    return folder / CANDIDATES / str(number)


class Best:
    """The best policy so far, with its evaluations, in the folder of the training."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.score = folder, -np.inf
        self.place: Path | None = None
        """The folder of the candidate that has found it."""

    def offer(self, place: Path) -> None:
        """Keep the policy in the folder of a candidate if it is better."""
        score = float(pd.read_csv(place / "evaluations.csv")["return"].max())
        if score > self.score:
            self.score, self.place = score, place
            manifest = place / MANIFEST
            content = json.loads(manifest.read_text(encoding="utf-8"))
            weights = read_member(manifest, read_manifest(manifest).files, WEIGHTS)
            write_set(self.folder / MANIFEST, content, {WEIGHTS: weights})
        if self.place == place:
            shutil.copyfile(place / "evaluations.csv", self.folder / "evaluations.csv")
