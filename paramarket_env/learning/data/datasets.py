"""Datasets. The device holds each of them once, and markets hold indices into them.

``digits`` and its variants come with scikit-learn. The others are read from the files in ``data_dir``, gzipped or not,
flat or in torchvision's folders. Without ``data_dir``, torchvision downloads them once into a default folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from paramarket_env.autograd import no_grad
from paramarket_env.files import expanded
from paramarket_env.learning.data.augmentation import Augmentation
from paramarket_env.learning.data.idx import read_idx
from paramarket_env.plugins import Registry
from paramarket_env.seeding import bits, stream
from paramarket_env.validation import configuration, integer, require, shown

DEFAULT_DATA_DIR = Path.home() / ".cache" / "paramarket"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples with normalised inputs. A dataset equals only itself."""

    inputs: Tensor
    """float32 ``[n, *features]``. Images are ``[n, channels, height, width]``."""
    labels: Tensor
    """int64 ``[n]``."""
    classes: int
    official_test: int
    """The number of samples at the end that are the official test set; 0 if there is none and the test set is drawn."""
    augmentation: Augmentation | None = None
    """The rule that changes samples at random in training, and only there. None: they are not changed."""

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.inputs.shape[1:])

    @property
    def size(self) -> int:
        """The number of elements of one sample."""
        return math.prod(self.features)

    def take(self, samples: Tensor) -> Tensor:
        """The inputs ``[..., *features]`` of the samples with these indices, int64 ``[...]``."""
        # index_select copies whole rows, which is several times as fast as indexing with a tensor.
        return self.inputs.index_select(0, samples.flatten()).view(*samples.shape, *self.features)

    def augmented(self, samples: Tensor, keys: Tensor, minibatch: int) -> Tensor:
        """The inputs ``[R, n, *features]`` of a minibatch of R networks, augmented.

        ``samples``, int64 ``[R, n]``, are the indices. The random numbers of a network follow from the key of its pass
        in ``keys``, int64 ``[R]``, and from the number of the ``minibatch``.
        """
        inputs = self.take(samples)
        if self.augmentation is None:
            return inputs
        own = bits(stream(keys, "augmentation", minibatch), samples.shape[1])
        return self.augmentation(inputs.flatten(0, 1), samples.flatten(), own.flatten()).view_as(inputs)

    def to(self, device: torch.device) -> Dataset:
        """The same samples on ``device``."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))


@runtime_checkable
class DatasetSource(Protocol):
    """A plug-in that reads the samples of a dataset."""

    def __call__(self) -> Dataset:
        """Read the samples into CPU memory."""

    def __hash__(self) -> int:
        """Equal sources have equal hashes, so that a dataset is read once."""


DATASETS: Registry[DatasetSource] = Registry("dataset", DatasetSource)


@DATASETS.register
@configuration
class Digits:
    """1,797 handwritten digits of 8 x 8 pixels within [0, 1] (UCI, included in scikit-learn)."""

    def __call__(self) -> Dataset:
        """Read the samples from scikit-learn."""
        from sklearn.datasets import load_digits  # noqa: PLC0415  # takes a second, and other data do not need it

        images, labels = load_digits(return_X_y=True)
        pixels = torch.from_numpy(images).float().view(-1, 1, 8, 8)
        return Dataset(pixels / 16, torch.from_numpy(labels).long(), classes=10, official_test=0)


@DATASETS.register
@configuration
class DigitsParity:
    """The images of ``digits`` with two classes: even and odd digits."""

    def __call__(self) -> Dataset:
        """Read ``digits``; the label is that of the digit modulo 2."""
        digits = Digits()()
        return replace(digits, labels=digits.labels % 2, classes=2)


@DATASETS.register
@configuration
class DigitsHalf:
    """The images of ``digits`` with two classes: the digits 0 to 4, and the digits 5 to 9."""

    def __call__(self) -> Dataset:
        """Read ``digits``; the label is 1 from the digit 5 on."""
        digits = Digits()()
        return replace(digits, labels=digits.labels // 5, classes=2)


@DATASETS.register
@configuration
class DigitsRotated:
    """``digits`` on another domain: the images are turned by a quarter."""

    def __call__(self) -> Dataset:
        """Read ``digits`` and turn each image anticlockwise."""
        digits = Digits()()
        return replace(digits, inputs=digits.inputs.rot90(dims=(2, 3)).contiguous())


@DATASETS.register
@configuration
class DigitsInverted:
    """``digits`` on another domain: dark and light are exchanged."""

    def __call__(self) -> Dataset:
        """Read ``digits`` and invert each pixel within [0, 1]."""
        digits = Digits()()
        return replace(digits, inputs=1 - digits.inputs)


MNIST_MEAN, MNIST_DEVIATION = 0.1307, 0.3081
"""The mean and the standard deviation of MNIST's pixels within [0, 1]."""


@DATASETS.register
@configuration
class DigitsEnlarged:
    """``digits`` as images ``[1, size, size]`` with MNIST's constants, so that they share a trunk with its family."""

    size: Annotated[int, Field(ge=8, le=128)] = 28
    """Height and width of the images in pixels."""

    def __call__(self) -> Dataset:
        """Read ``digits`` and interpolate each image bilinearly."""
        digits = Digits()()
        images = F.interpolate(digits.inputs, (self.size, self.size), mode="bilinear")
        return replace(digits, inputs=(images - MNIST_MEAN) / MNIST_DEVIATION)


def _find(folders: list[Path], name: str) -> Path | None:
    candidates = (folder / (name + suffix) for folder in folders for suffix in ("", ".gz"))
    return next((path for path in candidates if path.exists()), None)


@configuration
class IdxFamily:
    """MNIST and the datasets in its format, normalised with MNIST's constants as in the authors' code."""

    torchvision_name: ClassVar[str]
    classes: ClassVar[int] = 10
    prefixes: ClassVar[tuple[str, str]] = ("train", "t10k")
    split: ClassVar[str | None] = None
    transposed: ClassVar[bool] = False

    data_dir: str | None = None
    """Folder with the four files, gzipped or not, flat or in torchvision's folders. None: they are downloaded."""

    @property
    def files(self) -> list[str]:
        """The names of the four files, without ``.gz``."""
        return [f"{prefix}-{kind}" for prefix in self.prefixes for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]

    def __call__(self) -> Dataset:
        """Read the files. Without ``data_dir``, first download the dataset if the default folder lacks a file."""
        root = data_folder(self.data_dir)
        folders = [root, root / self.torchvision_name / "raw"]
        if self.data_dir is None and any(_find(folders, name) is None for name in self.files):
            self._download(root)
        paths = {name: _find(folders, name) for name in self.files}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            raise FileNotFoundError(f"data_dir={str(root)!r} lacks {', '.join(missing)} (with or without .gz)")
        files = [path for path in paths.values() if path is not None]
        arrays = [read_idx(path, dimensions) for path, dimensions in zip(files, (3, 1, 3, 1), strict=True)]
        self._check(files, arrays)
        return self._dataset(arrays)

    def _check(self, files: list[Path], arrays: list[np.ndarray]) -> None:
        """Raise ``ValueError``, naming the file, if the arrays of images and labels do not belong together."""
        train, test = arrays[0].shape[1:], arrays[2].shape[1:]
        if train != test:
            raise ValueError(f"{files[2]} has images of {test} pixels, but those of {files[0]} have {train}")
        parts = zip(files[0::2], files[1::2], arrays[0::2], arrays[1::2], strict=True)
        for images_file, file, images, labels in parts:
            if len(images) != len(labels):
                raise ValueError(f"{file} has {len(labels)} labels, but {images_file} has {len(images)} images")
            if labels.max() >= self.classes:
                raise ValueError(f"{file} has the label {labels.max()}, but the classes are 0 to {self.classes - 1}")

    def _dataset(self, arrays: list[np.ndarray]) -> Dataset:
        images = torch.from_numpy(np.concatenate(arrays[0::2]))
        labels = torch.from_numpy(np.concatenate(arrays[1::2])).long()
        if self.transposed:
            images = images.transpose(1, 2)
        pixels = images.unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_DEVIATION)
        return Dataset(pixels, labels, self.classes, official_test=len(arrays[2]))

    def _download(self, root: Path) -> None:
        dataset = getattr(torchvision_datasets(f"{self.torchvision_name} without data_dir"), self.torchvision_name)
        options = {} if self.split is None else {"split": self.split}
        with download_of(self.torchvision_name):
            for train in (True, False):
                dataset(str(root), train=train, download=True, **options)


@DATASETS.register
@configuration
class MNIST(IdxFamily):
    """60,000 + 10,000 handwritten digits of 28 x 28 pixels (LeCun et al. 1998)."""

    torchvision_name: ClassVar[str] = "MNIST"


@DATASETS.register
@configuration
class FashionMNIST(IdxFamily):
    """60,000 + 10,000 images of clothing, 28 x 28 pixels (Xiao, Rasul and Vollgraf 2017)."""

    torchvision_name: ClassVar[str] = "FashionMNIST"


@DATASETS.register
@configuration
class KMNIST(IdxFamily):
    """60,000 + 10,000 cursive Japanese characters of 28 x 28 pixels (Clanuwat et al. 2018)."""

    torchvision_name: ClassVar[str] = "KMNIST"


@DATASETS.register
@configuration
class EMNIST(IdxFamily):
    """112,800 + 18,800 handwritten letters and digits in 47 classes (the balanced split, Cohen et al. 2017)."""

    torchvision_name: ClassVar[str] = "EMNIST"
    classes: ClassVar[int] = 47
    prefixes: ClassVar[tuple[str, str]] = ("emnist-balanced-train", "emnist-balanced-test")
    split: ClassVar[str | None] = "balanced"
    transposed: ClassVar[bool] = True


def torchvision_datasets(name: str) -> ModuleType:
    """torchvision's module of datasets, to read the dataset ``name``; raises ``ImportError``, naming the extra."""
    try:
        datasets = import_module("torchvision.datasets")
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision was built for another torch
        message = f"reading {name} needs torchvision: pip install 'paramarket-env[vision]'"
        raise ImportError(f"{message} ({error})") from error
    return datasets


@contextmanager
def download_of(name: str) -> Iterator[None]:
    """Raise torchvision's errors of a download as ``OSError``."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{name} could not be downloaded: {error}") from error


def data_folder(data_dir: str | None) -> Path:
    """The folder of the files: ``data_dir``, or the default folder for None."""
    return expanded(data_dir) if data_dir else DEFAULT_DATA_DIR


@lru_cache(maxsize=4)
@no_grad
def load_dataset(source: DatasetSource) -> Dataset:
    """The samples of a dataset in CPU memory; each process reads a dataset once.

    Raises ``FileNotFoundError``, naming the files that ``data_dir`` lacks; ``OSError`` if a download fails;
    ``ImportError`` if torchvision is needed and not installed; and ``ValueError`` for samples that no market can use.
    """
    dataset = source()
    try:
        _check(dataset)
    except ValueError as error:
        raise ValueError(f"the samples of dataset={shown(source)} cannot be used: {error}") from error
    # Kernels read the samples as they lie in memory. Those of EMNIST are transposed.
    return replace(dataset, inputs=dataset.inputs.contiguous(), labels=dataset.labels.contiguous())


def _check(dataset: Dataset) -> None:
    """Raise ``ValueError``, naming the field, for a dataset that is not as :class:`Dataset` describes it."""
    require(isinstance(dataset, Dataset), "result", type(dataset).__name__, "a Dataset")
    for field, dtype in (("inputs", torch.float32), ("labels", torch.int64)):
        tensor = getattr(dataset, field)
        given = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        require(given == f"{dtype} on cpu", field, given, f"{dtype} on cpu")
    inputs, labels = dataset.inputs, dataset.labels
    n = len(labels) if labels.dim() == 1 else 0
    require(n > 0, "labels' shape", list(labels.shape), "[n], with a sample at least")
    fits = inputs.dim() > 1 and len(inputs) == n and inputs.numel() > 0
    require(fits, "inputs' shape", list(inputs.shape), f"[{n}, *features], with a feature at least")
    classes = integer("classes", dataset.classes, 2)
    ends = [int(labels.min()), int(labels.max())]
    require(ends[0] >= 0 and ends[1] < classes, "labels' range", ends, f"within 0 and {classes - 1}")
    integer("official_test", dataset.official_test, 0, n - 1)
    require(bool(inputs.isfinite().all()), "inputs", "infinite or NaN", "finite")
    if dataset.augmentation is not None:
        _check_augmentation(dataset.augmentation, inputs[:1])


def _check_augmentation(augmentation: Augmentation, inputs: Tensor) -> None:
    """Try the rule on a sample, and raise ``ValueError`` unless the result is a sample of the same shape."""
    require(callable(augmentation), "augmentation", augmentation, "callable, or None")
    changed = augmentation(inputs, *torch.zeros(2, 1, dtype=torch.int64, device="cpu"))
    given = f"{changed.dtype} {list(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
    allowed = f"torch.float32 {list(inputs.shape)}, like the samples that it is given"
    require(given == f"torch.float32 {list(inputs.shape)}", "augmentation's result", given, allowed)
