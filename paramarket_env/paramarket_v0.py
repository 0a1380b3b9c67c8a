"""ParaMarket, version 0: agents train neural networks and trade their parameters.

| Import          | `from paramarket_env import paramarket_v0`            |
|-----------------|--------------------------------------------------------|
| Actions         | `Discrete` (`verb`) or `MultiDiscrete` (`round`)       |
| Parallel API    | yes                                                    |
| Manual control  | no                                                     |
| Agents          | `trader_0` ... `trader_{N-1}`                          |
| Observation     | float32 vector, `env.layout.table()` lists its fields  |
| State           | all observations stacked, float32 `[N, D]`             |

Every agent owns a real network and private training data, in which some classes are scarce. In each step it trains its
network, buys another agent's parameters, or posts a price for its own. The market is that of Huang, Vishwakarma and
Sala, *Train 'n Trade: Foundations of Parameter Markets* (NeurIPS 2023). A broker with its own validation data aligns
the seller's parameters to the buyer's network, tries a grid of merge weights, and quotes the buyer's gain.

### Actions

In `verb` mode an action is one number: 0 holds, 1 trains, then there is one action for each offer, then one for each
ask level. `env.offers(agent)` lists the offers in their order. The last ask level withholds.

In `round` mode an action is `[train, buy, ask]`. In `buy` and `ask`, 0 does nothing, and the offers and levels count
from 1.

Where the mechanism takes bids, there is one purchase for each offer and bid. Where asks are personal, there is one ask
for each other agent (in `round` mode one `ask` each).

`info["action_mask"]` marks the legal actions. An illegal action does nothing. `info["refused"]` counts refused
purchases, and `info["refused_..."]` counts them by cause. An action outside the space raises `ValueError` and changes
nothing.

### A step

All agents act at once, on their last observations. Purchases clear at the asks of those observations. All merges use
the networks before the step, and a buyer gets exactly the network that was quoted, with a fresh optimizer. Then the
agents that train make one pass over their data, and new asks are posted. Finally all networks are evaluated, and every
offer is quoted again.

### Rewards

    kappa * (loss before - loss after) + tick * (received - paid) + terms

The losses are on the broker's validation data. `kappa` is 1 by default. It can be drawn for each agent and episode, and
then only its owner sees it. By default there are no further terms. `economy.reward_terms` adds terms, such as
`train-cost(cost=0.01)`, or `rivalry(weight=0.5)`, which subtracts half of the others' mean gain. The broker keeps the
share `broker_fee` of every price.

An episode is truncated after `max_cycles` steps. An agent is terminated when its loss is no longer finite. Its offers
are then withdrawn, and its last reward treats its network as a uniform guess.

### Mechanisms

`economy.mechanism` is the rule by which orders become trades:

| name             | asks                            | the buyer       | the price                                    |
|------------------|---------------------------------|-----------------|----------------------------------------------|
| `posted`         | one for all buyers, visible     | takes it or not | the ask                                      |
| `personal`       | one for each buyer, visible     | takes it or not | the ask                                      |
| `double-auction` | one for all buyers, sealed      | bids            | ask + `k` (bid - ask), if bid >= ask         |
| `second-price`   | one for all buyers: the reserve | bids            | the highest losing bid, or the reserve       |

In a `second-price` auction a seller has `copies` copies of each parameter set in a step, which go to the highest bids.
A bid that is too low is refused (`underbid`, `outbid`).

`economy.disclosure` is the information that sellers get. `none`: the agents that bought from them, and those that could
have and did not. `transactions` adds the prices and numbers of all trades. `bounds` adds to that a lower and an upper
bound on every buyer's gain, from the derivative and curvature of its loss. `full` adds the buyers' values instead.

### Arguments

`parallel_env(scenario="digits", *, render_mode=None, device="auto", mask_style="tuple", **changes)`

- `scenario`: a name of `paramarket_env.scenarios.SCENARIOS`, or a `MarketConfig`.
- `changes`: other values for any fields of the configuration, such as `agents=4`, `max_cycles=20`,
  `action_mode="round"` or `mechanism="double-auction(k=0.3)"`.
- `render_mode`: `"ansi"`, `"rgb_array"` or `"human"`.
- `device`: `"auto"` (the GPU if there is one), `"cpu"` or `"cuda"`.
- `mask_style`: `"tuple"`, the form in which PettingZoo and Gymnasium take masks of a `MultiDiscrete`, or `"flat"`, that
  of MaskablePPO and TorchRL.

### For one learner or many markets

These functions give the same market to other clients. With the same seed and actions, a market has the same episodes in
all of them.

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

- `num_markets`, `num_envs`: the number of markets. Each market begins its next episode in the step in which it ends.
- `seat`: the number of the agent that learns.
- `opponents`: the policies of the other seats. It is one `PolicyFactory` (see `paramarket_env.interface.policy`) for
  all of them, such as `baselines.policies.decisions.Patient()`, or a list with one for each. In `sb3_vec_env` each
  policy in the list is a population: in some of the markets it has all seats but the learner's, which changes from
  market to market. Without opponents all agents learn.

If an agent's network fails while its market goes on, the agent idles until the market ends. Its orders are ignored, its
reward is 0, and its mask allows only to hold. In the `VecEnv` its row is done when it fails, and again when its market
ends. An environment with one learner ends its episode. In `rllib_env` an episode covers all markets, and the agent
leaves it.

PettingZoo and Gymnasium report the end after `max_cycles` as a truncation. Nothing follows it, and agents observe the
time that is left, so no learner can learn the value of the last observation. Therefore `sb3_vec_env` and `rllib_env`
report the end as terminal; otherwise their libraries would add that value to the last reward. Do the same in a training
loop of your own.

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
