"""Convolutional networks for images ``[channels, height, width]``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from paramarket_env.learning.networks.modules import ModuleArchitecture
from paramarket_env.learning.networks.network import ARCHITECTURES, Width
from paramarket_env.validation import configuration, require


def image(name: str, features: tuple[int, ...], least: int = 1) -> tuple[int, int, int]:
    """The channels, height and width of a sample; raises ``ValueError`` if it is no image or has shorter sides."""
    fits = len(features) == 3 and min(features[1:]) >= least  # an image has three axes
    require(fits, f"samples' shape for {name}", features, f"(channels, height, width), with sides >= {least}")
    channels, height, width = features
    return channels, height, width


@ARCHITECTURES.register
@configuration
class CNN(ModuleArchitecture):
    """Two convolutions of 3 x 3, each with ReLU and max pooling by 2, and two linear layers with ReLU between them."""

    channels: tuple[Width, Width] = (8, 16)
    """Numbers of channels of the two convolutions."""
    hidden: Width = 32
    """Width of the hidden linear layer."""

    def build(self, features: tuple[int, ...], classes: int) -> nn.Module:
        """See :meth:`ModuleArchitecture.build`. Images have sides of 4 pixels or more."""
        inputs, height, width = image("cnn", features, least=4)
        first, second = self.channels
        layers = {
            "conv1": nn.Conv2d(inputs, first, 3, padding=1),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(first, second, 3, padding=1),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "linear": nn.Linear(second * (height // 4) * (width // 4), self.hidden),
            "relu3": nn.ReLU(),
            "head": nn.Linear(self.hidden, classes),
        }
        return nn.Sequential(OrderedDict(layers))


def _mean_and_head(channels: int, classes: int) -> dict[str, nn.Module]:
    """The mean over all places of an image, and a linear layer."""
    return {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(channels, classes)}


@configuration
class ResNet20(ModuleArchitecture):
    """The wide residual network that the authors call ResNet20: three stages of pre-activation blocks.

    It has one group of channels in each normalisation (GroupNorm in place of BatchNorm), no dropout, and a convolution
    of 1 x 1 with a normalisation on the skip connection at the beginning of each stage. The authors' network has 96,
    192 and 384 channels.
    """

    widen: Annotated[int, Field(ge=1, le=100)] = 6
    """The stages have 16, 32 and 64 times as many channels."""
    depth: Annotated[int, Field(ge=10, le=202)] = 22
    """Number of layers, 6 k + 4 for stages of k blocks."""

    def __post_init__(self) -> None:
        require(self.depth % 6 == 4, "resnet20.depth", self.depth, "10, 16, 22, ...: 6 k + 4")

    def build(self, features: tuple[int, ...], classes: int) -> nn.Module:
        """See :meth:`ModuleArchitecture.build`."""
        inputs, _, _ = image("resnet20", features)
        widths = [16, *(self.widen * channels for channels in (16, 32, 64))]
        layers: dict[str, nn.Module] = {"conv": nn.Conv2d(inputs, widths[0], 3, padding=1, bias=False)}
        for stage in (1, 2, 3):
            layers[f"stage{stage}"] = self._stage(widths[stage - 1], widths[stage], 1 if stage == 1 else 2)
        layers |= {"norm": nn.GroupNorm(1, widths[-1]), "relu": nn.ReLU(), **_mean_and_head(widths[-1], classes)}
        return nn.Sequential(OrderedDict(layers))

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(1, outputs))
        others = [ResidualBlock(outputs, outputs, 1, nn.Identity()) for _ in range(self.depth // 6 - 1)]
        return nn.Sequential(ResidualBlock(inputs, outputs, stride, skip), *others)


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3, each after a normalisation and ReLU, added to a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int, skip: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, inputs), nn.GroupNorm(1, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.skip = skip

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[n, inputs, height, width]`` to ``[n, outputs, height / stride, width / stride]``."""
        change = self.conv1(self.norm1(images).relu())
        change = self.conv2(self.norm2(change).relu())
        result: Tensor = self.skip(images) + change
        return result


ARCHITECTURES.register(ResNet20, "resnet20")

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""The channels of VGG16's convolutions, by stage (Simonyan and Zisserman 2015)."""


NORMALISATIONS: dict[str, Callable[[int], list[nn.Module]]] = {
    "group": lambda channels: [nn.GroupNorm(1, channels)],
    "batch": lambda channels: [nn.BatchNorm2d(channels)],
    "none": lambda channels: [],
}
"""The layers that normalise so many channels, by name."""


@ARCHITECTURES.register
@configuration
class VGG16(ModuleArchitecture):
    """Thirteen convolutions of 3 x 3 in five stages, with ReLU (Simonyan and Zisserman 2015).

    A stage ends with max pooling by 2 while the image has sides of 2 pixels or more. A mean over the image and one
    linear layer follow.
    """

    width: Annotated[float, Field(gt=0, le=16)] = 1.0
    """Factor of the numbers of channels, which are 64 to 512."""
    norm: Literal["group", "batch", "none"] = "group"
    """The normalisation after each convolution: ``group``, with one group of channels, ``batch`` or ``none``."""

    def build(self, features: tuple[int, ...], classes: int) -> nn.Module:
        """See :meth:`ModuleArchitecture.build`."""
        channels, *sides = image("vgg16", features)
        layers: dict[str, nn.Module] = {}
        for number, stage in enumerate(STAGES, start=1):
            convolutions: list[nn.Module] = []
            for outputs in (max(1, round(self.width * each)) for each in stage):
                normalisation = NORMALISATIONS[self.norm](outputs)
                convolutions += [nn.Conv2d(channels, outputs, 3, padding=1), *normalisation, nn.ReLU()]
                channels = outputs
            if min(sides) >> number:
                convolutions.append(nn.MaxPool2d(2))
            layers[f"stage{number}"] = nn.Sequential(*convolutions)
        return nn.Sequential(OrderedDict(layers | _mean_and_head(channels, classes)))
