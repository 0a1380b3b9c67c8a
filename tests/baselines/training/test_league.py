"""Leagues: a short training, its resumption, and what the policy remembers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paramarket_baselines.cli import Train, _parse, main
from paramarket_baselines.evaluation.matches import play_matches
from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.learned import Learned, read_manifest
from paramarket_baselines.policies.saving import save_policy
from paramarket_baselines.training import callbacks, candidates, imitation, league, sb3, teachers
from paramarket_baselines.training.grouped import grouped_seeds
from paramarket_baselines.training.league import LeagueSettings
from paramarket_baselines.training.plan import Plan, check_resume, tuned_league
from paramarket_baselines.training.remembering import RememberingVecEnv
from paramarket_baselines.training.sb3 import learn
from paramarket_env.adapters.sb3 import ParaMarketVecEnv
from paramarket_env.interface.policy import POLICIES, seat_of
from paramarket_env.scenarios import scenario


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of a league of two rollouts in a market of four cycles."""
    monkeypatch.setattr(league, "EVALUATED", 4)
    monkeypatch.setattr(callbacks, "EVALUATIONS", 2)
    monkeypatch.setattr(teachers, "EPISODES", 2)
    config = scenario("digits-priced-short", max_cycles=4)
    settings = LeagueSettings(imitation_episodes=1, imitation_epochs=2)
    return replace(tuned_league(config, settings=settings), num_markets=16, timesteps=128, candidates=1)


def test_a_league_saves_a_policy_that_plays(brief: Plan, tmp_path: Path) -> None:
    assert learn(brief, tmp_path, "cpu").num_timesteps == 128
    played = play(brief.config, Arm("mine", (f"learned:{tmp_path}",)), [3, 4], "cpu")
    assert set(played.steps.cycle) == set(range(5))


def test_the_weight_of_the_entropy_falls_whether_a_league_is_resumed_or_not(
    brief: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, used = replace(brief, timesteps=256), []
    monkeypatch.setattr(sb3.algorithm("ppo"), "train", lambda model: used.append(model.ent_coef))
    learn(plan, tmp_path / "whole", "cpu")
    assert used == pytest.approx([LeagueSettings().entropy * left for left in (0.75, 0.5, 0.25, 0)])
    learn(replace(plan, timesteps=128), tmp_path / "parts", "cpu")
    learn(plan, tmp_path / "parts", "cpu", resume=True)
    assert used[-2:] == used[2:4]


def test_two_leagues_with_one_seed_are_the_same_to_the_byte(brief: Plan, tmp_path: Path) -> None:
    for name in ("a", "b"):
        learn(brief, tmp_path / name, "cpu")
    manifests = [(tmp_path / name / "policy.json").read_text() for name in ("a", "b")]
    assert manifests[0] == manifests[1]  # it has the hash of the weights


def test_a_saved_policy_remembers_what_the_model_saw_in_training(brief: Plan, tmp_path: Path) -> None:
    model = learn(brief, tmp_path, "cpu")
    save_policy(tmp_path, model)  # the one in the folder was the best, not necessarily the last
    markets = ParaMarketVecEnv(brief.config, 16, "cpu", ["varied"])
    env = RememberingVecEnv(markets)
    env.seed(0)
    seen = env.reset()
    batch, rows = markets.market_batch, torch.arange(16)
    policy = Learned(str(tmp_path))(seat_of(batch, 16))
    policy.reset(rows, rows)
    scale = model.get_vec_normalize_env()
    assert scale is not None
    for cycle in range(6):  # beyond the end of the first episode
        if cycle == 4:
            policy.reset(rows, rows)
        expected, _ = model.predict(scale.normalize_obs(seen), deterministic=True)
        mine = policy.act(torch.from_numpy(seen[:, : batch.layout.size]), torch.from_numpy(markets.action_masks()))
        np.testing.assert_array_equal(mine.numpy(), expected)
        seen = env.step(expected)[0]


def test_the_last_observation_of_an_episode_has_its_history() -> None:
    config = scenario("digits-priced-short", max_cycles=3)
    env = RememberingVecEnv(ParaMarketVecEnv(config, 4, "cpu", ["patient:0+fixed:2"]))
    env.seed(1)
    start = env.reset()
    width = env.observation_space.shape
    for _ in range(3):
        seen, _, dones, infos = env.step(np.ones(4, dtype=np.int64))
    assert dones.all()
    loss_at_start = width[0] - 1 if width else 0
    for row, info in enumerate(infos):
        last = info["terminal_observation"]
        assert last.shape == width
        assert last[loss_at_start] == start[row, loss_at_start]
        assert seen[row, loss_at_start] != last[loss_at_start]


def test_imitation_makes_the_policy_act_like_its_teachers(brief: Plan) -> None:
    kind = sb3.algorithm("ppo")
    plan = replace(brief, config=scenario("digits-short"))
    markets = ParaMarketVecEnv(plan.config, 16, "cpu", ["train"], copy=False)
    env, model = sb3._new(kind, markets, plan)
    markets.seed(0)
    rules = ["patient:5", "patient:6"]
    imitation.imitate(model, env, markets, rules, 0, LeagueSettings(imitation_episodes=1, imitation_epochs=60))
    env.reset()
    trained = []
    for _ in range(plan.config.max_cycles):
        actions = model.predict(env.normalize_obs(env.get_original_obs()), deterministic=True)[0]
        trained.append((actions == 1).mean())
        env.step(actions)
    # Both train in the first steps, and buy in the middle of the episode.
    assert min(trained[:3]) == 1
    assert min(trained[4:8]) < 0.5


def test_teachers_that_take_turns_are_imitated_where_they_do_better_than_others(brief: Plan) -> None:
    """Against a firm that trains, a patient rule gets more than one that does nothing."""
    plan = replace(brief, config=scenario("digits-short"))
    teachers = [*map(POLICIES.parse, ("hold", "patient:5"))]
    settings = LeagueSettings(imitation_episodes=2)
    idle, kept = [], []
    for turns in (False, True):
        markets = ParaMarketVecEnv(plan.config, 32, "cpu", ["train"], copy=False)
        env, _ = sb3._new(sb3.algorithm("ppo"), markets, plan)
        markets.seed(grouped_seeds(0, 32, settings.members * plan.config.agents))
        lessons = imitation._observe(env, markets, teachers, settings, turns)
        idle.append(float((lessons.actions == 0).float().mean()))
        kept.append(len(lessons.returns) / (settings.imitation_episodes * plan.config.max_cycles * 32))
    assert idle[0] == pytest.approx(0.5, abs=0.1)
    assert 0.05 < idle[1] < 0.35  # a row that does better has both teachers
    assert kept[0] == 1
    assert kept[1] == pytest.approx(1, abs=0.3)  # about half of twice as many


def test_the_teachers_are_the_rules_that_are_best_against_the_opponents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "EPISODES", 16)
    monkeypatch.setattr(teachers, "PATIENCE", (0.25, 0.5, 0.92))
    rules = teachers.sensible_rules(scenario("digits-priced-short"))
    # From the initial ask upwards: with three firms the best rule against `varied` keeps it.
    assert rules[:3] == ["patient:3", "patient:3+fixed:3", "patient:3+fixed:4"]
    assert len(rules) == 3 * 8
    without_prices = scenario("digits-short")
    assert teachers.sensible_rules(without_prices) == ["patient:3", "patient:6", "patient:11"]
    # The return of each of three rules in both seats against `train`, by the plain way.
    means = {
        rule: np.mean([*play_matches(without_prices, rule, {"train": ["train"]}, range(400, 464), "cpu").values()])
        for rule in teachers.sensible_rules(without_prices)
    }
    found = teachers.Teachers(without_prices, "cpu")
    assert found.against(["train"], 2) == sorted(means, key=lambda rule: -means[rule])[:2]


def test_the_teachers_against_several_opponents_have_the_highest_mean_score(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []

    def scores(config: object, rules: list[str], opponent: str, *_: object) -> np.ndarray:
        played.append(opponent)
        return np.array({"a": [3, 2, 0], "b": [0, 2, 3]}[opponent])

    monkeypatch.setattr(teachers, "compared", scores)
    monkeypatch.setattr(teachers, "PATIENCE", (0.25, 0.5, 0.92))
    found = teachers.Teachers(scenario("digits-short"), "cpu")
    assert [found.against(each, 1) for each in (["a"], ["b"], ["a", "b"])] == [
        ["patient:3"],
        ["patient:11"],
        ["patient:6"],
    ]
    assert played == ["a", "b"]  # each once


def test_a_league_keeps_its_last_policy(brief: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its evaluations weigh rich opponents more than its advantages do."""
    falling = iter(range(10, 0, -1))
    monkeypatch.setattr(callbacks, "returns_against", lambda *_: np.array([next(falling)]))
    model = learn(brief, tmp_path, "cpu")
    last = tmp_path / "last"
    save_policy(last, model)
    kept, saved = (read_manifest(folder / "policy.json").files for folder in (tmp_path, last))
    assert kept == saved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "dqn"}, "ppo in a league"),
        ({"num_markets": 20}, "a multiple of 16 in a league"),
        ({"against": ()}, "one or more policies in a league"),
        ({"league": False}, "candidates=2 .* 1 without a league"),
        ({"league": False, "candidates": 1, "league_settings": LeagueSettings(epochs=1)}, "default without a league"),
        ({"league_settings": LeagueSettings(members=7)}, "a multiple of 14 in a league"),
        ({"league_settings": LeagueSettings(minibatches=7)}, "minibatches=7 .* a divisor of the 9216 agent-steps"),
    ],
)
def test_settings_that_a_league_does_not_have_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tuned_league(scenario("digits-short")), **changes)  # type: ignore[arg-type]


def test_the_default_league_fits_any_number_of_agents_and_cycles() -> None:
    for agents in range(2, 9):
        plan = tuned_league(scenario("crowd-short", agents=agents, max_cycles=5))
        assert plan.num_markets % (8 * agents) == 0


def test_varied_is_a_policy_like_any_other() -> None:
    assert POLICIES.text(POLICIES.parse("varied")) == "varied"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not allowed: it must be greater than 0"),
        ({"entropy": -0.1}, "entropy=-0.1 is not allowed"),
        ({"layers": ()}, r"layers=\(\) is not allowed"),
        ({"members": 1}, "members=1 is not allowed"),
        ({"smoothing": float("nan")}, "smoothing=nan is not allowed"),
    ],
)
def test_league_settings_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeagueSettings(**changes)  # type: ignore[arg-type]


def test_ppo_and_the_opponents_have_the_settings_of_the_league(brief: Plan, tmp_path: Path) -> None:
    settings = LeagueSettings(
        learning_rate=1e-3,
        entropy=0.1,
        epochs=2,
        minibatches=2,
        layers=(16, 8),
        members=4,
        imitation_episodes=1,
        imitation_epochs=1,
    )
    plan = replace(brief, league_settings=settings, timesteps=64)
    model = learn(plan, tmp_path, "cpu")
    assert (model.learning_rate(1.0), model.n_epochs, model.batch_size) == (1e-3, 2, 32)
    assert [layer.out_features for layer in model.policy.mlp_extractor.policy_net[::2]] == [16, 8]
    assert model.rollout_buffer.members == 4


def test_a_league_with_other_settings_is_not_resumed(brief: Plan, tmp_path: Path) -> None:
    learn(replace(brief, timesteps=64), tmp_path, "cpu")
    check_resume(brief, tmp_path)
    other = replace(brief, league_settings=replace(brief.league_settings, entropy=0.1))
    with pytest.raises(ValueError, match=r"league_settings.entropy=0.1 is not allowed: it must be 0.05"):
        check_resume(other, tmp_path)


def test_the_command_has_the_settings_of_a_league() -> None:
    chosen = _parse(["train", "--league", "--entropy", "0.1", "--layers", "64", "32", "--imitation-epochs", "3"])
    assert isinstance(chosen, Train)
    assert chosen.plan.league_settings == LeagueSettings(entropy=0.1, layers=(64, 32), imitation_epochs=3)


def test_the_command_trains_a_league_with_its_defaults(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(league, "EVALUATED", 4)
    monkeypatch.setattr(teachers, "EPISODES", 2)
    monkeypatch.setattr(candidates, "COMPARED", 2)
    given = ["train", "--league", "--scenario", "digits-short", "--out", str(tmp_path / "mine"), "--device", "cpu"]
    brief = ["--timesteps", "1", "--num-markets", "16", "--imitation-episodes", "1", "--imitation-epochs", "1"]
    assert main([*given, *brief]) == 0
    shown = capsys.readouterr().out
    assert "in a league" in shown
    assert re.search(r"[12] of 2 candidates, with the chances (1.0|0.\d, 0.\d);", shown)
    assert (tmp_path / "mine" / "policy.json").is_file()
    assert main([*given, "--overwrite", "--algo", "dqn"]) == 2
    assert "algo='dqn' is not allowed" in capsys.readouterr().err
