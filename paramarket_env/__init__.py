"""ParaMarket: an environment in which RL agents train neural networks and trade their parameters."""

from __future__ import annotations

import gymnasium
import pettingzoo

__version__ = "0.1.0"

_ID, _MODULE = "paramarket/ParaMarket-v0", "paramarket_env.paramarket_v0"

# PettingZoo has had a registry since version 1.27. A second import finds the ids registered and skips them.
if hasattr(pettingzoo, "register") and _ID not in pettingzoo.parallel_registry:
    pettingzoo.register("parallel", _ID, f"{_MODULE}:parallel_env")
    pettingzoo.register("aec", _ID, f"{_MODULE}:env")

# Gymnasium warns if an id is registered again.
if _ID not in gymnasium.registry:
    gymnasium.register(_ID, entry_point=f"{_MODULE}:gym_env", vector_entry_point=f"{_MODULE}:vector_env")
