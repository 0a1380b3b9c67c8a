"""A wide convolution with batch normalisation, as a file that names a network."""

from __future__ import annotations

from torch import nn

from paramarket_env.learning.networks.modules import from_module


def build(features: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions and a mean over the image."""
    return nn.Sequential(
        nn.Conv2d(features[0], 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 4, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


network = from_module(build)
