"""Ledger, clearing and pricing: money and orders. Nothing here knows of networks."""
