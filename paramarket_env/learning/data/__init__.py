"""Datasets, and the endowments that divide their samples among the agents."""
