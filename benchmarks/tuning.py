"""A search for the settings of ``paramarket train --league``: ``python -m benchmarks.tuning``.

A trial trains a league in every scenario, with the same seed and a short budget. Its score is the mean over the
scenarios of the last evaluation's return against ``varied``, on a common scale: 0 is the return out of the market, 1
that of the best teacher rule, which plays the same seeds against the same opponents. The first trial has the default
settings. The tree-structured Parzen estimator (Bergstra et al. 2011) proposes the others, and a trial that lags behind
the median of the earlier ones ends early.

The search sees only what a training sees: its opponents, its evaluation seeds and the rules that it imitates. Held-out
populations take no part. Settings that were chosen by them would be fitted to them, and the leaderboard would then no
longer show how a policy does against opponents that nobody has met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import tyro
from pydantic import Field

from benchmarks.runner import on_one_thread
from paramarket_baselines.evaluation.display import Rows, markdown, new_console, table
from paramarket_baselines.evaluation.statistics import evaluate
from paramarket_baselines.training.league import DEFAULTS, LeagueSettings, evaluation_seeds
from paramarket_baselines.training.plan import Plan, tuned_league
from paramarket_baselines.training.sb3 import learn
from paramarket_baselines.training.teachers import sensible_rules
from paramarket_env.config import MarketConfig
from paramarket_env.files import claimed, write_file
from paramarket_env.scenarios import scenario
from paramarket_env.validation import Count, configuration, require

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, Trial, TrialState
except ImportError as error:
    raise ImportError("benchmarks.tuning needs Optuna: pip install 'paramarket-env[tuning]'") from error

STUDY = "league"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

FIRST_TRIALS = 5
"""The number of trials before the estimator begins to propose settings, and before trials are ended early."""

HEAD = """# Settings of leagues

`python -m benchmarks.tuning` makes this page from the study in `tuning/`. A trial trains a league in every scenario.
The score of a scenario is the return against `varied` of the last evaluation: 0 is the return out of the market, 1 that
of the best teacher rule. The score of a trial is the mean over the scenarios. The first trial has the default settings.
A dash marks a scenario that a trial did not finish, because it lagged behind the median of the earlier trials. Held-out
populations take no part in the search, since settings that were chosen by them would be fitted to them."""


@configuration
class Tuning:
    """Search for the settings of a league. A search that ended early, or that gets more trials, goes on."""

    scenarios: Annotated[tuple[str, ...], Field(min_length=1)] = ("digits-short", "digits-priced-short")
    """Scenarios in which a trial trains, in this order. In each, a teacher rule must gain from the market."""
    trials: Count = 40
    """Number of trials, with those that the study has already."""
    timesteps: Count = 200_000
    """Agent-steps of a trial in each scenario. A short trial favours settings that explore too little."""
    seed: Annotated[int, Field(ge=0, lt=2**20)] = 0
    """Seed of the search and of the trainings."""
    device: str = "auto"
    """Device of the markets: `auto`, `cpu` or `cuda`."""
    out: Path = Path("benchmarks/results")
    """Folder for `tuning.md`, and for the study `tuning/study.log`."""

    def __post_init__(self) -> None:
        require(len(set(self.scenarios)) == len(self.scenarios), "scenarios", self.scenarios, "different scenarios")

    def plan(self, name: str, settings: LeagueSettings) -> Plan:
        """The training of a trial in a scenario."""
        return replace(
            tuned_league(scenario(name), name, settings), timesteps=self.timesteps, seed=self.seed, candidates=1
        )

    @property
    def comparable(self) -> dict[str, Any]:
        """The options that all trials of a study have in common."""
        return {"scenarios": list(self.scenarios), "timesteps": self.timesteps, "seed": self.seed}


# --- the space of the settings ----------------------------------------------------------------------------------------


def suggested(trial: Trial) -> LeagueSettings:
    """The settings of a trial. The other fields of ``LeagueSettings`` keep their defaults."""
    width = trial.suggest_categorical("width", (64, 128, 256))
    return LeagueSettings(
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        entropy=trial.suggest_float("entropy", 0.01, 0.3, log=True),
        epochs=trial.suggest_int("epochs", 1, 10),
        minibatches=trial.suggest_categorical("minibatches", (2, 4, 8, 16)),
        layers=(width, width),
        members=trial.suggest_categorical("members", (4, 8, 16)),
        teachers=trial.suggest_int("teachers", 1, 8),
        imitation_epochs=trial.suggest_int("imitation_epochs", 5, 40),
        imitation_learning_rate=trial.suggest_float("imitation_learning_rate", 2e-4, 5e-3, log=True),
        smoothing=trial.suggest_float("smoothing", 0.01, 0.3, log=True),
    )


def default_parameters() -> dict[str, Any]:
    """The default settings as parameters of a trial."""
    settings = asdict(DEFAULTS)
    searched = set(settings) - {"layers", "imitation_episodes", "imitation_batch"}
    return {"width": settings["layers"][0]} | {name: settings[name] for name in settings if name in searched}


# --- the scale --------------------------------------------------------------------------------------------------------


def measured_scale(config: MarketConfig, device: str) -> dict[str, Any]:
    """The ``zero`` and the ``one`` of a market's scores, as returns, and the ``rule`` that has the latter."""
    runs = evaluate(config, sensible_rules(config), ["varied"], evaluation_seeds(config.agents), device)
    means = runs.groupby("policy")[["return", "advantage"]].mean()
    rule = str(means["return"].idxmax())
    returned, advantage = means.loc[rule].tolist()
    require(advantage > 0, "advantage", advantage, "more than 0 for the best teacher rule, or there is no scale")
    return {"zero": returned - advantage, "one": returned, "rule": rule}


def scaled(returned: float, scale: Mapping[str, Any]) -> float:
    """A return as a score."""
    return float((returned - scale["zero"]) / (scale["one"] - scale["zero"]))


# --- the search -------------------------------------------------------------------------------------------------------


def search(options: Tuning) -> optuna.Study:
    """The study after all trials. What it has already, it keeps: a resumed search equals one without interruption.

    Raises ``ValueError`` for a study of other scenarios, budgets or seeds, and ``FileExistsError`` if another process
    has the folder.
    """
    folder = options.out / "tuning"
    with claimed(folder, existing=True):
        study = opened(folder, options)
        while len(done := study.get_trials(deepcopy=False, states=FINISHED)) < options.trials:
            study.sampler = sampler(options.seed, len(done))
            if not done and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                study.enqueue_trial(default_parameters())
            study.optimize(lambda trial: score(trial, study.user_attrs["scales"], options), n_trials=1)
    return study


def sampler(seed: int, place: int) -> optuna.samplers.TPESampler:
    """The sampler of the trial at a place in the study. Its draws do not depend on where this process began."""
    drawn = int(np.random.SeedSequence((seed, place)).generate_state(1)[0])
    return optuna.samplers.TPESampler(n_startup_trials=FIRST_TRIALS, seed=drawn)


def opened(folder: Path, options: Tuning) -> optuna.Study:
    """The study of a folder, or a new one."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS),
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a process that was killed
        study.tell(trial.number, state=TrialState.FAIL)
    for name, value in options.comparable.items():
        kept = study.user_attrs.get(name, value)
        require(value == kept, name, value, f"{kept!r}, as in the study in {str(folder)!r}")
        study.set_user_attr(name, value)
    if "scales" not in study.user_attrs:
        markets = {name: options.plan(name, DEFAULTS).config for name in options.scenarios}
        scales = {name: measured_scale(market, options.device) for name, market in markets.items()}
        study.set_user_attr("scales", scales)
    return study


def score(trial: Trial, scales: Mapping[str, Mapping[str, Any]], options: Tuning) -> float:
    """Train in every scenario, and return the mean score. Raises ``TrialPruned`` if the trial lags behind."""
    settings, scores, step = suggested(trial), dict.fromkeys(scales, 0.0), 0
    for name, scale in scales.items():

        def on_evaluation(_: int, returned: float, __: float, name: str = name, scale: Any = scale) -> None:
            nonlocal step
            scores[name], step = scaled(returned, scale), step + 1
            trial.report(sum(scores.values()), step)
            if trial.should_prune():
                raise optuna.TrialPruned

        with TemporaryDirectory() as folder:
            learn(options.plan(name, settings), folder, options.device, on_evaluation=on_evaluation)
        trial.set_user_attr(name, scores[name])
    return sum(scores.values()) / len(scores)


# --- the page ---------------------------------------------------------------------------------------------------------


def trial_rows(study: optuna.Study) -> tuple[Rows, list[str]]:
    """The trials from the best to the worst, with their score, the scores of the scenarios and the parameters."""
    trials = sorted(study.get_trials(deepcopy=False, states=FINISHED), key=_rank)
    scenarios, names = list(study.user_attrs["scales"]), list(trials[0].params)
    rows = {
        str(trial.number): [
            _figure(trial.value if trial.state == TrialState.COMPLETE else None),
            *(_figure(trial.user_attrs.get(name)) for name in scenarios),
            *(_figure(trial.params[name]) for name in names),
        ]
        for trial in trials
    }
    return rows, ["score", *scenarios, *names]


def _rank(trial: FrozenTrial) -> tuple[bool, float]:
    return trial.state != TrialState.COMPLETE, -(trial.value or 0.0)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def scale_rows(study: optuna.Study) -> Rows:
    """The ends of the scale of every scenario, as returns, and the best teacher rule."""
    scales = study.user_attrs["scales"].items()
    return {name: [f"{scale['zero']:.3f}", f"{scale['one']:.3f}", scale["rule"]] for name, scale in scales}


def best_rows(study: optuna.Study) -> Rows:
    """The best parameters beside the defaults."""
    return {name: [_figure(study.best_params[name]), _figure(value)] for name, value in default_parameters().items()}


def page(study: optuna.Study) -> Iterator[str]:
    """The parts of the page."""
    about = study.user_attrs
    yield HEAD
    yield f"Budget: {about['timesteps']:,} agent-steps in each scenario; seed {about['seed']}."
    yield "## The best settings"
    yield markdown(best_rows(study), ("best", "default"))
    yield "## The scale"
    yield markdown(scale_rows(study), ("out of market", "best teacher rule", "rule"))
    yield "## Trials"
    yield markdown(*trial_rows(study), "trial")


def main() -> None:
    """Search, print the tables and write the page."""
    options = tyro.cli(Tuning, description=__doc__)
    study = on_one_thread(search, options)
    console = new_console()
    console.print(table(*trial_rows(study), "trials", "trial"))
    console.print(table(best_rows(study), ("best", "default"), f"best settings: trial {study.best_trial.number}"))
    file = options.out / "tuning.md"
    write_file(file, "\n\n".join(page(study)) + "\n")
    console.print(f"wrote {file}")


if __name__ == "__main__":
    main()
