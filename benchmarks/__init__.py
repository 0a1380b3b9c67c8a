"""Benchmarks: throughput, pricing, the leaderboard and the pictures of the documentation."""
