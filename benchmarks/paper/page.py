"""The page of an experiment: question, command, verdicts, tables and a picture, all from its tidy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from benchmarks.paper.experiment import KINDS, Experiment
from benchmarks.paper.findings import Finding, differences, findings
from benchmarks.paper.grouped import Grouped
from paramarket_baselines.evaluation.display import markdown

CLAIMS = {
    1: "buyers need not train from scratch",
    2: "out of the market < in the market without alignment < in the market with alignment",
    3: "trade helps even if only a part of the parameters is traded",
    4: "trade helps even between agents with different tasks",
    5: "pricing is viable in a competitive setting",
}
"""The claims of the paper (Huang, Vishwakarma and Sala 2023), in short."""

MEANS = {
    "": "Means over the agents and the seeds",
    "agent": "Means over the seeds",
    "task": "Means over the agents of a task and the seeds",
}

LEGEND = (
    "{means}, ± half-widths of 95 % intervals over the seeds. Differences are paired by seed. An order is supported if "
    "the intervals of all its steps are above zero. The intervals are not corrected for their number."
)

LISTED = 6
"""The largest number of cells that a page lists by name."""

UNCLAIMED = 10
"""The place in the index of experiments that test no claim."""

QUICK = "**Quick run**: it has fewer seeds, and smaller or shorter markets than the full run."


@dataclass(frozen=True)
class Page:
    """The findings of an experiment, and how they are written."""

    name: str
    experiment: Experiment
    table: pd.DataFrame
    """The tidy table; without rows if nothing was played."""
    command: str
    quick: bool
    holes: Mapping[str, str]
    """The reasons why cells were not played, by their labels."""

    @cached_property
    def settings(self) -> list[str]:
        """The columns that tell markets apart."""
        return list(self.table.columns[: self.table.columns.get_loc("arm")])

    @cached_property
    def grouped(self) -> Grouped:
        """The means over agents."""
        return Grouped.of(self.table, self.settings, self.experiment.by)

    @cached_property
    def findings(self) -> list[Finding]:
        """The verdicts."""
        return findings(self.experiment, self.grouped)

    @property
    def filled(self) -> bool:
        """Whether anything was played."""
        return not self.table.empty

    @property
    def missing(self) -> list[str]:
        """The cells that were not played, by the reason why."""
        labels: dict[str, list[str]] = {}
        for label, why in self.holes.items():
            labels.setdefault(why, []).append(label)
        return [f"{_listed(which)}: {why}" for why, which in labels.items()]

    @property
    def sentences(self) -> list[str]:
        """The verdicts in words."""
        if not self.filled:
            return []
        found = [finding.sentence for finding in self.findings]
        return found + (self.experiment.summary(self.grouped) if self.experiment.summary else [])

    def markdown(self) -> str:
        """The page."""
        experiment = self.experiment
        claim = [f"The paper's claim {experiment.claim}: {CLAIMS[experiment.claim]}."] if experiment.claim else []
        parts = [
            f"# {self.name}",
            " ".join([experiment.question, *claim]),
            *([experiment.note] if experiment.note else []),
            f"```sh\n{self.command}\n```",
            *([QUICK] if self.quick else []),
            "\n".join(f"- {sentence}" for sentence in self.sentences),
            f"![{KINDS[experiment.measures[0]].label}]({self.name}.png)",
            *(part for measure in experiment.measures for part in self._table(measure)),
            LEGEND.format(means=MEANS[experiment.by]),
            *(["Not played:", "\n".join(f"- {line}" for line in self.missing)] if self.missing else []),
            self._origin(),
        ]
        return "\n\n".join(parts) + "\n"

    def _table(self, measure: str) -> list[str]:
        kind = KINDS[measure]
        arms = list(dict.fromkeys(self.table.arm))
        pairs = [(better, worse) for worse, better, compared in differences(self.experiment) if compared == measure]
        rows = {
            setting: [
                *(self.grouped.estimate(setting, arm, measure).symmetric(kind.digits) for arm in arms),
                *(self.grouped.difference(setting, *pair, measure).symmetric(kind.digits) for pair in pairs),
            ]
            for setting in self.grouped.means
        }
        labels = [*arms, *(f"{better} − {worse}" for better, worse in pairs)]
        title = "percent, and differences in points" if measure == "test_accuracy" else kind.unit
        return [f"## {kind.label}, {title}", markdown(rows, labels, "setting")]

    def _origin(self) -> str:
        machines = ", ".join(sorted(set(self.table.device)))
        versions = "; ".join(sorted(set(self.table.versions)))
        seeds = f"{self.table.seed.min()} to {self.table.seed.max()}"
        return f"Figures: [{self.name}.csv]({self.name}.csv). Seeds {seeds}; {machines}; {versions}."


def _listed(labels: Sequence[str]) -> str:
    return "; ".join(labels) if len(labels) <= LISTED else f"{len(labels)} cells"


def index(pages: Sequence[Page]) -> str:
    """The page of all experiments, first those that test a claim, and what was not played."""
    filled = [page for page in pages if page.filled]
    parts = ["# The paper's claims and what came out here"]
    for page in sorted(filled, key=lambda page: page.experiment.claim or UNCLAIMED):
        claim = f"Claim {page.experiment.claim}: " if page.experiment.claim else ""
        parts += [
            f"## {claim}[{page.name}]({page.name}.md)",
            page.experiment.question,
            "\n".join(f"- {sentence}" for sentence in page.sentences),
        ]
    missing = [f"- {page.name}, {line}" for page in pages for line in page.missing]
    return "\n\n".join([*parts, "## Holes", "\n".join(missing) or "Everything was played."]) + "\n"
