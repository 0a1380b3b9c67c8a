"""All policies of this package by name. The environment imports this module when a policy is first named."""

from __future__ import annotations

from paramarket_baselines.policies import decisions  # noqa: F401  # registers the rules
from paramarket_baselines.policies.learned import Learned
from paramarket_baselines.policies.varied import Varied
from paramarket_baselines.policies.zipped import Zipped
from paramarket_env.interface.policy import POLICIES

POLICIES.register(Varied)
POLICIES.register(Learned)
POLICIES.register(Zipped, "sb3")
