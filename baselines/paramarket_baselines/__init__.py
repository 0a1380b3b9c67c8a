"""Baselines: decision rules, pricing rules, learned policies, federated averaging, and tools to compare them."""
