"""The market joins learning and economics: the broker, the exchange, the engine and its snapshots."""
