"""Neural networks whose parameters are one flat vector."""
