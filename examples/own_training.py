"""A training loop of your own: proximal policy optimization in one file, in the style of CleanRL.

Run it with ``python examples/own_training.py``. One agent learns in each of 12 markets, against the patient rule. An
iteration plays one episode of every market. So a rollout ends where the episodes end, and no value beyond its end has
to be estimated.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from paramarket_baselines.policies.decisions import Patient
from paramarket_env import paramarket_v0
from paramarket_env.scenarios import scenario

MARKET = scenario("digits-priced-short")
NUM_MARKETS, ITERATIONS, EPOCHS, MINIBATCHES = 12, 15, 8, 2
LEARNING_RATE, LAMBDA, CLIP, ENTROPY = 5e-3, 0.95, 0.2, 0.01


class Agent(nn.Module):
    """The actor and the critic. Observations are divided by their upper bounds where these are below 1."""

    high: Tensor

    def __init__(self, high: np.ndarray, actions: int) -> None:
        super().__init__()
        self.register_buffer("high", torch.from_numpy(high).clamp(max=1))
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(len(high), 64), nn.Tanh(), nn.Linear(64, outputs)) for outputs in (actions, 1)
        )

    def forward(self, observation: Tensor, mask: Tensor) -> tuple[Categorical, Tensor]:
        """The distribution of legal actions and the values ``[R]``; observations ``[R, D]``, masks ``[R, A]``."""
        scaled = observation / self.high
        return Categorical(logits=self.actor(scaled).masked_fill(mask == 0, -1e9)), self.critic(scaled).squeeze(-1)


def advantages(rewards: Tensor, values: Tensor, ends: Tensor) -> Tensor:
    """Generalised advantage estimates; all tensors are ``[steps, M]``. The end of an episode counts as terminal."""
    result, following, estimate = torch.zeros_like(rewards), torch.zeros(NUM_MARKETS), torch.zeros(NUM_MARKETS)
    for step in reversed(range(len(rewards))):
        going_on = (~ends[step]).float()
        error = rewards[step] + going_on * following - values[step]
        estimate = result[step] = error + going_on * LAMBDA * estimate
        following = values[step]
    return result


def main() -> None:
    """Train, and print the mean return of an episode in each iteration."""
    torch.manual_seed(0)
    env = paramarket_v0.vector_env(MARKET, opponents=Patient(), num_envs=NUM_MARKETS, device="cpu")
    observation, info = env.reset(seed=0)
    agent = Agent(env.market_batch.layout.high, actions=info["action_mask"].shape[1])
    optimizer = torch.optim.Adam(agent.parameters(), LEARNING_RATE)
    for iteration in range(ITERATIONS):
        steps = []
        for _ in range(MARKET.max_cycles):
            seen = torch.from_numpy(observation), torch.from_numpy(info["action_mask"])
            with torch.no_grad():
                policy, value = agent(*seen)
            action = policy.sample()
            observation, reward, terminated, truncated, info = env.step(action.numpy())
            end = torch.from_numpy(terminated | truncated)
            steps.append((*seen, action, policy.log_prob(action), value, torch.from_numpy(reward).float(), end))
        *played, values, rewards, ends = (torch.stack(column) for column in zip(*steps, strict=True))
        print(f"iteration {iteration + 1:>2}: mean return {rewards.sum(0).mean():.2f}")
        advantage = advantages(rewards, values, ends)
        batch = [column.flatten(0, 1) for column in (*played, advantage, advantage + values)]
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(batch[0])).chunk(MINIBATCHES):
                improve(agent, optimizer, *(column[rows] for column in batch))


def improve(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    observation: Tensor,
    mask: Tensor,
    action: Tensor,
    before: Tensor,
    advantage: Tensor,
    target: Tensor,
) -> None:
    """One step of PPO's clipped loss on a minibatch; ``before`` is the old log-probability of the action."""
    policy, value = agent(observation, mask)
    ratio = (policy.log_prob(action) - before).exp()
    scaled = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    actor = -torch.min(ratio * scaled, ratio.clamp(1 - CLIP, 1 + CLIP) * scaled).mean()
    loss = actor + 0.5 * (value - target).square().mean() - ENTROPY * policy.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
    optimizer.step()


if __name__ == "__main__":
    main()
