"""An agent of your own: a Stable-Baselines3 PPO with its own network learns to trade and is compared with the rules.

Run it with ``python examples/own_agent.py``. It saves the policy in ``runs/mine``. Evaluate the policy again with
``paramarket evaluate learned:runs/mine train --scenario digits-priced --max-cycles 12``.
"""

from dataclasses import replace

from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from paramarket_baselines.evaluation.statistics import estimates_table, evaluate, summary
from paramarket_baselines.policies.saving import save_policy
from paramarket_env import paramarket_v0
from paramarket_env.scenarios import scenario

MARKET = replace(scenario("digits-priced"), max_cycles=12)
FOLDER = "runs/mine"


def main() -> None:
    """Train in one seat of each market against a rule, save the policy, and compare it with the rules."""
    rules = ["train", "paper", "patient"]
    # The learner meets each opponent from both seats, so the number of markets is a multiple of 2 x 3.
    env = VecNormalize(VecMonitor(paramarket_v0.sb3_vec_env(MARKET, num_markets=24, opponents=rules, device="cpu")))
    network = {"net_arch": {"pi": [64], "vf": [64, 64]}}
    model = PPO("MlpPolicy", env, 1e-3, n_steps=12, batch_size=144, policy_kwargs=network, seed=0, device="cpu")
    model.learn(4_000)
    save_policy(FOLDER, model)

    policies = ["train", f"learned:{FOLDER}", "paper", "patient"]
    runs = evaluate(MARKET, policies, populations=["train", "paper"], seeds=range(6), device="cpu")
    Console(width=110).print(estimates_table(summary(runs), "my agent and the rules"))


if __name__ == "__main__":
    main()
