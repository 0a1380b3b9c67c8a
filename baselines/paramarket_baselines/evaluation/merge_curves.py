"""Loss and accuracy of purchases over the merge weight, with and without alignment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramarket_baselines.evaluation.names import fit
from paramarket_baselines.evaluation.report import ARM_NAME_WIDTH, draw_band
from paramarket_env.autograd import no_grad
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.pictures import literal, new_figure
from paramarket_env.learning.alignment.aligner import NoAlignment
from paramarket_env.learning.alignment.permutations import permute
from paramarket_env.learning.curves import Lines, merge_curves
from paramarket_env.learning.merging import Linear
from paramarket_env.learning.statistics import own_samples
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import StepRecord
from paramarket_env.market.state import tree_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEIGHTS = (0.0, *Linear().weights, 1.0)
"""The merge weights of a curve: those that a broker tries by default, and both ends, the buyer's network and the
seller's."""

COLUMNS = [
    *("arm", "seed", "cycle", "purchase", "buyer", "seller", "parameter_set", "aligned", "merge_weight"),
    *("validation_loss", "validation_accuracy"),
]
"""The columns of :func:`curve_table`."""


@dataclass(frozen=True)
class Purchases:
    """One purchase of each of N agents in M markets, with the networks as they stood before it."""

    cycle: Tensor
    """int64 ``[M, N]``: the cycle after the purchase, or -1 for an agent that has not bought."""
    seller: Tensor
    """int64 ``[M, N]``."""
    good: Tensor
    """int64 ``[M, N]``: the parameter set."""
    buyers: Tensor
    """float32 ``[M, N, P]``."""
    sellers: Tensor
    """float32 ``[M, N, P]``, not aligned."""
    permutations: Tensor
    """``[M, N, H]``: they bring the seller's hidden units into the buyer's order."""


def _no_purchases(engine: Engine) -> Purchases:
    nothing, networks = torch.full_like(engine.state.bought, -1), torch.zeros_like(engine.state.parameters)
    permutations = torch.zeros_like(engine.state.quotes.permutations[:, :, 0])
    return Purchases(nothing, nothing, nothing, networks, networks, permutations)


def _where(chosen: Tensor, mine: Purchases, others: Purchases) -> Purchases:
    """The purchases in ``mine`` of the chosen agents, bool ``[M, N]``, and the other agents' in ``others``."""
    return tree_map(lambda a, b: torch.where(chosen.view(*chosen.shape, *(1,) * (a.dim() - 2)), a, b), mine, others)


class PurchaseCurves:
    """Watches an episode (see ``play``), and then computes the curves of each agent's first and last purchase.

    It sees the networks after each step, so it does not know of averages that an arm takes before the next.
    """

    def __init__(self, arm: str, seeds: Sequence[int]) -> None:
        self.arm, self.seeds = arm, np.asarray(seeds)

    def watch(self, batch: MarketBatch, record: StepRecord | None) -> None:
        """Keep the purchases of the step, and the networks between which the next step trades."""
        state = batch.engine.state
        if record is None:
            self.engine, self.set_names = batch.engine, np.asarray(batch.set_names, dtype=object)
            self.first = self.last = _no_purchases(batch.engine)
        elif bool(record.bought.any()):
            made = self._made(record)
            self.first = _where(record.bought & (self.first.cycle < 0), made, self.first)
            self.last = _where(record.bought, made, self.last)
        self.networks, self.permutations = state.parameters.clone(), state.quotes.permutations.clone()

    def _made(self, record: StepRecord) -> Purchases:
        """The purchases of a step. The entries of agents that did not buy have no meaning."""
        seller, (slot, good) = record.seller.clamp_min(0), self._slot_and_good(record.offer.clamp_min(0))
        market, agent = (torch.arange(size, device=seller.device) for size in seller.shape)
        cycle = self.engine.state.cycle.unsqueeze(1).expand_as(seller)
        sellers = self.networks[market[:, None], seller]
        return Purchases(cycle, seller, good, self.networks, sellers, self.permutations[market[:, None], agent, slot])

    def _slot_and_good(self, offer: Tensor) -> tuple[Tensor, Tensor]:
        return offer // len(self.set_names), offer % len(self.set_names)

    def parts(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of :func:`curve_table` for each of first and last purchase, unaligned and aligned."""
        alignments = [False] if self.engine.config.broker.aligner == NoAlignment() else [False, True]
        for (name, purchases), aligned in product((("first", self.first), ("last", self.last)), alignments):
            if bool((purchases.cycle >= 0).any()):
                yield self._curves(purchases, aligned=aligned).assign(arm=self.arm, purchase=name, aligned=aligned)

    @no_grad
    def _curves(self, purchases: Purchases, *, aligned: bool) -> pd.DataFrame:
        engine, bought = self.engine, purchases.cycle >= 0
        market, buyer = bought.nonzero().unbind(1)
        chosen = tree_map(lambda tensor: tensor[bought], purchases)
        sellers = permute(engine.network, chosen.sellers, chosen.permutations) if aligned else chosen.sellers
        masks, samples = engine.broker.goods.masks[chosen.good], engine.state.partition.validation
        own = own_samples(engine.network, engine.state.partition, market, buyer)
        lines = Lines(chosen.buyers, sellers, masks, samples[market, engine.tasks.of_agent[buyer]], own)
        weights = torch.tensor(WEIGHTS, device=market.device)
        loss, accuracy = merge_curves(engine.network, engine.dataset, lines, weights)
        columns: dict[str, Any] = {
            "seed": self.seeds[market.cpu()],
            "cycle": chosen.cycle.cpu(),
            "buyer": buyer.cpu(),
            "seller": chosen.seller.cpu(),
            "parameter_set": self.set_names[chosen.good.cpu()],
        }
        repeated = pd.DataFrame({name: np.repeat(np.asarray(column), len(WEIGHTS)) for name, column in columns.items()})
        measured = {"validation_loss": loss, "validation_accuracy": accuracy}
        measures = {name: values.flatten().cpu().numpy() for name, values in measured.items()}
        table: pd.DataFrame = repeated.assign(merge_weight=np.tile(WEIGHTS, len(market)), **measures)
        return table


def curve_table(arms: Sequence[PurchaseCurves]) -> pd.DataFrame:
    """A row for each arm, agent that bought, purchase (first or last), alignment and merge weight.

    Loss and accuracy are those on the broker's validation data. The rows of an arm that does not align are unaligned.
    """
    parts = [part for arm in arms for part in arm.parts()]
    table: pd.DataFrame = pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)
    return table


def draw_merge_curves(curves: pd.DataFrame, title: str) -> Figure:
    """The curves of each arm's first and last purchases: means over seeds with their 95 % intervals.

    Where nobody buys twice, the two are the same and drawn once.
    """
    once = curves.groupby(["arm", "seed", "buyer"]).cycle.nunique().max() == 1
    purchases = {"first": "only purchase"} if once else {"first": "first purchase", "last": "last purchase"}
    figure = new_figure(figsize=(12, 1 + 3.6 * len(purchases)), dpi=100, layout="constrained")
    panels = figure.subplots(len(purchases), 2, sharex=True, sharey="col", squeeze=False)
    for (left, right), (purchase, name) in zip(panels, purchases.items(), strict=True):
        chosen = curves[curves.purchase == purchase]
        _draw_curves(left, chosen, "validation_accuracy", f"{name}: validation accuracy (%)", 100)
        _draw_curves(right, chosen, "validation_loss", f"{name}: validation loss (nats)", 1)
    for axes in panels[-1]:
        axes.set_xlabel("merge weight (0: buyer, 1: seller)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(literal(title), wrap=True)
    return figure


def _draw_curves(axes: Axes, curves: pd.DataFrame, column: str, label: str, factor: float) -> None:
    arms = curves.arm.unique().tolist()
    for place, (arm, name) in enumerate(zip(arms, fit(arms, ARM_NAME_WIDTH), strict=True)):
        of_arm = curves[curves.arm == arm]
        for aligned, rows in of_arm.groupby("aligned"):
            by_seed = rows.groupby(["merge_weight", "seed"])[column].mean().unstack() * factor
            shown = name if of_arm.aligned.nunique() == 1 or aligned else f"{name}, before alignment"
            draw_band(axes, by_seed, shown, color=f"C{place}", linestyle="-" if aligned else "--")
    axes.set_title(label)
    axes.grid(alpha=0.25)
