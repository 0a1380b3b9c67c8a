"""Learning: that it finds what is best, keeps it, and goes on only from where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from paramarket_baselines.cli import main
from paramarket_baselines.evaluation.statistics import evaluate
from paramarket_baselines.policies.learned import ALGORITHMS, algorithm
from paramarket_baselines.training import callbacks, sb3
from paramarket_baselines.training.plan import TRAINING_OPPONENTS, TUNED, Plan, tuned
from paramarket_baselines.training.sb3 import SETTINGS, TRAINING_SEEDS, learn
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.learning.data.endowments import Complementary
from paramarket_env.learning.training import SGD
from paramarket_env.scenarios import SCENARIOS
from tests.baselines.test_cli import SMALL
from tests.helpers import priced_market, tiny_market

CONFIG = priced_market(max_cycles=4)
SHORT = Plan(CONFIG, timesteps=64, num_markets=4)


def contents(folder: Path) -> dict[Path, bytes]:
    """The files of a training except its log."""
    files = [file for file in folder.rglob("*") if file.is_file() and "log" not in file.parts]
    return {file.relative_to(folder): file.read_bytes() for file in files}


def acted(config: MarketConfig, folder: Path) -> torch.Tensor:
    """The first actions of the policy in the folder, in seat 0 of 20 markets."""
    batch = MarketBatch(config, 20, "cpu")
    seen, mask = batch.reset(torch.arange(1000, 1020))
    player = POLICIES.parse(f"learned:{folder}")(seat_of(batch, batch.num_markets))
    return player.act(seen[:, 0], mask[:, 0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    learn(SHORT, folder, "cpu")
    return folder


@pytest.fixture
def trained(made: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a short training."""
    return Path(shutil.copytree(made, tmp_path / "trained"))


@pytest.mark.parametrize("against", [(), pytest.param(("hold",), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["ppo", "dqn", "maskable-ppo", "recurrent-ppo", "a2c"])
def test_the_best_action_of_a_single_step_is_found(name: str, against: tuple[str, ...], tmp_path: Path) -> None:
    # Nobody's offer is worth anything yet, and to hold gains nothing: to train is the one action that pays.
    config = tiny_market(max_cycles=1, optimizer=SGD(lr=0.2), opens_at=1, endowment="iid")
    learn(Plan(config, name, 2000, 16, against=against), tmp_path, "cpu")
    assert (acted(config, tmp_path) == 1).float().mean() > 0.9


@pytest.mark.parametrize("name", ["ppo", "maskable-ppo", "recurrent-ppo", "a2c"])
def test_learning_begins_with_even_chances_for_every_verb(name: str) -> None:
    config = priced_market(parameter_sets="layers")
    plan, markets = Plan(config, name), ParaMarketVecEnv(config, 20, "cpu")
    _, model = sb3._new(algorithm(name), markets, plan)
    policy: Any = model.policy
    begun: dict[str, Any] = {}
    if name == "recurrent-ppo":
        begun = {"lstm_states": [torch.zeros(1, markets.num_envs, 64)] * 2, "episode_starts": torch.ones(60)}
    first = policy.get_distribution(torch.from_numpy(markets.reset()), **begun)
    chances = (first[0] if begun else first).distribution.probs.detach().numpy().mean(0)
    buy, ask = 2, markets.market_batch.actions.first_ask
    verbs = chances[0], chances[1], chances[buy:ask].sum(), chances[ask:].sum()
    assert ask - buy > 1
    assert len(chances) - ask > 1
    assert verbs == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_the_same_seed_gives_the_same_policy(mode: str, tmp_path: Path) -> None:
    plan = replace(SHORT, config=replace(CONFIG, action_mode=mode), against=("random",))
    weights = []
    for run, seed in enumerate((1, 1, 2)):
        model = learn(replace(plan, seed=seed), tmp_path / str(run), "cpu")
        weights.append(np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()]))
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_returns_are_reported_after_each_rollout(tmp_path: Path) -> None:
    reported: list[tuple[int, float]] = []
    learn(replace(SHORT, timesteps=600), tmp_path, "cpu", lambda steps, returned: reported.append((steps, returned)))
    # Six episodes of 4 cycles in 4 markets of 3 agents are the first 256 agent-steps and more.
    assert [steps for steps, _ in reported] == [288, 576, 864]
    assert np.isfinite([returned for _, returned in reported]).all()


def test_what_agents_do_is_logged(tmp_path: Path) -> None:
    learn(replace(SHORT, config=priced_market(max_cycles=4), against=("train",)), tmp_path, "cpu")
    figures = pd.read_csv(tmp_path / "log" / "from-0" / "progress.csv").iloc[0]
    assert figures["opponents/trainings"] == 4
    assert figures["opponents/trades"] == figures["opponents/refusals"] == 0
    # Per episode of four steps: each one is at most one training, one trade or one refusal.
    for agent in ("trader_0", "trader_1", "trader_2"):
        done = sum(figures[f"{agent}/{name}"] for name in ("trainings", "trades", "refusals"))
        assert 0 < done <= 4
        assert np.isfinite(figures[[f"{agent}/{name}" for name in ("return", "gain", "payments", "receipts")]]).all()


def test_every_algorithm_has_settings_and_every_tuned_scenario_exists() -> None:
    assert set(SETTINGS) == set(ALGORITHMS)
    assert set(TUNED) <= set(SCENARIOS)
    assert all(isinstance(tuned(name), Plan) for name in SCENARIOS)


def test_one_agent_learns_against_rules_and_in_a_crowd_all_do() -> None:
    assert tuned("digits-short").against == TRAINING_OPPONENTS
    assert all(tuned(name).against == () for name in ("crowd-short", "crowd-64", "crowd-256"))


def test_a_policy_that_all_share_scores_what_it_returns_in_every_seat(trained: Path) -> None:
    score = pd.read_csv(trained / "evaluations.csv")["return"].iloc[-1]
    name = f"learned:{trained / 'checkpoint'}"
    runs = evaluate(SHORT.config, [name], [name], callbacks.EVALUATION_SEEDS, "cpu")
    assert score == pytest.approx(runs["return"].mean())


def test_no_seed_of_training_or_evaluation_is_one_of_reports() -> None:
    assert min(TRAINING_SEEDS, *callbacks.EVALUATION_SEEDS) >= 2**40
    # 2 ** 20 seeds of training, each with room for 2 ** 20 steps and rows.
    assert min(callbacks.EVALUATION_SEEDS) >= TRAINING_SEEDS + 2**40


# --- the best is kept -----------------------------------------------------------------------------------------------


def scored(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Evaluations give these scores, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(callbacks.EvalCallback, "_score", lambda _: next(left))


def test_the_best_policy_is_kept_and_the_checkpoint_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(monkeypatch, [0.1, 0.5, 0.2, 0.3])
    learn(replace(SHORT, timesteps=600), tmp_path, "cpu")
    steps = [
        json.loads((folder / "policy.json").read_text())["metadata"]["timesteps"]
        for folder in (tmp_path, tmp_path / "checkpoint")
    ]
    assert steps == [576, 864]
    table = pd.read_csv(tmp_path / "evaluations.csv")
    assert table["return"].tolist() == [0.1, 0.5, 0.2, 0.3]
    assert table.timesteps.tolist() == [288, 576, 864, 864]


def test_learning_ends_early_when_it_gets_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "PATIENCE", 2)
    scored(monkeypatch, [0.1, 0.5, 0.2, 0.3])
    model = learn(replace(SHORT, timesteps=4_000), tmp_path, "cpu")
    assert model.num_timesteps < 4_000
    assert len(pd.read_csv(tmp_path / "evaluations.csv")) == 4


def test_a_resumed_training_ends_as_early_as_without_the_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "PATIENCE", 2)
    plan = replace(SHORT, timesteps=4_000)
    scored(monkeypatch, [0.5, 0.2])
    with pytest.raises(StopIteration):  # in the third evaluation
        learn(plan, tmp_path, "cpu")
    scored(monkeypatch, [0.1])
    learn(plan, tmp_path, "cpu", resume=True)
    assert pd.read_csv(tmp_path / "evaluations.csv")["return"].tolist() == [0.5, 0.2, 0.1]


# --- going on -------------------------------------------------------------------------------------------------------


# DQN learns from its 500th step on.
@pytest.mark.parametrize(("name", "steps"), [("ppo", 64), ("dqn", 600), ("recurrent-ppo", 64)])
def test_training_goes_on_from_a_checkpoint_and_keeps_a_better_policy_of_before(
    name: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(SHORT, algo=name, timesteps=steps)
    monkeypatch.setattr(callbacks, "PATIENCE", 100)
    scored(monkeypatch, [0.9] * 40)
    first = learn(plan, tmp_path, "cpu")
    best = (tmp_path / "policy.json").read_text()
    scored(monkeypatch, [0.5] * 40)
    longer = learn(replace(plan, timesteps=first.num_timesteps + steps), tmp_path, "cpu", resume=True)
    assert longer.num_timesteps >= first.num_timesteps + steps
    assert (tmp_path / "policy.json").read_text() == best
    assert (
        json.loads((tmp_path / "checkpoint" / "policy.json").read_text())["metadata"]["timesteps"]
        == longer.num_timesteps
    )
    if name == "dqn":
        assert longer.replay_buffer.pos > first.replay_buffer.pos  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ppo", "recurrent-ppo"])
def test_a_resumed_training_has_the_networks_and_the_optimizer_of_its_checkpoint(name: str, tmp_path: Path) -> None:
    plan = replace(SHORT, algo=name)
    first = learn(plan, tmp_path, "cpu")
    again = learn(plan, tmp_path, "cpu", resume=True)
    exactly = {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(again.policy.state_dict(), first.policy.state_dict(), **exactly)
    now, then = (model.policy.optimizer.state_dict()["state"] for model in (again, first))
    torch.testing.assert_close(now, then, **exactly)


@pytest.mark.parametrize("cycles", [1, 7])
def test_a_rollout_of_a_recurrent_policy_has_whole_episodes(cycles: int) -> None:
    plan = Plan(priced_market(max_cycles=cycles), "recurrent-ppo")
    assert SETTINGS[plan.algo](plan, 15)["n_steps"] % cycles == 0


def test_nothing_is_left_to_learn_after_all_steps(trained: Path) -> None:
    files = contents(trained)
    steps = json.loads((trained / "checkpoint" / "policy.json").read_text())["metadata"]["timesteps"]
    assert learn(SHORT, trained, "cpu", resume=True).num_timesteps == steps
    assert files == contents(trained)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": replace(CONFIG, max_cycles=5)}, r"config.max_cycles=5 is not allowed: it must be 4, as in the"),
        ({"algo": "a2c"}, "algo='a2c' is not allowed: it must be 'ppo'"),
        ({"against": ("train",)}, r"against=\['train'\] is not allowed: it must be \[\]"),
        ({"num_markets": 5}, "num_markets=5 is not allowed"),
    ],
)
def test_training_goes_on_with_the_same_plan_only(changes: Any, message: str, trained: Path) -> None:
    with pytest.raises(ValueError, match=message):
        learn(replace(SHORT, timesteps=9000, **changes), trained, "cpu", resume=True)


def test_a_market_that_cannot_be_kept_is_refused_before_training(tmp_path: Path) -> None:
    config = tiny_market(endowment=Complementary().__call__)
    with pytest.raises(ValueError, match="has no name: register it"):
        learn(Plan(config, timesteps=64, num_markets=2), tmp_path / "policy", "cpu")
    assert not (tmp_path / "policy").exists()


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no checkpoint to resume"):
        learn(SHORT, tmp_path, "cpu", resume=True)


def edited(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the plan in a checkpoint."""
    file = folder / "checkpoint" / "policy.json"
    content = json.loads(file.read_text())
    edit(content["metadata"]["plan"])
    file.write_text(json.dumps(content))


def test_a_checkpoint_of_before_a_setting_is_resumed_and_one_with_an_unknown_setting_is_not(trained: Path) -> None:
    edited(trained, lambda plan: plan.pop("against"))
    edited(trained, lambda plan: plan["config"]["economy"].pop("broker_fee"))
    learn(SHORT, trained, "cpu", resume=True)
    edited(trained, lambda plan: plan.update(colour="red"))
    with pytest.raises(ValueError, match=r"policy.json' cannot be resumed: .*colour is not a field"):
        learn(SHORT, trained, "cpu", resume=True)


def test_opponents_are_compared_as_policies_and_not_as_text(tmp_path: Path) -> None:
    plan = replace(SHORT, against=("patient:3",))
    learn(plan, tmp_path, "cpu")
    learn(replace(plan, against=("patient(patience=3)",)), tmp_path, "cpu", resume=True)
    with pytest.raises(ValueError, match="against="):
        learn(replace(plan, against=("patient:4",)), tmp_path, "cpu", resume=True)


def test_a_new_training_leaves_no_policy_of_before(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = trained.parent / f"{trained.name}-outside"
    (trained / "checkpoint").rename(outside)
    (trained / "checkpoint").symlink_to(outside)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.EvalCallback, "_score", interrupted)
    before = contents(outside)
    with pytest.raises(KeyboardInterrupt):
        learn(SHORT, trained, "cpu")
    assert contents(trained) == {}
    assert contents(outside) == before


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_trains_and_keeps_a_policy_that_can_be_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = SMALL.index("--seeds")
    small = SMALL[:seeds] + SMALL[seeds + 2 :]
    out = tmp_path / "policy"
    assert main(["train", "--timesteps", "16", "--num-markets", "2", *small, "--out", str(out)]) == 0
    assert f"learned:{out}" in "".join(capsys.readouterr().out.split("\n"))
    assert {file.name.split("-")[0] for file in out.iterdir()} == {
        *("policy.json", "weights", "evaluations.csv", "checkpoint", "log")
    }
    arguments = [
        "evaluate",
        f"learned:{out}",
        "train",
        "--populations",
        "paper",
        *SMALL,
        "--out",
        str(tmp_path / "evaluated"),
    ]
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algo", "sarsa"], "unknown algorithm 'sarsa': choose from a2c, dqn"),
        (["--algo", "dqn", "--action-mode", "round"], "algo='dqn' is not allowed"),
        (["--algo", "recurrent-ppo", "--league"], "algo='recurrent-ppo' is not allowed: it must be ppo in a league"),
        (["--timesteps", "0"], "timesteps=0 is not allowed"),
        (["--num-markets", "0"], "num_markets=0 is not allowed"),
        (["--against", "nobody"], "unknown policy 'nobody'"),
    ],
)
def test_training_that_cannot_be_is_refused_and_leaves_no_folder(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy"
    assert main(["train", *arguments, "--device", "cpu", "--out", str(out)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_a_folder_that_exists_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--timesteps", "1000000000", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_to_resume_there_must_be_a_folder_with_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nowhere"
    assert (
        main(["train", "--resume", "--timesteps", "16", "--num-markets", "2", "--device", "cpu", "--out", str(out)])
        == 2
    )
    printed = capsys.readouterr()
    assert "has no checkpoint to resume" in " ".join(printed.err.split())
    assert printed.out == ""
    assert not out.exists()
