"""Who plays: decision rules, pricing rules, federated averaging, and how they are played and compared."""
