"""Ledger, clearing, mechanisms, pricing and rewards. Nothing here depends on networks."""
