"""Checks that a plug-in keeps the rules of its interface, for ``paramarket check`` and for tests of plug-ins."""
