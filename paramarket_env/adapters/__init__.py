"""The market for RL libraries: PettingZoo, Gymnasium, Stable-Baselines3, TorchRL and RLlib."""
