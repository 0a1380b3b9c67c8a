"""Small files in the true formats of the datasets that are read from a folder."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

MNIST_FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]
EMNIST_FILES = [
    name.replace("t10k", "emnist-balanced-test").replace("train-", "emnist-balanced-train-") for name in MNIST_FILES
]


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX format: two zeros, 8 for unsigned bytes, the number of dimensions, each dimension, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def write(path: Path, content: bytes) -> Path:
    """Gzipped if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def draw_images(train: int = 6, test: int = 4, sides: tuple[int, ...] = (5, 3), classes: int = 10) -> list[np.ndarray]:
    """Training images and labels, test images and labels."""
    numbers = np.random.default_rng(0)
    return [
        numbers.integers(0, 256, shape, dtype=np.uint8) if len(shape) > 1 else numbers.integers(0, classes, shape)
        for shape in ((train, *sides), (train,), (test, *sides), (test,))
    ]


def write_family(
    folder: Path, names: list[str], suffix: str = "", arrays: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """The four files of MNIST and the datasets in its format; their contents."""
    arrays = arrays or draw_images()
    for name, array in zip(names, arrays, strict=True):
        write(folder / (name + suffix), idx_bytes(array))
    return arrays


def write_cifar10(folder: Path, arrays: list[np.ndarray]) -> None:
    """The seven files of CIFAR-10: rows of 3 x 32 x 32 bytes, pickled with labels."""
    images, labels, *test = arrays
    parts = [*zip(np.array_split(images, 5), np.array_split(labels, 5), strict=True), test]
    for name, (pictures, numbers) in zip([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], parts, strict=True):
        rows = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), 3072)
        write(folder / name, pickle.dumps({"data": rows, "labels": numbers.tolist()}, protocol=2))
    write(folder / "batches.meta", pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))


def write_svhn(folder: Path, arrays: list[np.ndarray]) -> None:
    """The two files of SVHN: images ``[32, 32, 3, n]`` and labels ``[n, 1]``, which are 10 for the digit 0."""
    for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{split}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": y})


def write_tinyimagenet(folder: Path, arrays: list[np.ndarray]) -> None:
    """The folders of TinyImageNet; class 3 is called ``n03``."""
    images, labels, test, test_labels = arrays
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        write_jpeg(folder / "train" / f"n{label:02}" / "images" / f"n{label:02}_{number}.JPEG", image)
    for number, image in enumerate(test):
        write_jpeg(folder / "val" / "images" / f"val_{number}.JPEG", image)
    lines = [f"val_{number}.JPEG\tn{label:02}\t0\t0\t62\t62\n" for number, label in enumerate(test_labels)]
    write(folder / "val" / "val_annotations.txt", "".join(lines).encode())
    write(folder / "wnids.txt", "".join(f"n{label:02}\n" for label in sorted(set(labels), reverse=True)).encode())


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """A JPEG without loss of colour resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=100, subsampling=0)


def write_all(folder: Path) -> None:
    """60 training and 30 test images of every dataset. MNIST, Fashion-MNIST and KMNIST share their files."""
    for names, classes in ((MNIST_FILES, 10), (EMNIST_FILES, 47)):
        write_family(folder, names, arrays=draw_images(60, 30, (28, 28), classes))
    write_cifar10(folder / "cifar-10-batches-py", draw_images(60, 30, (32, 32, 3)))
    write_svhn(folder, draw_images(60, 30, (32, 32, 3)))
    write_tinyimagenet(folder / "tiny-imagenet-200", draw_images(60, 30, (64, 64, 3)))
