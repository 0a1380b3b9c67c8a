"""Training policies with Stable-Baselines3, TorchRL and RLlib."""
