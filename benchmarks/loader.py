"""The authors' scripts load images one by one, by torch's ``DataLoader``. This module measures the time that it takes.

Their data are read as torchvision serves MNIST: each sample becomes a PIL image, then a tensor of shares, which is
normalised. Every pass and every trial of a merge weight loads its samples anew.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.contenders import new_engine
from benchmarks.roofline import trained_samples
from paramarket_env.config import MarketConfig

BATCH_SIZE = 512
"""Samples of a minibatch in the authors' scripts, for training and for validation."""

MEAN, DEVIATION = 0.1307, 0.3081


class Pictures(Dataset[tuple[Tensor, int]]):
    """Grey images with the steps of torchvision's ``MNIST``, ``ToTensor`` and ``Normalize``."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        """uint8 ``[n, height, width]``."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The normalised image, float32 ``[1, height, width]``, and a label."""
        picture = Image.fromarray(self.images[index].numpy())
        pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True)).view(picture.size[1], picture.size[0], 1)
        shares = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        mean, deviation = (torch.as_tensor([value], dtype=shares.dtype) for value in (MEAN, DEVIATION))
        return shares.clone().sub_(mean.view(-1, 1, 1)).div_(deviation.view(-1, 1, 1)), 0


def loading(config: MarketConfig, repeats: int) -> float:
    """The seconds that the authors' scripts spend on loading data in a step of one market, the median."""
    partition = new_engine(config, 1, torch.device("cpu")).state.partition
    samples = loaded_samples(config, trained_samples(config, partition.sizes), partition.validation.shape[2])
    return samples * median(seconds_per_sample() for _ in range(repeats))


def seconds_per_sample(samples: int = 4096) -> float:
    """The seconds that a shuffling ``DataLoader`` takes for a sample of 28 x 28 pixels."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 28, 28), dtype=torch.uint8, generator=random)
    loader = DataLoader(Pictures(images), BATCH_SIZE, shuffle=True, generator=random)
    start = time.perf_counter()
    for _ in loader:
        pass
    return (time.perf_counter() - start) / samples


def loaded_samples(config: MarketConfig, trained: int, validation: int) -> int:
    """The samples that a round loads: the ``trained`` ones, and the validation data for each loss of each agent.

    Each agent's own network is evaluated, and so is each merge weight for each seller.
    """
    losses = 1 + (config.agents - 1) * len(config.broker.merger.weights)
    return trained + config.agents * validation * losses
