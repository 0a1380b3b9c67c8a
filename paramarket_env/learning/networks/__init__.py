"""Networks whose parameters are one flat vector."""
