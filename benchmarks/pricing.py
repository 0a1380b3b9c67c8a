"""Compares all pricing rules, and asks whether pricing is viable: ``python -m benchmarks.pricing``.

The benchmark answers two questions for two and for four agents with private values. What does a seller earn with a
pricing rule against the paper's Bayesian sellers? How does a market perform if all agents use that rule? All agents
buy by the paper's rule and train in every round. All seeds of an arm play as one batch, and all arms play the same
seeds. The rules were tuned on other seeds (1000 and above).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import tyro
from rich.console import RenderableType
from rich.progress import Progress

from benchmarks.price_paths import PricePath, draw_paths
from paramarket_baselines.evaluation.display import new_console, table
from paramarket_baselines.evaluation.estimates import student_mean
from paramarket_baselines.evaluation.play import Arm, Episode, closed, play
from paramarket_baselines.evaluation.report import summarise, summary_table
from paramarket_baselines.evaluation.results import Provenance, machine, provenance, write_json
from paramarket_baselines.evaluation.welfare import WELFARE, WELFARE_LEGEND, returns, welfare
from paramarket_env.config import Disclosure, MarketConfig
from paramarket_env.economics.clearing import MECHANISMS
from paramarket_env.market.devices import resolve_device
from paramarket_env.scenarios import scenario
from paramarket_env.validation import require

PAPER = "bayesian"
"""The paper's pricing rule, which sellers use unless their rule is the one under test."""

RULES: dict[str, Disclosure] = {
    "random": "none",
    "cost-plus": "none",
    "thompson": "none",
    PAPER: "none",
    "history": "transactions",
    "bounds": "bounds",
    "omniscient": "full",
}
"""The pricing rules, with the disclosure that each needs."""

OUTSIDE = Arm("out of market", ("train",), closed)


@dataclass(frozen=True)
class Pricing:
    """Play every pricing rule in one seat against Bayesian sellers, and in all seats."""

    agents: tuple[int, ...] = (2, 4)
    """Numbers of agents to play with."""
    seeds: int = 30
    """Number of seeds, from 0 on."""
    out: Path = Path("benchmarks/results")
    """Folder for `pricing.json` and the pictures."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        require(self.seeds >= 2, "seeds", self.seeds, "an integer >= 2")


def with_rules(config: MarketConfig, disclosure: Disclosure, mechanism: str = "posted") -> MarketConfig:
    """The market with another disclosure and mechanism."""
    return config.changed(disclosure=disclosure, mechanism=mechanism)


def _sellers(levels: int) -> dict[str, Disclosure]:
    """All pricing rules to compare: a fixed price at every level, and ``RULES``."""
    fixed: dict[str, Disclosure] = {f"fixed:{level}": "none" for level in range(levels)}
    return fixed | RULES


@dataclass(frozen=True)
class Contest:
    """The results for one number of agents."""

    agents: int
    alone: pd.DataFrame
    """Revenue in ticks and advantage of the one seat, by rule and seed."""
    everyone: list[Episode]
    """Episodes of the closed market, of all agents by each rule, and of all by the paper's rule with each mechanism."""
    paths: dict[str, PricePath]
    """By rule, in the market in which all agents price by it."""


def _contest(config: MarketConfig, seeds: Sequence[int], device: str, progress: Progress) -> Contest:
    """Play all arms with one number of agents."""
    agents, alone = config.agents, _sellers(len(config.economy.ask_levels))
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
        arm = Arm(rule, (f"paper+{rule}",), partial(with_rules, disclosure=disclosure))
        everyone.append(episode(arm, paths[rule]))
    for mechanism in others:
        market = partial(with_rules, disclosure="none", mechanism=mechanism)
        everyone.append(episode(Arm(mechanism, (f"paper+{PAPER}",), market)))
    for rule, disclosure in alone.items():
        seats = (f"paper+{rule}", *(f"paper+{PAPER}",) * (agents - 1))
        rows.append(_seat_measures(episode(Arm(rule, seats, partial(with_rules, disclosure=disclosure))), everyone[0]))
    return Contest(agents, pd.concat(rows, ignore_index=True), everyone, paths)


def _seat_measures(episode: Episode, outside: Episode) -> pd.DataFrame:
    """Revenue and advantage of the first seat, by seed."""
    first = episode.steps[episode.steps.agent == 0]
    advantage = (returns(episode) - returns(outside)).xs(0, level="agent")
    frame: pd.DataFrame = pd.DataFrame(
        {"revenue": first.groupby("seed").received.sum(), "advantage": advantage}
    ).reset_index()
    frame["arm"] = episode.steps.arm.iloc[0]
    return frame


def median_fixed(alone: pd.DataFrame) -> str:
    """The fixed price with the median of the mean revenues of all fixed prices (the upper median)."""
    means = alone[alone.arm.str.startswith("fixed:")].groupby("arm").revenue.mean().sort_values()
    return str(means.index[len(means) // 2])


def best_fixed(alone: pd.DataFrame) -> str:
    """The fixed price with the highest mean revenue, which is known only in hindsight."""
    return str(alone[alone.arm.str.startswith("fixed:")].groupby("arm").revenue.mean().idxmax())


def _alone_table(contest: Contest, levels: Sequence[int]) -> RenderableType:
    """The earnings of one seat by each rule against Bayesian sellers."""
    by_rule = contest.alone.pivot_table(index="seed", columns="arm", values="revenue")
    advantages = contest.alone.pivot_table(index="seed", columns="arm", values="advantage")
    median, best = median_fixed(contest.alone), best_fixed(contest.alone)
    fixed = {"median revenue": median, "middle level": _middle(levels), "best": best}
    named = {f"fixed, {kind}: {levels[int(rule.partition(':')[2])]}": rule for kind, rule in fixed.items()}
    title = f"{contest.agents} agents, one seller by the rule, the others Bayesian"
    top = by_rule["omniscient"].mean()
    rows = {
        label: [
            _mean(by_rule[rule]),
            _mean(by_rule[PAPER] - by_rule[rule]),
            f"{100 * by_rule[rule].mean() / top:.0f}",
            _mean(advantages[rule], 2),
        ]
        for label, rule in (named | {rule: rule for rule in RULES}).items()
    }
    return table(rows, ("revenue", f"{PAPER} earns more", "of omniscient's %", "advantage"), title)


def _middle(levels: Sequence[int]) -> str:
    return f"fixed:{len(levels) // 2}"


def _mean(values: pd.Series, digits: int = 0) -> str:
    return student_mean(values.tolist()).symmetric(digits)


def _verdict(contest: Contest, config: MarketConfig) -> str:
    """A text that says whether pricing is viable if all are Bayesian sellers, and how much better off agents are."""
    economy = welfare(contest.everyone, config.economy)
    mine = economy[economy.arm == PAPER]
    advantage, buyers, revenue = (
        student_mean(mine[name].tolist()) for name in ("advantage", "buyers_share", "revenue")
    )
    played = _by_name(contest.everyone, PAPER)
    outside, inside = returns(contest.everyone[0]), returns(played)
    better, everyone = float((inside > outside).mean()), float((inside > outside).groupby("seed").all().mean())
    viable = advantage.low > 0 and buyers.value > 0 and revenue.value > 0
    return (
        f"{contest.agents} agents: pricing is {'' if viable else 'NOT '}viable. An agent's return is "
        f"{advantage.symmetric()} above that out of the market ({outside.mean():.2f}); of the surplus buyers keep "
        f"{buyers.brief(0)} %, and a seller earns {revenue.brief(0)} ticks. {100 * better:.0f} % of the agents are "
        f"better off, in {100 * everyone:.0f} % of the markets all are. The gains that an agent bought add up to "
        f"{played.trades.quoted_gain.sum() / len(inside):.1f} nats; at the end its loss is "
        f"{_last_loss(contest.everyone[0]) - _last_loss(played):.2f} nats below that out of the market."
    )


def _last_loss(episode: Episode) -> float:
    return float(episode.steps[episode.steps.cycle == episode.steps.cycle.max()].validation_loss.mean())


def _by_name(episodes: Sequence[Episode], arm: str) -> Episode:
    return next(episode for episode in episodes if episode.steps.arm.iloc[0] == arm)


def _rivalry_table(seeds: Sequence[int], device: str) -> RenderableType:
    """The scenario ``rivals``: a Bayesian and a rival-aware seller, each against a Bayesian seller."""
    config = replace(scenario("rivals"), action_mode="round")
    outside = play(config, OUTSIDE, seeds, device)
    arms = [Arm(rule, (f"paper+{rule}", f"paper+{PAPER}")) for rule in (PAPER, "rival-aware")]
    found = pd.concat([_seat_measures(play(config, arm, seeds, device), outside) for arm in arms])
    rows = {str(rule): [_mean(own.revenue), _mean(own.advantage, 2)] for rule, own in found.groupby("arm", sort=False)}
    return table(rows, ("revenue", "advantage"), "rivals, one seller by the rule")


def main() -> None:
    """Play, print the tables, and save figures and pictures."""
    options = tyro.cli(Pricing)
    console = new_console()
    seeds = range(options.seeds)
    base = replace(scenario("private-values"), action_mode="round")
    results: Provenance = provenance(seeds, resolve_device(options.device))
    for agents in options.agents:
        config = replace(base, agents=agents)
        with Progress(console=console, transient=True) as progress:
            found = _contest(config, seeds, options.device, progress)
        everyone = summarise(welfare(found.everyone, config.economy))
        console.print(_alone_table(found, config.economy.ask_levels))
        title = f"{agents} agents, all by the rule (then all Bayesian, by mechanism)"
        console.print(summary_table(everyone, title, WELFARE))
        console.print(_verdict(found, config), "", sep="\n")
        draw_paths(
            found.paths,
            f"{agents} agents: what one seller asked in one market where all price by the rule, in ticks",
            options.out / f"pricing-{agents}.png",
        )
        alone = summarise(found.alone)
        results[f"{agents} agents"] = {"everyone": everyone, "alone": alone, "config": config}
    console.print(_rivalry_table(seeds, options.device))
    console.print(WELFARE_LEGEND, "one seller by the rule: its revenue in ticks and its advantage", sep="; ")
    console.print(f"{machine(results)}, seeds {seeds}")
    write_json(options.out / "pricing.json", results)


if __name__ == "__main__":
    main()
