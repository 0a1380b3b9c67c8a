"""Datasets, and who holds which samples."""
