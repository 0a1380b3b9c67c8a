"""The findings of a table: whether an order of arms holds, and in which settings."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

from benchmarks.paper.experiment import KINDS, Experiment, Order
from benchmarks.paper.grouped import Grouped
from paramarket_baselines.evaluation.estimates import Estimate

FEW = 4
"""The largest number of settings that a sentence lists."""


@dataclass(frozen=True)
class Finding:
    """In which settings an order of arms holds."""

    order: Order
    steps: dict[str, list[Estimate]]
    """The differences of neighbouring arms in each setting in which all arms were played."""

    @property
    def holds(self) -> list[str]:
        """The settings in which the intervals of all steps are above zero."""
        return [setting for setting, steps in self.steps.items() if all(step.low > 0 for step in steps)]

    @property
    def reversed(self) -> list[str]:
        """The settings in which the interval of a step is below zero."""
        return [setting for setting, steps in self.steps.items() if any(step.high < 0 for step in steps)]

    @property
    def verdict(self) -> str:
        """Whether the order is supported, in a few words."""
        count, all_settings = len(self.holds), len(self.steps)
        if not all_settings:
            return "not played"
        against = f", the opposite in {len(self.reversed)}" if self.reversed else ""
        if count == all_settings:
            return "supported" if all_settings == 1 else f"supported in all {all_settings} settings"
        return f"supported in {count} of {all_settings} settings{against}" if count else f"not supported{against}"

    @property
    def sentence(self) -> str:
        """The verdict, with the figures of the setting in which the order is the clearest."""
        if not self.steps:
            return f"{self.order.says}: not played."
        setting = max(self.steps, key=lambda name: min(step.low for step in self.steps[name]))
        kind = KINDS[self.order.measure]
        figures = " and ".join(step.symmetric(kind.digits) for step in self.steps[setting])
        arms = " < ".join(self.order.arms)
        clearest = f" ({setting})" if len(self.steps) > 1 else ""
        return (
            f"{self.order.says}: **{self.verdict}**{self._where}. {arms}, apart by {figures} {kind.unit} at the "
            f"clearest{clearest}."
        )

    @property
    def _where(self) -> str:
        """The settings in which the order holds, if they are few."""
        few = len(self.steps) > 1 and 0 < len(self.holds) <= FEW and len(self.holds) < len(self.steps)
        return f" ({'; '.join(self.holds)})" if few else ""


def findings(experiment: Experiment, grouped: Grouped) -> list[Finding]:
    """The findings on the experiment's orders, one for each."""
    return [Finding(order, _steps(order, grouped)) for order in experiment.orders]


def _steps(order: Order, grouped: Grouped) -> dict[str, list[Estimate]]:
    found = {
        setting: [grouped.difference(setting, better, worse, order.measure) for worse, better in order.steps]
        for setting in grouped.means
    }
    return {setting: steps for setting, steps in found.items() if not any(isnan(step.low) for step in steps)}


def differences(experiment: Experiment) -> list[tuple[str, str, str]]:
    """The pairs of arms, worse and better, and the measures that the orders compare, each once."""
    return list(dict.fromkeys((*step, order.measure) for order in experiment.orders for step in order.steps))
