"""Alignment permutes the hidden units of one network into the order of another's."""
