"""Pricing rules: they choose a seller's asks from its observations."""

from paramarket_baselines.policies.pricing.adaptive import Mirror, Ratchet, Reciprocal
from paramarket_baselines.policies.pricing.bayesian import (
    Bayesian,
    Bounds,
    History,
    Omniscient,
    OptimalPrice,
    RivalAware,
)
from paramarket_baselines.policies.pricing.rule import (
    PRICING,
    VERB_POSTING_PERIOD,
    Fields,
    Memory,
    PricingRule,
    Seller,
    by_ask,
    cycle_of,
    posted_levels,
)
from paramarket_baselines.policies.pricing.simple import CostPlus, Fixed, LinearAsk, RandomPrice, Thompson

__all__ = [
    "PRICING",
    "VERB_POSTING_PERIOD",
    "Bayesian",
    "Bounds",
    "CostPlus",
    "Fields",
    "Fixed",
    "History",
    "LinearAsk",
    "Memory",
    "Mirror",
    "Omniscient",
    "OptimalPrice",
    "PricingRule",
    "RandomPrice",
    "Ratchet",
    "Reciprocal",
    "RivalAware",
    "Seller",
    "Thompson",
    "by_ask",
    "cycle_of",
    "posted_levels",
]
