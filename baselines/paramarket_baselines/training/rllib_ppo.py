"""RLlib's PPO on one machine or on a Ray cluster: ``python -m paramarket_baselines.training.rllib_ppo``.

All agents of all markets share one policy. The env runners play the markets on their nodes, and the driver learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import tyro

try:
    import ray
    from ray.cluster_utils import Cluster
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune import register_env
except ImportError as error:
    raise ImportError("RLlib is not installed: pip install 'paramarket-env[rllib]'") from error

from paramarket_baselines.evaluation.display import new_console
from paramarket_baselines.evaluation.statistics import compare_with_random
from paramarket_baselines.policies.best_action import BestAction
from paramarket_baselines.training.options import SelfPlayOptions
from paramarket_baselines.training.rllib_policy import SharedPolicy, model_config
from paramarket_env import paramarket_v0
from paramarket_env.config import MarketConfig
from paramarket_env.validation import require

RUNNER = "env_runner"
"""The Ray resource that a node offers for each env runner. If no node offers it, any node can run them."""
POLICY = "trader"
HELD_OUT = range(1_000_000, 1_000_020)
"""Seeds on which the policies are compared. They are far from the training's seeds."""
LEAN: dict[str, Any] = {"object_store_memory": 150 * 2**20, "include_dashboard": False}
"""Ray's settings of a node that is started here."""


@dataclass(frozen=True)
class Options(SelfPlayOptions):
    """Train one policy for all agents with RLlib's PPO, and compare it with random play on held-out seeds."""

    max_cycles: int = 24
    """Steps of an episode."""
    iterations: int = 25
    """Number of iterations. Each is one episode of every market, and one update."""
    runners: int = 1
    """Number of env runners, each with `num_markets` markets."""
    nodes: Literal[1, 2] = 1
    """2: start a local cluster of two nodes, with the env runners on the second."""
    address: str | None = None
    """Address of a running Ray cluster; `auto` on one of its nodes. Without it, Ray starts on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.runners >= 1, "runners", self.runners, "an integer >= 1")
        require(self.nodes == 1 or self.address is None, "nodes", self.nodes, "1 if address is given")


@dataclass(frozen=True)
class TrainingResult:
    """The trained policy, and the nodes that trained it."""

    policy: SharedPolicy
    learner: str
    """The id of the node of the learner."""
    runners: list[str]
    """The ids of the nodes of the env runners."""


@contextmanager
def connected(options: Options) -> Iterator[None]:
    """A connection to Ray: on this machine, on a local cluster of two nodes, or on a running cluster."""
    cluster = None
    if options.nodes == 2:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **LEAN})
        cluster.add_node(num_cpus=options.runners, resources={RUNNER: options.runners}, **LEAN)
    # Without "local" Ray would join a cluster that happens to run on this machine.
    address = cluster.address if cluster else options.address or "local"
    mine = {"num_cpus": options.runners, **LEAN} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **mine)
        yield
    finally:
        ray.shutdown()
        if cluster:
            cluster.shutdown()


def ppo_config(options: Options, config: MarketConfig) -> PPOConfig:
    """The configuration of PPO. An iteration is an episode of every market."""
    register_env("paramarket", lambda context: paramarket_v0.rllib_env(**context))
    offered = ray.cluster_resources()
    slots = offered.get(RUNNER, offered.get("CPU", 0))
    require(options.runners <= slots, "runners", options.runners, f"at most {slots:g}: the cluster has no more room")
    steps = config.max_cycles * options.num_markets * config.agents  # agent-steps in an episode of an env runner
    batch = options.runners * steps
    spec = RLModuleSpec(module_class=SharedPolicy, model_config=model_config(config, options.seed))
    return (
        PPOConfig()
        .environment("paramarket", env_config={"scenario": config, "num_markets": options.num_markets})
        .env_runners(
            num_env_runners=options.runners,
            custom_resources_per_env_runner={RUNNER: 1} if RUNNER in offered else {},
            # Not complete_episodes: with it RLlib resets to the same seed each time.
            rollout_fragment_length=steps,
            sample_timeout_s=None,
        )
        .multi_agent(policies={POLICY}, policy_mapping_fn=lambda *_, **__: POLICY, count_steps_by="agent_steps")
        .rl_module(rl_module_spec=spec)
        .training(
            train_batch_size_per_learner=batch,
            minibatch_size=max(batch // 4, 1),
            num_epochs=8,
            lr=1e-3,
            gamma=0.99,
            lambda_=0.95,
            clip_param=0.2,
            entropy_coeff=0.01,
            use_kl_loss=False,
            grad_clip=0.5,
        )
        .debugging(seed=options.seed, log_level="ERROR")
    )


def learn(options: Options, config: MarketConfig) -> TrainingResult:
    """Train for ``options.iterations`` iterations. Ray must be :func:`connected`."""
    console = new_console()
    algorithm = ppo_config(options, config).build_algo()
    try:
        runners = algorithm.env_runner_group.foreach_env_runner(
            lambda _: ray.get_runtime_context().get_node_id(), local_env_runner=False
        )
        for iteration in range(1, options.iterations + 1):
            metrics = algorithm.train()
            # RLlib adds up the returns of all agents of a policy.
            mean = metrics["env_runners"]["module_episode_returns_mean"][POLICY] / (options.num_markets * config.agents)
            console.print(f"iteration {iteration}: {metrics['time_total_s']:.0f} s, mean return {mean:.2f}")
        return TrainingResult(algorithm.get_module(POLICY), ray.get_runtime_context().get_node_id(), runners)
    finally:
        algorithm.stop()


def main() -> None:
    """Train, compare, print."""
    options = tyro.cli(Options, description=__doc__)
    config = options.config
    with connected(options):
        result = learn(options, config)
    console = new_console()
    console.print(f"learner on node {result.learner[:8]}")
    console.print(f"env runners on {', '.join(f'node {node[:8]}' for node in result.runners)}")
    console.print(f"mean return on {len(HELD_OUT)} held-out seeds, [95 % interval]")
    for name, mean in compare_with_random(config, partial(BestAction, result.policy.scores), HELD_OUT).items():
        console.print(f"{name:<8} {mean}")


if __name__ == "__main__":
    main()
