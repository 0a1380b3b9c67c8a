"""A tidy table as means over agents, from which arms are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from paramarket_baselines.evaluation.estimates import Estimate, student_mean


@dataclass(frozen=True)
class Grouped:
    """A table's means over the agents of a group, by setting."""

    means: dict[str, pd.DataFrame]
    """For each setting in words, the mean of every measure by arm and seed."""

    @classmethod
    def of(cls, table: pd.DataFrame, settings: Sequence[str], by: str = "") -> Grouped:
        """Group a tidy table by its settings, and by agent or task if ``by`` says so."""
        columns = [*settings, *([by] if by else [])]
        groups = table.groupby(columns, sort=False)
        return cls({_words(columns, values, by): _means(group) for values, group in groups})

    def estimate(self, setting: str, arm: str, measure: str) -> Estimate:
        """The mean of an arm over seeds."""
        return student_mean(self.by_seed(setting, arm, measure).tolist())

    def difference(self, setting: str, better: str, worse: str, measure: str) -> Estimate:
        """The mean of one arm minus that of another, paired by seed."""
        return student_mean(self.paired(setting, better, worse, measure).tolist())

    def paired(self, setting: str, better: str, worse: str, measure: str) -> pd.Series:
        """One arm minus another, by seed; NaN where one was not played."""
        return self.by_seed(setting, better, measure) - self.by_seed(setting, worse, measure)

    def by_seed(self, setting: str, arm: str, measure: str) -> pd.Series:
        """The mean over agents by seed; empty if the arm was not played."""
        means = self.means[setting]
        found: pd.Series = means[means.arm == arm].set_index("seed")[measure]
        return found


def _means(group: pd.DataFrame) -> pd.DataFrame:
    means: pd.DataFrame = group.groupby(["arm", "seed"], sort=False).mean(numeric_only=True).reset_index()
    return means


def _words(columns: Sequence[str], values: object, by: str) -> str:
    each = values if isinstance(values, tuple) else (values,)
    named = zip(columns, each, strict=True)
    return ", ".join(f"{column} {value}" if _needs_name(column, value, by) else str(value) for column, value in named)


def _needs_name(column: str, value: object, by: str) -> bool:
    """Whether a value says too little without its column: a number does."""
    return not isinstance(value, str) or (column == by == "agent")
