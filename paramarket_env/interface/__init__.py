"""The market as reinforcement learning sees it: actions, observations, environments and pictures."""
