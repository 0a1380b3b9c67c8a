"""TorchRL's PPO: that it learns, by the estimates that it should, and plays wherever a rule does."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.best_action import BestAction
from paramarket_baselines.policies.learned import MANIFEST, read_manifest
from paramarket_env import paramarket_v0
from paramarket_env.config import ActionMode
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from paramarket_env.learning.training import SGD
from tests.baselines.policies.test_decisions import seated
from tests.helpers import priced_market, tiny_market

pytest.importorskip("torchrl")

from tensordict.nn import set_interaction_type

from paramarket_baselines.training import torchrl_ppo as ppo

MODES = ("verb", "round")


class Values(nn.Module):
    """A critic that is easy to follow: the sum of what an agent sees."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, observation: Tensor) -> Tensor:
        return self.scale * observation.sum(-1, keepdim=True)


def played(mode: str, steps: int, standardise: Any = None) -> tuple[Any, Any]:
    """A rollout of random scores in a market of six cycles, and the loss for it."""
    env = paramarket_v0.torchrl_env(priced_market(action_mode=mode), num_markets=4, device="cpu")
    env.set_seed(0)
    torch.manual_seed(0)
    actions = env.market_batch.actions
    scores = nn.Sequential(standardise or nn.Identity(), ppo.mlp(env.market_batch.layout.size, actions.mask_size))
    actor = ppo.new_actor(scores, actions.nvec)
    with torch.no_grad():
        rollout = env.rollout(steps, actor, break_when_any_done=False)
    return rollout, ppo.new_loss(actor, Values())


@pytest.mark.parametrize(("mode", "critic"), [("verb", "own"), ("round", "own"), ("verb", "central")])
def test_the_best_action_of_a_single_step_is_found(mode: str, critic: ppo.Critic) -> None:
    # Nobody's offer is worth anything yet, and to hold gains nothing: to train is the one action that pays.
    config = tiny_market(max_cycles=1, optimizer=SGD(lr=0.2), opens_at=1, endowment="iid", action_mode=mode)
    scores = ppo.learn(config, 16, 12, 0, "cpu", critic=critic)
    steps = play(config, Arm("", (partial(BestAction, scores),)), range(100, 120), "cpu").steps
    assert steps[steps.cycle == 1].trained.mean() > 0.9


def test_each_agent_finds_itself_first_in_its_view_of_the_state() -> None:
    state = torch.arange(6.0, dtype=torch.float32, device="cpu").view(1, 3, 2)
    views = ppo.Perspectives()(state)
    assert views.tolist() == [[[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 0, 1], [4, 5, 0, 1, 2, 3]]]


@pytest.mark.parametrize("critic", ["own", "central"])
def test_only_a_central_critic_sees_the_other_agents(critic: ppo.Critic) -> None:
    rollout, _ = played("verb", 2)
    size = rollout["state"].shape[-1]
    standardise = ppo.Standardise(size)
    actor = ppo.new_actor(nn.Sequential(standardise, ppo.mlp(size, rollout["agents", "logits"].shape[-1])), [1])
    loss = ppo.new_loss(actor, ppo.new_values(standardise, ppo.mlp, 3, critic), critic)
    other = rollout.clone()
    for seen in (other["state"], other["agents", "observation"]):
        seen[..., 2, :] += 1  # the last agent's
    with loss.critic_network_params.to_module(loss.critic_network):
        before, after = (loss.critic_network(part)["agents", "state_value"] for part in (rollout, other))
    assert before.shape == (4, 2, 3, 1)
    assert (before != after).all(1).all(0).flatten().tolist() == [critic == "central", critic == "central", True]
    assert actor.in_keys == [("agents", "observation"), ("agents", "action_mask")]


def test_an_unknown_critic_is_refused() -> None:
    with pytest.raises(ValueError, match="critic='all' is not allowed: it must be 'own' or 'central'"):
        ppo.learn(tiny_market(), 1, 1, 0, "cpu", critic="all")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_policy_chooses_the_most_likely_actions_of_the_actor(mode: ActionMode, tmp_path: Path) -> None:
    options = ppo.Options(action_mode=mode, max_cycles=3, device="cpu", critic="central")
    scores = ppo.learn(options.config, 4, 2, 0, "cpu", critic="central")
    ppo.save_scores(tmp_path, scores, options.config)
    env = paramarket_v0.torchrl_env(options.config, num_markets=4, device="cpu")
    batch = env.market_batch
    actor = ppo.new_actor(scores, batch.actions.nvec)
    learned = seated(f"learned:{tmp_path}", seat_of(batch, 4))
    now = env.reset()
    for _ in range(3):
        with torch.no_grad(), set_interaction_type(ppo.InteractionType.MODE):
            now = actor(now)
        chosen = learned.act(now["agents", "observation"][:, 0], now["agents", "action_mask"][:, 0])
        assert torch.equal(chosen, now["agents", "action"][:, 0])
        now = env.step(now)["next"]


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_gives_the_same_policy(mode: str) -> None:
    config = priced_market(max_cycles=4, action_mode=mode)

    def trained(seed: int) -> tuple[Tensor, list[tuple[int, float]]]:
        reported: list[tuple[int, float]] = []
        scores = ppo.learn(config, 3, 2, seed, "cpu", lambda *now: reported.append(now))
        return nn.utils.parameters_to_vector(scores.parameters()), reported

    (first, reported), (second, again), (other, otherwise) = (trained(seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert reported == again != otherwise
    assert [iteration for iteration, _ in reported] == [1, 2]


def test_advantages_are_those_of_a_plain_loop() -> None:
    rollout, loss = played("verb", 10)  # an episode, and four steps of the next
    rollout["next", "done"][2, 3] = True  # that of one market ends early
    ppo.expand_ends(rollout)
    loss.value_estimator(rollout)
    found = rollout["value_target"] - rollout["agents", "state_value"]
    values, after = (part["agents", "observation"].sum(-1).double() * 0.1 for part in (rollout, rollout["next"]))
    reward, done = rollout["next", "agents", "reward"].double(), rollout["next", "done"]
    expected = torch.zeros(4, 10, 3, dtype=torch.float64)
    for market, agent in product(range(4), range(3)):
        advantage = 0.0
        for step in reversed(range(10)):
            going_on = 0.0 if done[market, step] else 1.0
            now = float(reward[market, step, agent] + going_on * ppo.GAMMA * after[market, step, agent])
            now -= float(values[market, step, agent])
            advantage = now + going_on * ppo.GAMMA * ppo.LAMBDA * advantage
            expected[market, step, agent] = advantage
    torch.testing.assert_close(found.squeeze(-1).double(), expected, rtol=1e-4, atol=1e-5)
    standardised = (expected - expected.mean()) / expected.std()
    torch.testing.assert_close(rollout["advantage"].squeeze(-1).double(), standardised, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_actions_are_drawn_among_legal_ones_by_their_probabilities(mode: str) -> None:
    rollout, loss = played(mode, 6)
    logits, mask, actions = (rollout["agents", name] for name in ("logits", "action_mask", "action"))
    choices = MarketBatch(priced_market(action_mode=mode), 1, "cpu").actions.nvec
    parts = zip(
        logits.masked_fill(~mask, -torch.inf).split(choices, -1),
        actions.reshape(*mask.shape[:-1], len(choices)).unbind(-1),
        strict=True,
    )
    expected = sum(part.log_softmax(-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1) for part, chosen in parts)
    torch.testing.assert_close(rollout["agents", "action_log_prob"], expected)
    assert not bool(mask.all())
    assert len(actions.flatten(0, 2).unique(dim=0)) > 5  # drawn, not the best one each time
    ppo.expand_ends(rollout)
    loss.value_estimator(rollout)
    parts = loss(rollout.reshape(-1))
    assert float(parts["kl_approx"]) == pytest.approx(0, abs=1e-5)
    parts["loss_entropy"].backward()
    assert all(bool(p.grad.isfinite().all()) for p in loss.actor_network_params.parameters() if p.grad is not None)


def test_observations_are_scaled_by_all_that_was_shown() -> None:
    standardise = ppo.Standardise(2)
    for mean in (0.0, 2.0):
        standardise.show(torch.tensor([[[mean - 1.0, 50.0]], [[mean + 1.0, 50.0]]]))
    scaled = standardise(torch.tensor([[[1.0, 50.0]], [[1.0 + 2**0.5, 51.0]]]))
    np.testing.assert_allclose(scaled.numpy(), [[[0, 0]], [[1, ppo.CLIP]]], atol=1e-3)


def test_the_loss_takes_the_scale_of_the_last_rollout() -> None:
    standardise = ppo.Standardise(paramarket_v0.parallel_env(priced_market(), device="cpu").layout.size)
    rollout, loss = played("verb", 6, standardise)
    ppo.expand_ends(rollout)
    loss.value_estimator(rollout)
    assert float(loss(rollout.reshape(-1))["kl_approx"]) == pytest.approx(0, abs=1e-5)
    standardise.show(rollout["agents", "observation"])
    assert abs(float(loss(rollout.reshape(-1))["kl_approx"])) > 1e-4


def test_learning_begins_with_even_chances_for_every_verb() -> None:
    config = priced_market(parameter_sets="layers")
    scores = ppo.learn(config, 20, 0, 0, "cpu")
    batch = MarketBatch(config, 20, "cpu")
    chances = scores(batch.reset(torch.arange(20))[0]).detach().softmax(-1).mean((0, 1))
    buy, ask = 2, len(chances) - batch.actions.choices.ask_slots * batch.actions.choices.levels
    verbs = chances[0], chances[1], chances[buy:ask].sum(), chances[ask:].sum()
    assert min(ask - buy, len(chances) - ask) > 1
    assert [float(verb) for verb in verbs] == pytest.approx([0.25] * 4, abs=0.1)


def test_the_learning_rate_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(ppo, "improve", lambda loss, optimizer, rollout: rates.append(optimizer.param_groups[0]["lr"]))
    with pytest.warns(UserWarning, match="lr_scheduler.step"):  # since this optimizer never steps
        ppo.learn(tiny_market(max_cycles=2), 1, 4, 0, "cpu")
    assert rates == pytest.approx([ppo.LEARNING_RATE * share for share in (1, 0.7625, 0.525, 0.2875)])


def test_a_network_of_ones_own_is_trained() -> None:
    made: list[tuple[int, int]] = []

    def linear(inputs: int, outputs: int) -> nn.Module:
        made.append((inputs, outputs))
        return nn.Linear(inputs, outputs)

    config = priced_market(max_cycles=2)
    scores = ppo.learn(config, 2, 1, 0, "cpu", network=linear)
    batch = MarketBatch(config, 1, "cpu")
    assert made == [(batch.layout.size, batch.actions.mask_size), (batch.layout.size, 1)]
    assert isinstance(scores, nn.Sequential)
    assert isinstance(scores[1], nn.Linear)


def test_a_network_of_other_layers_is_not_saved(tmp_path: Path) -> None:
    config = tiny_market()
    batch = MarketBatch(config, 1, "cpu")
    inputs, outputs = batch.layout.size, batch.actions.mask_size
    for network in (ppo.mlp(inputs, outputs + 1), nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs))):
        with pytest.raises(ValueError, match=f"network cannot be saved: .* {inputs} inputs to {outputs} outputs"):
            ppo.save_scores(tmp_path / "none", nn.Sequential(ppo.Standardise(inputs), network), config)
    assert not (tmp_path / "none").exists()


def test_the_command_saves_its_policy_and_compares_it_with_random_play(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(ppo, "HELD_OUT", 3)
    options = ppo.Options(max_cycles=2, num_markets=2, iterations=2, device="cpu", critic="central", folder=tmp_path)
    ppo.run(options, ppo.new_console())
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed[:2]] == [["iteration", "1"], ["iteration", "2"]]
    assert [line.split()[0] for line in printed[-2:]] == ["random", "learned"]
    saved = read_manifest(tmp_path / MANIFEST)
    assert (saved.algorithm, saved.metadata["options"]["critic"]) == ("maskable-ppo", "central")
    assert not play(options.config, Arm("", (f"learned:{tmp_path}",)), (0,), "cpu", closing_trade=False).steps.empty


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations=0 is not allowed"):
        ppo.Options(iterations=0)
