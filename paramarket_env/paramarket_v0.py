"""ParaMarket, version 0: agents train neural networks and trade their parameters.

| Import          | `from paramarket_env import paramarket_v0`            |
|-----------------|--------------------------------------------------------|
| Actions         | `Discrete` (`verb`) or `MultiDiscrete` (`round`)       |
| Parallel API    | yes                                                    |
| Manual control  | no                                                     |
| Agents          | `trader_0` ... `trader_{N-1}`                          |
| Observation     | float32 vector, `env.layout.table()` lists its fields  |
| State           | all observations stacked, float32 `[N, D]`             |

Every agent owns a real network and private training data, scarce in some classes. At each step it trains its
network, buys another agent's parameters, or posts a price for its own. The market is that of Huang, Vishwakarma and
Sala, *Train 'n Trade: Foundations of Parameter Markets* (NeurIPS 2023): a broker with validation data of its own aligns
the seller's parameters to the buyer's network, tries a grid of merge weights, and quotes what the buyer would gain.

### Actions

`verb`: 0 hold, 1 train, then one action for each offer (seller by seller, parameter set by parameter set, as
`env.offers(agent)` lists them), then one for each ask level, of which the last withholds. `round`: `[train, buy,
ask]`, where `buy` and `ask` are 0 for nothing and otherwise count as above from 1. Where the mechanism takes bids, each
offer comes once for each price that can be bid; where asks are personal, the ask levels come once for each other agent
(in `round` one `ask` each). `info["action_mask"]` says what is legal now. An illegal action is a no-op that
`info["refused"]` counts, by cause in `info["refused_..."]`; one outside the space raises `ValueError` and changes
nothing.

### A step

All act at once on what they saw. Purchases clear at the asks that stood, from the networks as they stood; buyers
get the network that was quoted, with a fresh optimizer; then those who train make a pass over their data; new asks are
posted; all networks are evaluated, and every offer is quoted anew.

### Rewards

    kappa * (loss before - loss after) + tick * (received - paid) + terms

on the broker's validation data. `kappa` is 1 by default; it can be drawn anew for each agent and episode, and is seen
by its owner alone. There are no further terms by default; `economy.reward_terms` adds some, such as
`train-cost(cost=0.01)` and `rivalry(weight=0.5)`, which takes half of what the others gained on average. Of every price
the broker keeps the share `broker_fee`. An episode is truncated after `max_cycles`. An agent whose loss is no longer
finite is terminated, its offers are withdrawn, and its last reward counts its network as no better than a uniform
guess.

### Mechanisms

How orders become trades, `economy.mechanism`:

| name             | asks                            | the buyer       | the price                                    |
|------------------|---------------------------------|-----------------|----------------------------------------------|
| `posted`         | one for all, seen               | takes it or not | the ask                                      |
| `personal`       | one for each buyer, seen by it  | takes it or not | the ask                                      |
| `double-auction` | one for all, sealed             | bids            | ask + `k` (bid - ask), if bid >= ask         |
| `second-price`   | one for all, seen: the reserve  | bids            | the highest losing bid, or the reserve       |

In a `second-price` auction each parameter set of a seller has `copies` copies in a step, for the highest bids. A bid
that is too low is refused (`underbid`, `outbid`).

What sellers are told, `economy.disclosure`, each with what the one before has: `none` (who bought from them, and who
could have and did not), `transactions` (also the prices and numbers of all trades), then either `bounds` (also a lower
and an upper bound on every buyer's gain, from derivative and curvature of its loss) or `full` (also the buyers' values).

### Arguments

`parallel_env(scenario="digits", *, render_mode=None, device="auto", mask_style="tuple", **changes)`

`scenario`: a name of `paramarket_env.scenarios.SCENARIOS`, or a `MarketConfig` of your own. `changes`: other values for
any fields of the configuration, such as `agents=4`, `max_cycles=20`, `action_mode="round"` or
`mechanism="double-auction(k=0.3)"`. `render_mode`: `"ansi"`, `"rgb_array"` or `"human"`. `device`:
`"auto"` (the GPU where there is one), `"cpu"`, `"cuda"`. `mask_style`: `"tuple"` as PettingZoo and Gymnasium take masks
of a `MultiDiscrete`, `"flat"` as MaskablePPO and TorchRL do.

### For one learner or many markets

The same market for other clients; a market's episodes are the same in all of them, given its seed and the actions.

| function        | gives                         | who learns                                                     |
|-----------------|-------------------------------|----------------------------------------------------------------|
| `sb3_vec_env`   | a Stable-Baselines3 `VecEnv`  | all agents of all markets, one row each, or one of each market |
| `torchrl_env`   | a TorchRL `EnvBase`           | all agents of all markets, a dimension of the group `agents`   |
| `rllib_env`     | an RLlib `MultiAgentEnv`      | all agents of all markets, as `market_3/trader_1`              |
| `gym_env`       | a Gymnasium `Env`             | one seat                                                       |
| `vector_env`    | a Gymnasium `VectorEnv`       | one seat in each of many markets                               |

`sb3_vec_env(scenario="digits", *, opponents=(), num_markets=1, device="auto", **changes)`, and so, without opponents,
`torchrl_env` and `rllib_env`

`vector_env(scenario="digits", *, opponents, seat=0, num_envs=1, device="auto", **changes)`

`gym_env(scenario="digits", *, opponents, seat=0, render_mode=None, device="auto", mask_style="tuple", **changes)`

`num_markets`, `num_envs`: how many markets play side by side; each begins its next episode in the step in which it
ends. `seat`: the agent that learns. `opponents`: who plays the other seats: a `PolicyFactory` (see
`paramarket_env.interface.policy`) for all of them, such as `baselines.policies.decisions.Patient()`, or
a list of one for each. In `sb3_vec_env` each of the listed policies is a population: it has all seats but the learner's
in some of the markets, and the learner's seat changes from market to market; without opponents all agents learn.

An agent whose network fails while its market goes on idles until the market's end: its orders are ignored, its reward
is 0, and its mask only lets it hold. In the `VecEnv` its row is done when it fails and once more with its market. With
one learner the episode ends. In `rllib_env`, where an episode is one of all markets, the agent drops out.

The end after `max_cycles` is a truncation in PettingZoo's and Gymnasium's words. But nothing follows it, agents see the
time that is left, and no learner ever learns the value of what it sees behind it. So `sb3_vec_env` and `rllib_env` call
it terminal, as otherwise their libraries' algorithms would add that value to the last reward; do the same in a loop of
your own.

### Version history

* v0: first version
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pettingzoo.utils.conversions import aec_wrapper_fn

from paramarket_env.adapters.gymnasium import ParaMarketGymEnv, ParaMarketVectorEnv
from paramarket_env.adapters.opponents import OpponentFactories
from paramarket_env.adapters.pettingzoo import ParaMarketEnv
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import MaskStyle
from paramarket_env.interface.policy import PolicyFactory
from paramarket_env.scenarios import scenario as named_scenario

if TYPE_CHECKING:  # imported where they are used: one takes long, the others need not be installed
    from paramarket_env.adapters.rllib import ParaMarketRLlibEnv
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv
    from paramarket_env.adapters.torchrl import ParaMarketTorchRLEnv

__all__ = ["env", "gym_env", "parallel_env", "raw_env", "rllib_env", "sb3_vec_env", "torchrl_env", "vector_env"]


def _config(scenario: str | MarketConfig, changes: dict[str, Any]) -> MarketConfig:
    """The configuration of a scenario's name, or the one given, with changes."""
    config = named_scenario(scenario) if isinstance(scenario, str) else scenario
    return config.changed(**changes)


def parallel_env(
    scenario: str | MarketConfig = "digits",
    *,
    render_mode: str | None = None,
    device: str | torch.device = "auto",
    mask_style: MaskStyle = "tuple",
    **changes: Any,
) -> ParaMarketEnv:
    """The market as a PettingZoo parallel environment; the arguments are on the module's page.

    Raises ``ValueError`` for what the configuration, the data or the device do not allow, ``FileNotFoundError`` for
    data that is not there.
    """
    config = _config(scenario, changes)
    return ParaMarketEnv(config, render_mode=render_mode, device=device, mask_style=mask_style)


raw_env = aec_wrapper_fn(parallel_env)
"""The market as a PettingZoo AEC environment; keyword arguments as for :func:`parallel_env`."""

env = raw_env


def gym_env(
    scenario: str | MarketConfig = "digits",
    *,
    opponents: OpponentFactories,
    seat: int = 0,
    render_mode: str | None = None,
    device: str | torch.device = "auto",
    mask_style: MaskStyle = "tuple",
    **changes: Any,
) -> ParaMarketGymEnv:
    """One seat of the market as a Gymnasium environment; raises as :func:`parallel_env` does."""
    config = _config(scenario, changes)
    return ParaMarketGymEnv(config, opponents, seat=seat, render_mode=render_mode, device=device, mask_style=mask_style)


def vector_env(
    scenario: str | MarketConfig = "digits",
    *,
    opponents: OpponentFactories,
    seat: int = 0,
    num_envs: int = 1,
    device: str | torch.device = "auto",
    **changes: Any,
) -> ParaMarketVectorEnv:
    """One seat in each of many markets as a Gymnasium vector environment; raises as :func:`parallel_env` does."""
    config = _config(scenario, changes)
    return ParaMarketVectorEnv(config, num_envs, opponents, seat=seat, device=device)


def sb3_vec_env(
    scenario: str | MarketConfig = "digits",
    *,
    opponents: Sequence[PolicyFactory] = (),
    num_markets: int = 1,
    device: str | torch.device = "auto",
    **changes: Any,
) -> ParaMarketVecEnv:
    """The learners of many markets, a row each, as a Stable-Baselines3 ``VecEnv``; raises as :func:`parallel_env`."""
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv  # noqa: PLC0415  # slow to import

    return ParaMarketVecEnv(_config(scenario, changes), num_markets, device, opponents)


def torchrl_env(
    scenario: str | MarketConfig = "digits",
    *,
    num_markets: int = 1,
    device: str | torch.device = "auto",
    **changes: Any,
) -> ParaMarketTorchRLEnv:
    """All agents of many markets as a TorchRL environment; raises as :func:`parallel_env` does.

    ``ImportError`` where TorchRL is not installed.
    """
    from paramarket_env.adapters.torchrl import ParaMarketTorchRLEnv  # noqa: PLC0415  # an extra

    return ParaMarketTorchRLEnv(_config(scenario, changes), num_markets, device)


def rllib_env(
    scenario: str | MarketConfig = "digits",
    *,
    num_markets: int = 1,
    device: str | torch.device = "auto",
    **changes: Any,
) -> ParaMarketRLlibEnv:
    """All agents of many markets as one RLlib environment; raises as :func:`parallel_env` does.

    ``ImportError`` where RLlib is not installed.
    """
    from paramarket_env.adapters.rllib import ParaMarketRLlibEnv  # noqa: PLC0415  # an extra

    return ParaMarketRLlibEnv(_config(scenario, changes), num_markets, device)
