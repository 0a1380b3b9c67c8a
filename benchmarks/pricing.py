"""Is pricing viable in a competitive market? Every pricing rule, side by side: ``python -m benchmarks.pricing``.

Two questions, asked of two and of four agents whose values are private. What does a seller earn who prices by a rule,
while the others are the paper's Bayesian sellers? And what becomes of a market in which all price by it? Everybody buys
by the paper's rule, and trains in every round. All seeds of an arm play as one batch, and all arms play the same seeds,
other ones than those on which the rules were tuned (1000 and on).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import tyro
from rich import box
from rich.progress import Progress
from rich.table import Table

from baselines.evaluation.play import Arm, Episode, closed, play
from baselines.evaluation.report import as_table, interval, new_console, provenance, summarise
from baselines.evaluation.welfare import WELFARE, WELFARE_LEGEND, returns, welfare
from benchmarks.price_paths import PricePath, draw_paths
from paramarket_env.config import Disclosure, MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.market.engine import resolve_device
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require

PAPER = "bayesian"
"""The paper's pricing rule, that of all sellers whose rule is not the question."""

RULES: dict[str, Disclosure] = {
    "random": "none",
    "cost-plus": "none",
    "thompson": "none",
    PAPER: "none",
    "history": "transactions",
    "bounds": "bounds",
    "omniscient": "full",
}
"""Pricing rules, and what has to be disclosed for them."""

OUTSIDE = Arm("out of market", ("train",), closed)


@dataclass(frozen=True)
class Pricing:
    """Play every pricing rule, alone among Bayesian sellers and by all."""

    agents: tuple[int, ...] = (2, 4)
    """How many agents compete."""
    seeds: int = 30
    """How many seeds, from 0 on."""
    out: Path = Path("benchmarks/results")
    """Folder for `pricing.json` and the pictures."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        require(self.seeds >= 2, "seeds", self.seeds, "an integer >= 2")


def with_rules(config: MarketConfig, disclosure: Disclosure, mechanism: str = "posted") -> MarketConfig:
    """The market with another disclosure and mechanism."""
    return config.changed(disclosure=disclosure, mechanism=mechanism)


def sellers(levels: int) -> dict[str, Disclosure]:
    """Every pricing rule that is a contender: the fixed prices at every level, and ``RULES``."""
    fixed: dict[str, Disclosure] = {f"fixed:{level}": "none" for level in range(levels)}
    return fixed | RULES


@dataclass(frozen=True)
class Contest:
    """What came of one number of agents."""

    agents: int
    alone: pd.DataFrame
    """Revenue in ticks, and return above that out of the market, of the one seat, by rule and seed."""
    everyone: list[Episode]
    """Out of the market first, then all by each rule, then by the paper's in each mechanism."""
    paths: dict[str, PricePath]
    """By rule, where all price by it."""


def contest(config: MarketConfig, seeds: Sequence[int], device: str, progress: Progress) -> Contest:
    """Play all arms of one number of agents."""
    agents, alone = config.agents, sellers(len(config.economy.ask_levels))
    middle = _middle(config.economy.ask_levels)
    together, others = {middle: alone[middle], **RULES}, [name for name in MECHANISMS if name != "posted"]
    task = progress.add_task(f"{agents} agents", total=1 + len(alone) + len(together) + len(others))

    def episode(arm: Arm, path: PricePath | None = None) -> Episode:
        played = play(config, arm, seeds, device, path)
        progress.advance(task)
        return played

    everyone, paths, rows = [episode(OUTSIDE)], {}, []
    for rule, disclosure in together.items():
        paths[rule] = PricePath()
        everyone.append(episode(Arm(rule, (f"paper+{rule}",), partial(with_rules, disclosure=disclosure)), paths[rule]))
    for mechanism in others:
        market = partial(with_rules, disclosure="none", mechanism=mechanism)
        everyone.append(episode(Arm(mechanism, (f"paper+{PAPER}",), market)))
    for rule, disclosure in alone.items():
        seats = (f"paper+{rule}", *(f"paper+{PAPER}",) * (agents - 1))
        rows.append(_of_seat(episode(Arm(rule, seats, partial(with_rules, disclosure=disclosure))), everyone[0]))
    return Contest(agents, pd.concat(rows, ignore_index=True), everyone, paths)


def _of_seat(episode: Episode, outside: Episode) -> pd.DataFrame:
    """Revenue and advantage of the first seat, by seed."""
    first = episode.steps[episode.steps.agent == 0]
    advantage = (returns(episode) - returns(outside)).xs(0, level="agent")
    frame: pd.DataFrame = pd.DataFrame(
        {"revenue": first.groupby("seed").received.sum(), "advantage": advantage}
    ).reset_index()
    frame["arm"] = episode.steps.arm.iloc[0]
    return frame


def median_fixed(alone: pd.DataFrame) -> str:
    """The fixed price whose mean revenue is the median of all fixed prices' (of two the better)."""
    means = alone[alone.arm.str.startswith("fixed:")].groupby("arm").revenue.mean().sort_values()
    return str(means.index[len(means) // 2])


def best_fixed(alone: pd.DataFrame) -> str:
    """The fixed price with the highest mean revenue: nobody knows it beforehand."""
    return str(alone[alone.arm.str.startswith("fixed:")].groupby("arm").revenue.mean().idxmax())


def alone_table(contest: Contest, levels: Sequence[int]) -> Table:
    """What the one seat earned by each rule, among Bayesian sellers."""
    by_rule = contest.alone.pivot_table(index="seed", columns="arm", values="revenue")
    advantages = contest.alone.pivot_table(index="seed", columns="arm", values="advantage")
    median, best = median_fixed(contest.alone), best_fixed(contest.alone)
    fixed = {"median revenue": median, "middle level": _middle(levels), "best": best}
    named = {f"fixed, {what}: {levels[int(rule.partition(':')[2])]}": rule for what, rule in fixed.items()}
    title = f"{contest.agents} agents, one seller by the rule, the others Bayesian"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for label in ("", "revenue", f"{PAPER} earns more", "of omniscient's %", "advantage"):
        table.add_column(label, justify="left" if not label else "right")
    top = by_rule["omniscient"].mean()
    for label, rule in (named | {rule: rule for rule in RULES}).items():
        more = by_rule[PAPER] - by_rule[rule]
        share = f"{100 * by_rule[rule].mean() / top:.0f}"
        table.add_row(label, _figure(by_rule[rule]), _figure(more), share, _figure(advantages[rule], 2))
    return table


def _middle(levels: Sequence[int]) -> str:
    return f"fixed:{len(levels) // 2}"


def _figure(values: pd.Series, digits: int = 0) -> str:
    mean, half = interval(values.tolist())
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def verdict(contest: Contest, config: MarketConfig) -> str:
    """Whether both sides are better off than out of the market where all are Bayesian sellers, and by how much."""
    economy = welfare(contest.everyone, config.economy)
    mine = economy[economy.arm == PAPER]
    (advantage, half), (buyers, _), (revenue, _) = (
        interval(mine[name].tolist()) for name in ("advantage", "buyers_share", "revenue")
    )
    played = _by_name(contest.everyone, PAPER)
    outside, inside = returns(contest.everyone[0]), returns(played)
    better, everyone = float((inside > outside).mean()), float((inside > outside).groupby("seed").all().mean())
    viable = advantage - (half or 0.0) > 0 and buyers > 0 and revenue > 0
    return (
        f"{contest.agents} agents: pricing is {'' if viable else 'NOT '}viable. An agent's return is {advantage:.2f} ± "
        f"{half:.2f} above that out of the market ({outside.mean():.2f}); of the surplus buyers keep {buyers:.0f} %, "
        f"and a seller earns {revenue:.0f} ticks. {100 * better:.0f} % of the agents are better off, in "
        f"{100 * everyone:.0f} % of the markets all are. The gains that an agent bought add up to "
        f"{played.trades.quoted_gain.sum() / len(inside):.1f} nats; at the end its loss is "
        f"{_last_loss(contest.everyone[0]) - _last_loss(played):.2f} nats below that out of the market."
    )


def _last_loss(episode: Episode) -> float:
    return float(episode.steps[episode.steps.cycle == episode.steps.cycle.max()].validation_loss.mean())


def _by_name(episodes: Sequence[Episode], arm: str) -> Episode:
    return next(episode for episode in episodes if episode.steps.arm.iloc[0] == arm)


def rivalry_table(seeds: Sequence[int], device: str) -> Table:
    """Rivals: the Bayesian seller, and the one who counts the rival's gain as a cost, against a Bayesian one."""
    config = replace(scenario("rivals"), action_mode="round")
    outside = play(config, OUTSIDE, seeds, device)
    arms = [Arm(rule, (f"paper+{rule}", f"paper+{PAPER}")) for rule in (PAPER, "rival-aware")]
    found = pd.concat([_of_seat(play(config, arm, seeds, device), outside) for arm in arms])
    table = Table(
        title="rivals, one seller by the rule", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for label in ("", "revenue", "advantage"):
        table.add_column(label, justify="left" if not label else "right")
    for rule, rows in found.groupby("arm", sort=False):
        table.add_row(str(rule), _figure(rows.revenue), _figure(rows.advantage, 2))
    return table


def main() -> None:
    """Play, print the tables, keep figures and pictures."""
    options = tyro.cli(Pricing)
    console = new_console()
    seeds = range(options.seeds)
    base = replace(scenario("private-values"), action_mode="round")
    kept: dict[str, Any] = provenance(seeds, resolve_device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    for agents in options.agents:
        config = replace(base, agents=agents)
        with Progress(console=console, transient=True) as progress:
            found = contest(config, seeds, options.device, progress)
        summary = summarise(welfare(found.everyone, config.economy))
        console.print(alone_table(found, config.economy.ask_levels))
        console.print(as_table(summary, f"{agents} agents, all by the rule (then all Bayesian, by mechanism)", WELFARE))
        console.print(verdict(found, config), "", sep="\n", highlight=False)
        draw_paths(
            found.paths,
            f"{agents} agents: what one seller asked in one market where all price by the rule, in ticks",
            options.out / f"pricing-{agents}.png",
        )
        alone = summarise(found.alone)
        kept[f"{agents} agents"] = {"everyone": summary, "alone": alone, "config": config.to_dict()}
    console.print(rivalry_table(seeds, options.device))
    console.print(
        WELFARE_LEGEND, "revenue, alone: of the one seat; advantage: its return above that out of the market", sep="; "
    )
    console.print(f"{kept['device']}, torch {kept['versions']['torch']}, seeds {seeds}", highlight=False)
    (options.out / "pricing.json").write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
