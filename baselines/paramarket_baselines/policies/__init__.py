"""Policies: decision rules, pricing rules and learned policies."""
