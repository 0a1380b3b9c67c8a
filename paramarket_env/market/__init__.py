"""Where learning and economics meet: the broker, the engine and its snapshots."""
