"""The commands of ``paramarket``: the options of each, and what it does."""
