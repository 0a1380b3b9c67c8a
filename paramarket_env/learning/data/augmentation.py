"""Augmentation: random changes of training samples, drawn anew for every pass of every network.

The random numbers of a sample follow from its key alone, so they are the same for any number of networks at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from paramarket_env.seeding import bits
from paramarket_env.validation import configuration, require


class Augmentation(Protocol):
    """A rule that changes training samples. The samples of the broker and of the reports are never changed."""

    def __call__(self, inputs: Tensor, samples: Tensor, keys: Tensor) -> Tensor:
        """Changed copies of ``inputs``, float32 ``[n, *features]``.

        ``samples``, int64 ``[n]``, are the indices of the samples in their dataset. ``keys``, int64 ``[n]``, are the
        keys from which the random numbers of each sample follow.
        """


@configuration
class CropsAndFlips:
    """Random crops and horizontal flips of images ``[channels, height, width]``, as in the authors' code.

    An image is padded with black on all sides, cropped to its size at a random place, and then mirrored half of the
    time: torchvision's ``RandomCrop`` and ``RandomHorizontalFlip``.
    """

    black: tuple[float, ...]
    """The normalised value of a black pixel in each channel."""
    padding: Annotated[int, Field(ge=0, le=512)] = 0
    """Number of pixels by which an image is padded, and so the farthest that it moves. 0: it is not cropped."""
    flips: bool = False
    """Whether half of the images are mirrored."""

    def __call__(self, inputs: Tensor, samples: Tensor, keys: Tensor) -> Tensor:
        """See :meth:`Augmentation.__call__`."""
        images = inputs.dim() == 4 and inputs.shape[1] == len(self.black)
        allowed = f"({len(self.black)}, height, width), since black={self.black} is one value for each channel"
        require(images, "shape of a sample", tuple(inputs.shape[1:]), allowed)
        rows, columns = self._places(inputs.shape[2], inputs.shape[3], keys)
        inside = _within(rows, inputs.shape[2]).unsqueeze(2) & _within(columns, inputs.shape[3]).unsqueeze(1)
        black = torch.tensor(self.black, dtype=inputs.dtype, device=inputs.device).view(-1, 1, 1)
        return torch.where(inside.unsqueeze(1), _moved(inputs, rows, columns), black)

    def _places(self, height: int, width: int, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The row and the column from which each pixel comes: int64 ``[n, height]`` and ``[n, width]``.

        They can lie outside the image, in the padding.
        """
        choices = torch.tensor([2 * self.padding + 1, 2 * self.padding + 1, 1 + self.flips], device=keys.device)
        down, right, flipped = (bits(keys, 3) % choices).unsqueeze(2).unbind(1)
        rows, columns = (torch.arange(side, device=keys.device) for side in (height, width))
        mirrored = torch.where(flipped == 1, width - 1 - columns, columns)
        return rows + down - self.padding, mirrored + right - self.padding


def _within(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)


def _moved(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The images with pixels from these places, or from the nearest inside the image."""
    n, channels, height, width = images.shape
    pixels = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    pixels = pixels.view(n, 1, height * width).expand(-1, channels, -1)
    return images.flatten(2).gather(2, pixels).view_as(images)


@dataclass(frozen=True)
class Joined:
    """The augmentations of several datasets whose samples are joined into one. Each sample keeps its own."""

    parts: tuple[Augmentation | None, ...]
    lengths: tuple[int, ...]
    """The number of samples of each dataset, in their order."""

    def __call__(self, inputs: Tensor, samples: Tensor, keys: Tensor) -> Tensor:
        """See :meth:`Augmentation.__call__`."""
        result = inputs.clone()
        for part, (start, end) in zip(self.parts, pairwise([0, *accumulate(self.lengths)]), strict=True):
            if part is not None:
                mine = ((start <= samples) & (samples < end)).nonzero().squeeze(1)
                result[mine] = part(inputs[mine], samples[mine] - start, keys[mine])
        return result
