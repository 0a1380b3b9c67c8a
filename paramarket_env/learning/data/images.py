"""Datasets of colour images ``[3, 32, 32]``, which are read from files and normalised for each colour channel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat

from paramarket_env.learning.data.augmentation import CropsAndFlips
from paramarket_env.learning.data.datasets import DATASETS, Dataset, data_folder, download_of, torchvision_datasets
from paramarket_env.validation import configuration

CIFAR10_CHANNELS = np.array([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]], dtype=np.float32)
"""The mean and the standard deviation of each colour channel within [0, 1], as in the authors' code."""

SVHN_CHANNELS = np.array([[0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]], dtype=np.float32)
"""The mean and the standard deviation of each colour channel of SVHN's training images within [0, 1]."""

IMAGENET_CHANNELS = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=np.float32)
"""The mean and the standard deviation of each colour channel of ImageNet within [0, 1]."""


def _normalised(images: np.ndarray, channels: np.ndarray) -> torch.Tensor:
    """Images of bytes ``[n, height, width, 3]`` as normalised float32 ``[n, 3, height, width]``."""
    mean, deviation = torch.from_numpy(channels).view(2, 3, 1, 1)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float()
    return pixels.div_(255).sub_(mean).div_(deviation)


def _black(channels: np.ndarray) -> tuple[float, ...]:
    """The normalised value of a black pixel in each channel."""
    mean, deviation = channels
    black: list[float] = (-mean / deviation).tolist()
    return tuple(black)


@DATASETS.register
@configuration
class CIFAR10:
    """50,000 + 10,000 colour images in 10 classes (Krizhevsky 2009), with the authors' crops and flips in training."""

    data_dir: str | None = None
    """Folder with ``cifar-10-batches-py``. None: the dataset is downloaded."""

    def __call__(self) -> Dataset:
        """Read the images with torchvision, which downloads them if needed and ``data_dir`` is None."""
        root, download = data_folder(self.data_dir), self.data_dir is None
        cifar10 = torchvision_datasets("CIFAR10").CIFAR10
        try:
            parts = [cifar10(str(root), train=train, download=download) for train in (True, False)]
        except RuntimeError as error:
            if download:
                raise OSError(f"CIFAR-10 could not be downloaded: {error}") from error
            raise FileNotFoundError(f"data_dir={str(root)!r} lacks cifar-10-batches-py or part of it") from error
        images = _normalised(np.concatenate([part.data for part in parts]), CIFAR10_CHANNELS)
        labels = torch.from_numpy(np.concatenate([part.targets for part in parts]).astype(np.int64))
        augmentation = CropsAndFlips(_black(CIFAR10_CHANNELS), padding=4, flips=True)
        return Dataset(images, labels, 10, official_test=len(parts[1].data), augmentation=augmentation)


@DATASETS.register
@configuration
class SVHN:
    """73,257 + 26,032 colour images of house numbers in 10 classes (Netzer et al. 2011)."""

    data_dir: str | None = None
    """Folder with ``train_32x32.mat`` and ``test_32x32.mat``. None: they are downloaded."""

    def __call__(self) -> Dataset:
        """Read the files. Without ``data_dir``, first download them if the default folder lacks one."""
        root = data_folder(self.data_dir)
        files = [root / f"{split}_32x32.mat" for split in ("train", "test")]
        if self.data_dir is None and not all(file.exists() for file in files):
            self._download(root)
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise FileNotFoundError(f"data_dir={str(root)!r} lacks {', '.join(missing)}")
        (train, train_labels), (test, test_labels) = map(_read_mat, files)
        labels = torch.from_numpy(np.concatenate([train_labels, test_labels]))
        return Dataset(_normalised(np.concatenate([train, test]), SVHN_CHANNELS), labels, 10, official_test=len(test))

    def _download(self, root: Path) -> None:
        svhn = torchvision_datasets("SVHN without data_dir").SVHN
        with download_of("SVHN"):
            for split in ("train", "test"):
                svhn(str(root), split=split, download=True)


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 ``[n, 32, 32, 3]``, and the labels, int64 ``[n]``, of a file of SVHN.

    Raises ``ValueError``, naming the file, if it cannot be read or has other contents.
    """
    try:
        contents = loadmat(path)
    except Exception as error:  # a damaged file can raise almost anything in the parser
        raise ValueError(f"{path} is not a MATLAB file that can be read: {error}") from error
    images, labels = (np.asarray(contents.get(name)) for name in ("X", "y"))
    n = labels.size
    if images.shape != (32, 32, 3, n) or images.dtype != np.uint8:
        described = f"X, {images.dtype} {list(images.shape)}, and y, {labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{path} has {described}: it must have X, uint8 [32, 32, 3, n], and y, [n, 1]")
    if not np.isin(labels, range(1, 11)).all():
        raise ValueError(f"{path} has labels y outside 1 to 10")
    return images.transpose(3, 0, 1, 2), labels.reshape(n).astype(np.int64) % 10  # the digit 0 has the label 10


TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


@configuration
class TinyImageNet:
    """100,000 + 10,000 colour images in 200 classes (Le and Yang 2015), with flips in training.

    As in the authors' code, the images are reduced from 64 x 64 to 32 x 32 pixels, and the official validation images
    are the test set. Reading the files takes a minute or two.
    """

    data_dir: str | None = None
    """Folder with ``tiny-imagenet-200``, the contents of http://cs231n.stanford.edu/tiny-imagenet-200.zip. None: they
    are downloaded."""

    def __call__(self) -> Dataset:
        """Read the images. Without ``data_dir``, first download them if the default folder lacks them."""
        root = data_folder(self.data_dir) / "tiny-imagenet-200"
        if self.data_dir is None and not root.exists():
            self._download(root.parent)
        names = sorted(_lines(root, "wnids.txt"))
        train, test = _training_files(root, names), _test_files(root, names)
        with ThreadPoolExecutor() as pool:
            images = np.stack(list(pool.map(_reduced, [file for file, _ in train + test])))
        labels = torch.tensor([label for _, label in train + test], device="cpu")
        augmentation = CropsAndFlips(_black(IMAGENET_CHANNELS), flips=True)
        pixels = _normalised(images, IMAGENET_CHANNELS)
        return Dataset(pixels, labels, len(names), official_test=len(test), augmentation=augmentation)

    def _download(self, root: Path) -> None:
        datasets = torchvision_datasets("TinyImageNet without data_dir")
        with download_of("TinyImageNet"):
            datasets.utils.download_and_extract_archive(TINYIMAGENET_URL, str(root), md5=TINYIMAGENET_MD5)


DATASETS.register(TinyImageNet, "tinyimagenet")


def _lines(root: Path, name: str) -> list[str]:
    """The lines of a text file of TinyImageNet."""
    lines = (root / name).read_text("utf-8").splitlines() if (root / name).is_file() else []
    if not lines:
        raise _lacks(root, name)
    return lines


def _training_files(root: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    """The training images with their labels, which are the places of their classes in ``names``."""
    found = [sorted((root / "train" / name / "images").glob("*.JPEG")) for name in names]
    for name, files in zip(names, found, strict=True):
        if not files:
            raise _lacks(root, f"train/{name}/images/*.JPEG")
    return [(file, label) for label, files in enumerate(found) for file in files]


def _test_files(root: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    """The official validation images with their labels."""
    rows = [line.split("\t") for line in _lines(root, "val/val_annotations.txt")]
    for row in rows:
        if len(row) < 2 or row[1] not in names:
            allowed = "the name of an image and one of the classes in wnids.txt, separated by a tab"
            raise ValueError(f"{root / 'val/val_annotations.txt'} has the line {row}: it must begin with {allowed}")
    return [(root / "val" / "images" / file, names.index(name)) for file, name, *_ in rows]


def _lacks(root: Path, missing: str) -> FileNotFoundError:
    found = ", ".join(sorted(file.name for file in root.iterdir())[:10]) if root.is_dir() else ""
    wanted = "wnids.txt, train/CLASS/images/*.JPEG, val/val_annotations.txt and val/images/*.JPEG"
    described = f"it has {found or 'nothing'}, but it must have {wanted}, as {TINYIMAGENET_URL} has"
    return FileNotFoundError(f"{str(root)!r} lacks {missing}: {described}")


def _reduced(path: Path) -> np.ndarray:
    """The image in a file in 32 x 32 pixels, uint8 ``[32, 32, 3]``; raises ``ValueError`` if it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    except Exception as error:  # a damaged file can raise almost anything in the decoder
        raise ValueError(f"{path} is not an image that can be read: {error}") from error
