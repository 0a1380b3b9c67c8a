"""Checks that a plug-in keeps the rules of its interface, as functions for tests and for ``paramarket check``.

``check_policy``, ``check_pricing``, ``check_mechanism`` and ``check_network`` run all checks of a plug-in. pytest can
run them one by one, too: every check is called with a trial, which is the plug-in in one setting::

    @pytest.mark.parametrize("trial", policy_trials("file:mine.py", "digits-short"), ids=str)
    @pytest.mark.parametrize("check", POLICY_CHECKS, ids=str)
    def test_my_policy(check, trial):
        check(trial)
"""

from paramarket_baselines.checks.check import Check, NotClaimed, NotRun, Outcome, outcome
from paramarket_baselines.checks.mechanism import MECHANISM_CHECKS, MechanismTrial, check_mechanism, mechanism_trials
from paramarket_baselines.checks.network import NETWORK_CHECKS, NetworkTrial, check_network, network_trials
from paramarket_baselines.checks.policy import POLICY_CHECKS, PolicyTrial, check_policy, policy_trials
from paramarket_baselines.checks.pricing import PRICING_CHECKS, PricingTrial, check_pricing, pricing_trials

__all__ = [
    "MECHANISM_CHECKS",
    "NETWORK_CHECKS",
    "POLICY_CHECKS",
    "PRICING_CHECKS",
    "Check",
    "MechanismTrial",
    "NetworkTrial",
    "NotClaimed",
    "NotRun",
    "Outcome",
    "PolicyTrial",
    "PricingTrial",
    "check_mechanism",
    "check_network",
    "check_policy",
    "check_pricing",
    "mechanism_trials",
    "network_trials",
    "outcome",
    "policy_trials",
    "pricing_trials",
]
