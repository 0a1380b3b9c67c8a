"""Batched networks, data, training, alignment and merging. Nothing here depends on money."""
