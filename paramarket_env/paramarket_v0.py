"""ParaMarket, version 0: agents train neural networks and trade their parameters.

| Import         | `from paramarket_env import paramarket_v0`                 |
|----------------|------------------------------------------------------------|
| Actions        | `Discrete` (mode `verb`) or `MultiDiscrete` (mode `round`) |
| Parallel API   | Yes                                                        |
| Manual Control | No                                                         |
| Agents         | `trader_0` ... `trader_{N-1}`                              |
| Observation    | float32 `[D]`; `env.layout.table()` lists the fields       |
| State          | The observations of all agents, float32 `[N, D]` or flat   |

Each agent owns a neural network and private training data in which some classes are scarce. In each step an agent can
train its network, buy parameters from another agent, or post a price for its own parameters. The market follows Huang,
Vishwakarma and Sala, *Train 'n Trade: Foundations of Parameter Markets* (NeurIPS 2023). A broker holds validation data.
For every offer it aligns the seller's hidden units with the buyer's, merges the two networks at several merge weights,
and quotes the buyer's best gain: the fall of its validation loss, in nats.

### Observation Space

Each agent observes a vector. The vector contains the agent's own loss, balance, kappa, quotes and sales, the asks that
are not sealed, and the information that the market discloses (see Disclosure below). `env.layout.table()` lists the
fields with their sizes, bounds and units. `env.layout.unpack(observation)` returns the fields by name.

### Action Space

An *offer* is a seller and one of its parameter sets. `env.offers(agent)` lists the offers of a buyer in order: seller
by seller, and parameter set by parameter set. The sellers are all other agents, or, with `partners=k`, the k agents
that the buyer meets in the step (`partner_0`, `partner_1`, ...). An *ask level* is the index of a price. One further
level withholds.

In mode `verb` an agent gives one order per step, in this order of numbers:

| Action                       | Order                                      |
|------------------------------|--------------------------------------------|
| 0                            | Hold: do nothing                           |
| 1                            | Train                                      |
| next, one for each offer     | Buy the offer                              |
| next, one for each ask level | Post the ask level; the last one withholds |

In mode `round` an agent can give three orders per step, `[train, buy, ask]`. A 0 gives no order. In `train`, 1 trains.
In `buy` and `ask`, the values from 1 on number the offers and the ask levels.

If the mechanism takes bids, each offer appears once for every price that can be bid. If asks are personal, the ask
levels appear once for every other agent: one block after another in `verb`, one `ask` for each in `round`.

`info["action_mask"]` marks the legal actions. An illegal action does nothing. `info["refused"]` counts refused
purchases, and `info["refused_..."]` counts them by cause. An action outside the space raises `ValueError` and changes
nothing.

### Step

All agents act simultaneously. A step has these phases:

1. Purchases clear at the asks posted before the step.
2. Each buyer receives the merged network that the broker quoted, made from the networks before the step. Its optimizer
   starts afresh.
3. Each agent that trains makes one pass over its data.
4. New asks are posted. With `partners=k`, the agents meet new partners.
5. The broker evaluates all networks and quotes all offers.

### Rewards

    reward = kappa * gain + tick * (received - paid) + terms

`gain` is the fall of the agent's validation loss during the step, in nats. `kappa` is the reward for a nat. It is 1 by
default. It can be drawn for each agent and episode, and only its owner observes it. `received` and `paid` are in ticks,
and `tick` is the reward for one tick. The broker keeps the share `broker_fee` of every price.

`terms` are the reward terms of the market, `economy.reward_terms`; there are none by default. Examples are
`train-cost(cost=0.01)`, a cost of each training pass, and `rivalry(weight=0.5)`, which subtracts half of the other
agents' average gain.

### Episode End

An episode is truncated after `max_cycles` steps. An agent is terminated when its network fails: its loss or one of its
parameters is no longer finite, or its loss is above a million nats. Its offers are then withdrawn, and its last reward
counts its network as no better than a uniform guess. The other agents go on; the field `alive` of their observations
tells them that it is gone.

### Mechanisms

The mechanism, `economy.mechanism`, turns orders into trades:

| Name             | Asks                              | Buyer           | Price                                  |
|------------------|-----------------------------------|-----------------|----------------------------------------|
| `posted`         | One for all, visible              | Takes it or not | The ask                                |
| `personal`       | One for each buyer, private       | Takes it or not | The ask                                |
| `double-auction` | One for all, sealed               | Bids            | ask + `k` (bid - ask), if bid >= ask   |
| `second-price`   | One for all, visible: the reserve | Bids            | The highest losing bid, or the reserve |

In a `second-price` auction a seller offers `copies` copies of each parameter set per step. The highest bids win. A bid
that is too low is refused with the cause `underbid` or `outbid`.

### Disclosure

The setting `economy.disclosure` determines what an agent observes of its buyers and of trade:

| Name           | Information                                                                           |
|----------------|---------------------------------------------------------------------------------------|
| `none`         | Which agents bought from it in the last step, and which could have bought but did not |
| `transactions` | As `none`, and the prices and numbers of all trades                                   |
| `bounds`       | As `transactions`, and a lower and an upper bound on each buyer's gain                |
| `full`         | As `transactions`, and the value of its offers to each buyer, kappa * gain            |

The bounds follow from the directional derivative and the curvature of the buyer's loss between the two networks.

### Arguments

`parallel_env(scenario="digits", *, render_mode=None, device="auto", mask_style="tuple", state_style="stacked",
**changes)`, and the same arguments for `env`

`scenario`: the name of a scenario in `paramarket_env.scenarios.SCENARIOS`, or a `MarketConfig`, also as the mapping
that its `to_dict` returns.

`render_mode`: `"ansi"`, `"rgb_array"` or `"human"`. The default is no rendering. `"ansi_list"` and `"rgb_array_list"`
return the frames of all steps since the last call. The window of `"human"` stays closed once it has been closed.

`device`: `"cpu"`, `"cuda"`, or `"auto"`, which takes the GPU if there is one and enough for it to compute.

`mask_style`: `"tuple"` masks each part of a `MultiDiscrete` space by an array of its own, as in PettingZoo and
Gymnasium; `"flat"` has one array, as in MaskablePPO and TorchRL; `"none"` gives no masks, for clients that refuse them.

`state_style`: the form of `state()`. `"stacked"` is `[N, D]`. `"flat"` is `[N * D]`, for clients that take a state of
one dimension, such as BenchMARL's MAPPO.

`changes`: new values for any fields of the configuration, such as `agents=4`, `max_cycles=20`, `action_mode="round"` or
`mechanism="double-auction(k=0.3)"`. A list is taken as a tuple.

### Seeds

In `parallel_env`, `env` and `gym_env`, `reset(seed=s)` gives the market the seed `s`. In the adapters that play many
markets, a single seed is hashed with the index of each market, so that two seeds have no market in common. A sequence
of seeds, one for each market, is used as given (`vector_env(...).reset(seed=[...])`, `sb3_vec_env(...).seed([...])`).
A market that begins its next episode without a seed derives it from its last one. A seed is an integer within
[0, 2**63); anything else raises `ValueError`.

### Save and Restore

`saved = env.snapshot()` copies an episode, and `env.restore(saved)` returns to it, in `parallel_env` and in `gym_env`,
where the copy includes the memory of the policies in the other seats.

### Other Libraries

These functions give the same market to other libraries. With the same seed and the same actions, a market has the same
episodes in all of them.

| Function      | Returns                      | Learners                                                     |
|---------------|------------------------------|--------------------------------------------------------------|
| `sb3_vec_env` | A Stable-Baselines3 `VecEnv` | All agents of all markets, or one of each; a row each        |
| `torchrl_env` | A TorchRL `EnvBase`          | All agents of all markets, a dimension of the group `agents` |
| `rllib_env`   | An RLlib `MultiAgentEnv`     | All agents of all markets, named like `market_3/trader_1`    |
| `gym_env`     | A Gymnasium `Env`            | One seat                                                     |
| `vector_env`  | A Gymnasium `VectorEnv`      | The same seat in many markets                                |

`sb3_vec_env(scenario="digits", *, opponents=(), num_markets=1, device="auto", copy=True, **changes)`

`torchrl_env` and `rllib_env` take the same arguments except `opponents` and `copy`.

`gym_env(scenario="digits", *, opponents="patient", seat=0, render_mode=None, device="auto", mask_style="tuple",
copy=True, **changes)`

`vector_env` takes the same arguments, `num_envs=1` and `max_episode_steps=None`. Its `mask_style` is `"flat"` unless it
is given, and its masks of the style `"tuple"` are an array of M tuples.

All of them have the attributes `layout`, `offers(agent)` and `market_batch`.

`num_markets`, `num_envs`: the number of markets that run in parallel. When an episode ends, the market begins its next
episode in the same step.

`seat`: the index of the agent that learns.

`copy`: with False, `sb3_vec_env` and `vector_env` save a copy of the arrays in each step. These arrays never change
either, but you must not write to them. The arrays of the other adapters are always new.

`max_episode_steps`: Gymnasium's name for `max_cycles`; the lower of the two counts. `make_vec` gives it.

`opponents`: the policies that play the other seats: one for all of them, such as `"patient:7"`, or a list with one for
each seat. `paramarket list` prints the names. A `PolicyFactory` (see `paramarket_env.interface.policy`) is
accepted, too. In `sb3_vec_env` each policy of the list is a population: in some of the markets it plays all seats
except the learner's. The learner's seat differs from market to market. Without opponents all agents learn.

If an agent's network fails while its market continues, the agent idles until the market ends: its orders are ignored,
its reward is 0, and its mask only allows it to hold. In the `VecEnv` its row is done when the network fails, and again
when the market ends. With a single learner the episode ends. In `rllib_env`, where one episode covers all markets, the
agent leaves the episode.

In PettingZoo and Gymnasium the end after `max_cycles` is a truncation. `sb3_vec_env` and `rllib_env` report it as
terminal instead. The algorithms of these libraries bootstrap after a truncation: they add the estimated value of the
last observation to the last reward. Here that would be wrong. Nothing follows the end, agents observe the time left,
and no learner ever learns the value of an observation with no time left. Do not bootstrap there in your own training
loop either.

### Version History

* v0: Initial release
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from paramarket_env.adapters.gymnasium import ParaMarketGymEnv, ParaMarketVectorEnv
from paramarket_env.adapters.opponents import Others
from paramarket_env.adapters.pettingzoo import ParaMarketAECEnv, ParaMarketEnv, StateStyle
from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import MaskStyle
from paramarket_env.scenarios import scenario as named_scenario

if TYPE_CHECKING:  # imported where they are used: one is slow to import, the others are optional
    from paramarket_env.adapters.rllib import ParaMarketRLlibEnv
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv
    from paramarket_env.adapters.torchrl import ParaMarketTorchRLEnv

__all__ = ["env", "gym_env", "parallel_env", "raw_env", "rllib_env", "sb3_vec_env", "torchrl_env", "vector_env"]


Scenario = str | MarketConfig | Mapping[str, Any]
"""The name of a scenario, or a configuration, also as a mapping."""


def _config(scenario: Scenario, changes: dict[str, Any]) -> MarketConfig:
    """The configuration of a named scenario, or the given configuration, with changes."""
    if isinstance(scenario, Mapping):
        scenario = MarketConfig.from_dict(dict(scenario))
    config = scenario if isinstance(scenario, MarketConfig) else named_scenario(scenario)
    return config.changed(**{name: _tuples(value) for name, value in changes.items()})


def _tuples(value: Any) -> Any:
    """The value with tuples in the place of lists, which JSON makes of them."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def parallel_env(
    scenario: Scenario = "digits",
    *,
    render_mode: str | None = None,
    device: str | torch.device = "auto",
    mask_style: MaskStyle = "tuple",
    state_style: StateStyle = "stacked",
    **changes: Any,
) -> ParaMarketEnv:
    """The market as a PettingZoo parallel environment. The module's docstring explains the arguments.

    Raises ``ValueError`` if the configuration, the data or the device does not allow an argument, and
    ``FileNotFoundError`` if the data is missing.
    """
    config = _config(scenario, changes)
    return ParaMarketEnv(config, render_mode=render_mode, device=device, mask_style=mask_style, state_style=state_style)


def env(
    scenario: Scenario = "digits",
    *,
    render_mode: str | None = None,
    device: str | torch.device = "auto",
    mask_style: MaskStyle = "tuple",
    state_style: StateStyle = "stacked",
    **changes: Any,
) -> ParaMarketAECEnv:
    """The market as a PettingZoo AEC environment. It takes the arguments of :func:`parallel_env`."""
    market = parallel_env(
        scenario,
        render_mode=render_mode,
        device=device,
        mask_style=mask_style,
        state_style=state_style,
        **changes,
    )
    return ParaMarketAECEnv(market)


raw_env = env
"""PettingZoo's name for the environment without further wrappers. There are none, so it is :func:`env`."""


def gym_env(
    scenario: Scenario = "digits",
    *,
    opponents: Others = "patient",
    seat: int = 0,
    render_mode: str | None = None,
    device: str | torch.device = "auto",
    mask_style: MaskStyle = "tuple",
    copy: bool = True,  # for gymnasium.make_vec; the arrays of a single environment are always new
    **changes: Any,
) -> ParaMarketGymEnv:
    """One seat of the market as a Gymnasium environment. Raises the errors of :func:`parallel_env`."""
    config = _config(scenario, changes)
    return ParaMarketGymEnv(config, opponents, seat=seat, render_mode=render_mode, device=device, mask_style=mask_style)


def vector_env(
    scenario: Scenario = "digits",
    *,
    opponents: Others = "patient",
    seat: int = 0,
    num_envs: int = 1,
    render_mode: str | None = None,
    device: str | torch.device = "auto",
    mask_style: MaskStyle = "flat",
    copy: bool = True,
    max_episode_steps: int | None = None,
    **changes: Any,
) -> ParaMarketVectorEnv:
    """The same seat in many markets as a Gymnasium vector environment. Raises the errors of :func:`parallel_env`."""
    config = _config(scenario, changes)
    if max_episode_steps is not None:
        limited = config.changed(max_cycles=max_episode_steps)
        config = limited if limited.max_cycles < config.max_cycles else config
    return ParaMarketVectorEnv(
        config,
        num_envs,
        opponents,
        seat=seat,
        render_mode=render_mode,
        device=device,
        mask_style=mask_style,
        copy=copy,
    )


def sb3_vec_env(
    scenario: Scenario = "digits",
    *,
    opponents: Others = (),
    num_markets: int = 1,
    device: str | torch.device = "auto",
    copy: bool = True,
    **changes: Any,
) -> ParaMarketVecEnv:
    """The learners of many markets as the rows of a Stable-Baselines3 ``VecEnv``.

    Raises the errors of :func:`parallel_env`.
    """
    from paramarket_env.adapters.sb3 import ParaMarketVecEnv  # noqa: PLC0415  # slow to import

    return ParaMarketVecEnv(_config(scenario, changes), num_markets, device, opponents, copy=copy)


def torchrl_env(
    scenario: Scenario = "digits",
    *,
    num_markets: int = 1,
    device: str | torch.device = "auto",
    **changes: Any,
) -> ParaMarketTorchRLEnv:
    """All agents of many markets as a TorchRL environment.

    Raises the errors of :func:`parallel_env`, and ``ImportError`` if TorchRL is not installed.
    """
    from paramarket_env.adapters.torchrl import ParaMarketTorchRLEnv  # noqa: PLC0415  # an extra

    return ParaMarketTorchRLEnv(_config(scenario, changes), num_markets, device)


def rllib_env(
    scenario: Scenario = "digits",
    *,
    num_markets: int = 1,
    device: str | torch.device = "auto",
    **changes: Any,
) -> ParaMarketRLlibEnv:
    """All agents of many markets as one RLlib environment.

    Raises the errors of :func:`parallel_env`, and ``ImportError`` if RLlib is not installed.
    """
    from paramarket_env.adapters.rllib import ParaMarketRLlibEnv  # noqa: PLC0415  # an extra

    return ParaMarketRLlibEnv(_config(scenario, changes), num_markets, device)
