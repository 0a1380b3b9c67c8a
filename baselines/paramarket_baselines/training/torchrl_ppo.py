"""TorchRL's PPO learns to trade: ``python -m paramarket_baselines.training.torchrl_ppo``.

All agents of all markets share one actor and one critic, and play against each other. Every iteration plays one episode
of every market and learns from it. At the end the policy is compared with random play on held-out seeds. With a central
critic this is MAPPO (Yu et al., *The surprising effectiveness of PPO in cooperative multi-agent games*, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.nn.functional import pad

from paramarket_baselines.evaluation.display import new_console, new_progress
from paramarket_baselines.evaluation.results import provenance
from paramarket_baselines.evaluation.statistics import compare_with_random
from paramarket_baselines.policies.best_action import BestAction
from paramarket_baselines.policies.learned import Normaliser
from paramarket_baselines.policies.saving import save_network
from paramarket_baselines.training.exploration import begin_with, even_verbs
from paramarket_baselines.training.options import GAMMA, SelfPlayOptions
from paramarket_env import paramarket_v0
from paramarket_env.config import MarketConfig
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.validation import require

try:
    from tensordict import TensorDictBase
    from tensordict.nn import InteractionType, TensorDictModule
    from torchrl.envs import EnvBase
    from torchrl.modules import MaskedCategorical, ProbabilisticActor
    from torchrl.objectives import ClipPPOLoss, ValueEstimators
except ImportError as error:
    raise ImportError("TorchRL is not installed: pip install 'paramarket-env[torchrl]'") from error

LAMBDA = 0.95
EPOCHS, MINIBATCHES = 8, 4
LEARNING_RATE = 1e-3  # at the beginning; it falls to a twentieth
CLIP = 10.0  # bound of standardised observations
HELD_OUT = 100  # seeds of the comparison at the end

Critic = Literal["own", "central"]
"""The input of the critic: the agent's own observation, or the observations of all agents of its market."""

NewNetwork = Callable[[int, int], nn.Module]
"""Makes a network from float32 ``[..., inputs]`` to ``[..., outputs]``, given the two sizes."""


@dataclass(frozen=True)
class Options(SelfPlayOptions):
    """Train a policy with TorchRL's PPO, and compare it with random play."""

    device: str = "auto"
    """Device of the markets and the networks: `auto`, `cpu` or `cuda`."""
    critic: Critic = "own"
    """`own`: the critic sees what the agent sees. `central`: it sees the observations of all agents of the market."""
    folder: Path | None = None
    """The policy is saved in this folder, and `learned:FOLDER` plays it. None: it is not saved."""


class Standardise(nn.BatchNorm1d):
    """Standardises observations by the mean and variance of all rollouts so far.

    The ranges of their fields differ by orders of magnitude.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, affine=False, momentum=None)
        self.eval()

    def forward(self, observation: Tensor) -> Tensor:
        """Standardised observations, float32 ``[..., D]`` as given."""
        return super().forward(observation.flatten(0, -2)).view_as(observation).clamp(-CLIP, CLIP)

    def normaliser(self) -> Normaliser:
        """The current scaling, for a saved policy."""
        assert self.running_mean is not None
        assert self.running_var is not None
        variance = self.running_var.double() + self.eps
        return Normaliser(self.running_mean.double().cpu().numpy(), variance.cpu().numpy(), CLIP)

    def show(self, observation: Tensor) -> None:
        """Update the mean and variance with the observations of a rollout."""
        self.train()(observation)
        self.eval()


class Perspectives(nn.Module):
    """Gives each agent its view of the market's state: its own observation, then those of the agents after it.

    The agents share one critic, so each of them must find itself at the same place.
    """

    def forward(self, state: Tensor) -> Tensor:
        """The views, float32 ``[..., N, N * D]``, of a state ``[..., N, D]``."""
        return torch.cat([state.roll(-place, -2) for place in range(state.shape[-2])], -1)


def masked(logits: Tensor, mask: Tensor, nvec: Sequence[int]) -> Distribution:
    """The distribution of actions: an independent choice for each part. Logits and masks are flat, ``[..., A]``."""
    if len(nvec) == 1:
        one: Distribution = MaskedCategorical(logits=logits, mask=mask)
        return one
    padded = [
        torch.stack([pad(part, (0, max(nvec) - part.shape[-1])) for part in flat.split(nvec, -1)], -2)
        for flat in (logits, mask)
    ]
    return Independent(MaskedCategorical(logits=padded[0], mask=padded[1]), 1)


def mlp(inputs: int, outputs: int) -> nn.Module:
    """A network with two hidden layers of 64 units."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def new_actor(scores: nn.Module, nvec: Sequence[int]) -> TensorDictModule:
    """The actor that samples actions by scores ``[..., A]``; ``nvec`` has the number of choices of each part."""
    return ProbabilisticActor(
        TensorDictModule(scores, [("agents", "observation")], [("agents", "logits")]),
        in_keys={"logits": ("agents", "logits"), "mask": ("agents", "action_mask")},
        out_keys=[("agents", "action")],
        distribution_class=masked,
        distribution_kwargs={"nvec": nvec},
        default_interaction_type=InteractionType.RANDOM,  # TorchRL's default is the best action
        return_log_prob=True,
        log_prob_key=("agents", "action_log_prob"),
    )


def new_loss(actor: TensorDictModule, values: nn.Module, critic: Critic = "own") -> ClipPPOLoss:
    """PPO's loss over agents; its ``value_estimator`` computes generalised advantage estimates.

    ``values`` maps what the critic sees to values ``[..., N, 1]``: all observations or the state, ``[..., N, D]``.
    """
    seen = "state" if critic == "central" else ("agents", "observation")
    value_operator = TensorDictModule(values, [seen], [("agents", "state_value")])
    loss = ClipPPOLoss(actor, value_operator, entropy_coeff=0.01, critic_coeff=0.5)
    loss.set_keys(value=("agents", "state_value"), sample_log_prob=("agents", "action_log_prob"))
    loss.set_keys(**{name: ("agents", name) for name in ("action", "reward", "done", "terminated")})
    loss.make_value_estimator(ValueEstimators.GAE, gamma=GAMMA, lmbda=LAMBDA, average_gae=True)
    return loss


def expand_ends(rollout: TensorDictBase) -> None:
    """Copy each market's end to its agents, ``[M, steps, N, 1]``, since TorchRL needs an end for each reward.

    Truncation counts as termination: observations contain the time left, and no reward follows the end.
    """
    after = rollout["next"]
    ends = after["done"].unsqueeze(-2).expand_as(after["agents", "reward"])
    after["agents", "done"], after["agents", "terminated"] = ends, ends


def improve(loss: ClipPPOLoss, optimizer: torch.optim.Optimizer, rollout: TensorDictBase) -> None:
    """PPO's epochs over a rollout ``[M, steps]``."""
    expand_ends(rollout)
    with torch.no_grad():
        loss.value_estimator(rollout)
    steps = rollout.reshape(-1)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(steps), device=steps.device).chunk(MINIBATCHES):
            parts = loss(steps[rows])
            optimizer.zero_grad()
            sum(parts[f"loss_{name}"] for name in ("objective", "critic", "entropy")).backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()


def new_values(standardise: Standardise, network: NewNetwork, agents: int, critic: Critic) -> nn.Module:
    """The critic's network, for :func:`new_loss`."""
    size = standardise.num_features
    if critic == "own":
        return nn.Sequential(standardise, network(size, 1))
    return nn.Sequential(standardise, Perspectives(), network(agents * size, 1))


def learn(
    config: MarketConfig,
    num_markets: int,
    iterations: int,
    seed: int,
    device: str | torch.device = "auto",
    on_iteration: Callable[[int, float], None] = lambda iteration, returned: None,
    network: NewNetwork = mlp,
    critic: Critic = "own",
) -> nn.Sequential:
    """Train the actor, which maps observations, float32 ``[..., D]``, to scores of the choices, ``[..., A]``.

    The actor is a ``Standardise`` and a network. A ``central`` critic sees the state of the whole market, and the actor
    only the agent's own observation.

    ``on_iteration`` is called with the iteration, counted from 1, and an agent's mean return in its episodes. Seeds
    torch's global generator.
    """
    require(critic in get_args(Critic), "critic", critic, "'own' or 'central'")
    env: EnvBase = paramarket_v0.torchrl_env(config, num_markets=num_markets, device=device)
    torch.manual_seed(seed)
    env.set_seed(seed)
    batch = env.market_batch
    standardise = Standardise(batch.layout.size)
    choosing = network(batch.layout.size, batch.actions.mask_size)
    begin_with(choosing, even_verbs(batch.actions))
    scores = nn.Sequential(standardise, choosing).to(env.device)
    values = new_values(standardise, network, config.agents, critic).to(env.device)
    standardise.show(env.rollout(config.max_cycles, break_when_any_done=False)["agents", "observation"])
    actor = new_actor(scores, batch.actions.nvec)
    loss = new_loss(actor, values, critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, iterations)
    for iteration in range(1, iterations + 1):
        with torch.no_grad():
            rollout = env.rollout(config.max_cycles, actor, break_when_any_done=False)
        improve(loss, optimizer, rollout)
        schedule.step()
        # Not earlier: the ratio of new to old probabilities needs both on the same scale.
        standardise.show(rollout["agents", "observation"])
        on_iteration(iteration, float(rollout["next", "agents", "reward"].sum(1).mean()))
    return scores


def save_scores(
    folder: Path | str, scores: nn.Sequential, config: MarketConfig, metadata: dict[str, Any] | None = None
) -> None:
    """Save the actor that :func:`learn` has trained, so that ``learned:FOLDER`` plays its most likely actions.

    See ``save_network`` for the networks that can be saved, for ``metadata``, and for errors.
    """
    standardise, network = scores
    assert isinstance(standardise, Standardise)
    save_network(folder, network, standardise.normaliser(), MarketBatch(config, 1, "cpu"), metadata)


def run(options: Options, console: Console) -> None:
    """Train, then print an agent's mean return with the policy and with random play in all seats."""
    config = options.config
    with new_progress(console, transient=True) as progress:
        task = progress.add_task("PPO", total=options.iterations)

        def on_iteration(iteration: int, returned: float) -> None:
            progress.update(task, completed=iteration)
            console.print(f"iteration {iteration:>4}   return {returned:6.3f}")

        scores = learn(
            config,
            options.num_markets,
            options.iterations,
            options.seed,
            options.device,
            on_iteration,
            critic=options.critic,
        )
    if options.folder is not None:
        kept = {name: value for name, value in vars(options).items() if name != "folder"}
        about = {"options": kept, **provenance([options.seed], next(scores.parameters()).device, dated=False)}
        save_scores(options.folder, scores, config, about)
    # Training starts with the seeds before these; its later episodes use hashes of them.
    seeds = range(options.seed + options.num_markets, options.seed + options.num_markets + HELD_OUT)
    console.print(f"mean return on {HELD_OUT} held-out seeds, [95 % interval]")
    for name, mean in compare_with_random(config, partial(BestAction, scores), seeds, options.device).items():
        console.print(f"{name:<8} {mean}")


if __name__ == "__main__":
    run(tyro.cli(Options, description=__doc__), new_console())
