"""Mergers besides linear interpolation, each a plug-in."""
