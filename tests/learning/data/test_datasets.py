"""Datasets: what comes embedded, and what is read from files in their true format."""

from __future__ import annotations

import gzip
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from paramarket_env.learning.data import datasets as data
from paramarket_env.learning.data.augmentation import CropsAndFlips
from paramarket_env.learning.data.datasets import DATASETS, Dataset, load_dataset
from paramarket_env.learning.data.idx import read_idx
from tests.datafiles import EMNIST_FILES, MNIST_FILES, draw_images, idx_bytes, write, write_family


def read(name: str, data_dir: str | None = None) -> Dataset:
    return load_dataset(DATASETS[name](**({} if data_dir is None else {"data_dir": data_dir})))


@pytest.fixture(autouse=True)
def _forget_datasets() -> Iterator[None]:
    load_dataset.cache_clear()
    yield
    load_dataset.cache_clear()


def assert_holds(dataset: Dataset, arrays: list[np.ndarray], *, transposed: bool = False) -> None:
    images, labels = np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])
    expected = (images.astype(np.float64) / 255 - 0.1307) / 0.3081
    expected = (expected.transpose(0, 2, 1) if transposed else expected)[:, None]
    torch.testing.assert_close(dataset.inputs, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)
    assert dataset.labels.tolist() == labels.tolist()
    assert dataset.labels.dtype == torch.int64
    assert dataset.official_test == len(arrays[3])
    assert dataset.features == expected.shape[1:]


def hide_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, None)


# --- IDX files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(7,), (4, 5, 3), (2, 1, 1)])
def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    read = read_idx(write(tmp_path / f"some-ubyte{suffix}", idx_bytes(array)), len(shape))
    assert read.dtype == np.uint8
    assert read.shape == shape
    np.testing.assert_array_equal(read, array)


def announcing(*shape: int, content: bytes = bytes(60)) -> bytes:
    """A file whose header announces this shape."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + content


IMAGES, LABELS = idx_bytes(draw_images()[0]), idx_bytes(draw_images()[1])
DAMAGE: dict[str, tuple[int, bytes]] = {
    **{
        f"{what}, {left} bytes left": (file, content[:left])
        for file, what, content in ((0, "images", IMAGES), (1, "labels", LABELS))
        for left in (0, 1, 3, 4, 7, 8, 9, len(content) - 1)
    },
    **{
        f"{what}, and {more!r}": (file, content + more)
        for file, what, content in ((0, "images", IMAGES), (1, "labels", LABELS))
        for more in (b"\0", b"\n", content)
    },
    "a web page": (0, b"<html>not found</html>"),
    "of floats": (0, b"\0\0\x0d\x03" + IMAGES[4:]),
    "magic backwards": (0, b"\x03\x08\0\0" + IMAGES[4:]),
    "sizes backwards": (0, IMAGES[:4] + np.array((6, 5, 3), "<u4").tobytes() + IMAGES[16:]),
    "labels for images": (0, LABELS),
    "images for labels": (1, IMAGES),
    "no dimension": (0, announcing()),
    "two dimensions": (0, announcing(6, 15, content=bytes(90))),
    "four dimensions": (0, announcing(6, 5, 3, 1, content=bytes(90))),
    "255 dimensions": (0, announcing(*(1,) * 255)),
    "no images": (0, announcing(0, 5, 3, content=b"")),
    "no pixels": (0, announcing(6, 0, 3, content=b"")),
    "no labels": (1, announcing(0, content=b"")),
    "a product that wraps to what is there": (0, announcing(2**31, 2**31, 4, content=b"")),
    "a product of zeros and giants": (0, announcing(2**32 - 1, 0, 2**32 - 1, content=b"")),
    "a giant": (0, announcing(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "two gigabytes": (0, announcing(2**31 - 1, 1, 1)),
    "fewer images than labels": (0, idx_bytes(draw_images(train=5)[0])),
    "more images than labels": (0, idx_bytes(draw_images(train=7)[0])),
    "fewer labels than images": (1, idx_bytes(draw_images(train=5)[1])),
    "images of another shape in the test set": (2, idx_bytes(np.zeros((4, 3, 5)))),
    "images of the same size in another shape in the test set": (2, idx_bytes(np.zeros((4, 15, 1)))),
    "a label outside the classes": (1, idx_bytes(np.array([0, 1, 2, 3, 4, 10]))),
    "a label far outside the classes in the test set": (3, idx_bytes(np.array([0, 1, 2, 255]))),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_by_name_in_one_line(tmp_path: Path, damage: str, suffix: str) -> None:
    write_family(tmp_path, MNIST_FILES, suffix)
    file, content = DAMAGE[damage]
    write(tmp_path / (MNIST_FILES[file] + suffix), content)
    assert_refused(tmp_path, MNIST_FILES[file])


def assert_refused(folder: Path, file: str) -> None:
    with pytest.raises(ValueError, match=str(folder / file)) as caught:
        read("mnist", str(folder))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("place", range(0, 90, 7))
@pytest.mark.parametrize("file", range(4))
def test_a_damaged_gzip_file_is_refused_by_name_in_one_line(tmp_path: Path, file: int, place: int) -> None:
    write_family(tmp_path, MNIST_FILES, ".gz")
    path = tmp_path / f"{MNIST_FILES[file]}.gz"
    content = path.read_bytes()
    place %= len(content)
    for damaged in (content[:place], content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]):
        load_dataset.cache_clear()
        path.write_bytes(damaged)
        if 4 <= place < 10:  # the time and the system of the compression do not matter
            continue
        assert_refused(tmp_path, path.name)


@pytest.mark.parametrize("end", [b"garbage", bytes([0x1F, 0x8B]), gzip.compress(b"more", mtime=0)])
def test_a_gzip_file_with_more_behind_its_end_is_refused_by_name(tmp_path: Path, end: bytes) -> None:
    write_family(tmp_path, MNIST_FILES, ".gz")
    path = tmp_path / f"{MNIST_FILES[0]}.gz"
    path.write_bytes(path.read_bytes() + end)
    assert_refused(tmp_path, path.name)


def test_a_gz_name_on_what_is_not_gzipped_is_refused_by_name(tmp_path: Path) -> None:
    write_family(tmp_path, MNIST_FILES, ".gz")
    (tmp_path / f"{MNIST_FILES[0]}.gz").write_bytes(IMAGES)
    assert_refused(tmp_path, MNIST_FILES[0])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    write_family(tmp_path, MNIST_FILES, suffix)
    path = tmp_path / (MNIST_FILES[0] + suffix)
    path.unlink()
    path.mkdir()
    assert_refused(tmp_path, path.name)
    path.rmdir()
    os.mkfifo(path)
    load_dataset.cache_clear()
    assert_refused(tmp_path, path.name)


@pytest.mark.parametrize("header", [b"", b"<html>", announcing(3, 5, 3)])
def test_no_more_is_expanded_than_the_header_announces(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / f"{MNIST_FILES[0]}.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=str(path)):
        read_idx(path, 3)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# --- datasets of one's own --------------------------------------------------------------------------------------------


PIXELS, CLASSES = torch.zeros(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"inputs": PIXELS.double()}, "inputs"),
        ({"inputs": PIXELS.long()}, "inputs"),
        ({"inputs": PIXELS.numpy()}, "inputs"),
        ({"inputs": PIXELS.to("meta")}, "inputs"),
        ({"inputs": PIXELS[:5]}, "inputs"),
        ({"inputs": PIXELS[:, 0]}, "inputs"),
        ({"inputs": PIXELS[:, :0]}, "inputs"),
        ({"inputs": PIXELS + torch.nan}, "inputs"),
        ({"inputs": PIXELS.index_fill(0, torch.tensor(5), torch.inf)}, "inputs"),
        ({"labels": CLASSES.int()}, "labels"),
        ({"labels": CLASSES.float()}, "labels"),
        ({"labels": CLASSES.tolist()}, "labels"),
        ({"labels": CLASSES[:, None]}, "labels"),
        ({"labels": CLASSES[:0], "inputs": PIXELS[:0]}, "labels"),
        ({"labels": CLASSES - 1}, "labels"),
        ({"labels": CLASSES + 1}, "labels"),
        ({"classes": 1}, "classes"),
        ({"classes": 2.0}, "classes"),
        ({"classes": True}, "classes"),
        ({"classes": None}, "classes"),
        ({"official_test": -1}, "official_test"),
        ({"official_test": 6}, "official_test"),
        ({"official_test": False}, "official_test"),
    ],
)
def test_samples_that_no_market_can_use_are_refused_by_field(changes: dict[str, Any], field: str) -> None:
    values: dict[str, Any] = {"inputs": PIXELS, "labels": CLASSES, "classes": 2, "official_test": 0}
    assert load_dataset(lambda: Dataset(**values)).classes == 2
    with pytest.raises(ValueError, match=rf"the samples of dataset=.* cannot be used: {field}.* it must be "):
        load_dataset(lambda: Dataset(**values | changes))


@pytest.mark.parametrize("result", [None, 3, (PIXELS, CLASSES), {"inputs": PIXELS}])
def test_what_is_no_dataset_is_refused(result: Any) -> None:
    with pytest.raises(ValueError, match=r"result=.* is not allowed: it must be a Dataset"):
        load_dataset(lambda: result)


@pytest.mark.parametrize(
    ("augmentation", "message"),
    [
        (3, r"augmentation=3 is not allowed: it must be callable, or None"),
        (lambda *_: None, r"augmentation's result='NoneType' is not allowed: it must be torch.float32 \[1, 3\]"),
        (lambda inputs, *_: inputs[:, :2], r"augmentation's result='torch.float32 \[1, 2\]'"),
        (lambda inputs, *_: inputs.double(), r"augmentation's result='torch.float64 \[1, 3\]'"),
        (CropsAndFlips((0.0,)), r"shape of a sample=\(3,\) is not allowed: it must be \(1, height, width\), since"),
    ],
)
def test_an_augmentation_that_makes_something_else_of_a_sample_is_refused(augmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"the samples of dataset=.* cannot be used: {message}"):
        load_dataset(lambda: Dataset(PIXELS, CLASSES, 2, 0, augmentation))


# --- MNIST and its family ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_files_is_a_dataset(tmp_path: Path, name: str, suffix: str) -> None:
    arrays = write_family(tmp_path, MNIST_FILES, suffix)
    dataset = read(name, str(tmp_path))
    assert_holds(dataset, arrays)
    assert dataset.classes == 10


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_torchvisions_folders_are_read_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    hide_torchvision(monkeypatch)
    arrays = write_family(tmp_path / folder / "raw", MNIST_FILES)
    assert_holds(read(name, str(tmp_path)), arrays)


@pytest.mark.parametrize("folder", ["", "EMNIST/raw"])
def test_emnist_is_turned_upright(tmp_path: Path, folder: str) -> None:
    arrays = write_family(tmp_path / folder, EMNIST_FILES)
    dataset = read("emnist", str(tmp_path))
    assert dataset.inputs.is_contiguous()  # kernels read it as it lies in memory
    assert_holds(dataset, arrays, transposed=True)
    assert dataset.classes == 47


def test_the_files_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_torchvision(monkeypatch)
    write_family(tmp_path, MNIST_FILES, ".gz")
    for name in MNIST_FILES[1:3]:
        (tmp_path / f"{name}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {MNIST_FILES[1]}, {MNIST_FILES[2]}") as caught:
        read("fashion-mnist", str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert MNIST_FILES[0] not in str(caught.value)


def test_a_folder_below_home_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    arrays = write_family(tmp_path / "mine", MNIST_FILES)
    assert_holds(read("mnist", "~/mine"), arrays)


# --- downloads --------------------------------------------------------------------------------------------------------


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, family: str, files: list[str]) -> list[dict[str, Any]]:
    """A torchvision whose downloads write small files; what they were called with."""
    calls: list[dict[str, Any]] = []

    def download(root: str, **options: Any) -> None:
        calls.append(options)
        write_family(Path(root) / family / "raw", files)

    datasets = ModuleType("torchvision.datasets")
    datasets.__dict__[family] = download
    package = ModuleType("torchvision")
    package.__dict__["datasets"] = datasets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    return calls


@pytest.mark.parametrize(
    ("name", "family", "files", "options"),
    [
        ("kmnist", "KMNIST", MNIST_FILES, {}),
        ("emnist", "EMNIST", EMNIST_FILES, {"split": "balanced"}),
    ],
)
def test_without_a_folder_files_are_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, family: str, files: list[str], options: dict[str, Any]
) -> None:
    monkeypatch.setattr(data, "DEFAULT_DATA_DIR", tmp_path)
    calls = fake_torchvision(monkeypatch, family, files)
    for _ in range(2):
        assert_holds(read(name), draw_images(), transposed=name == "emnist")
        load_dataset.cache_clear()
    assert calls == [{"train": train, "download": True, **options} for train in (True, False)]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "emnist", "cifar10", "svhn", "tinyimagenet"])
def test_a_download_without_torchvision_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(data, "DEFAULT_DATA_DIR", tmp_path)
    hide_torchvision(monkeypatch)
    with pytest.raises(ImportError, match=r"pip install 'paramarket-env\[vision\]'"):
        read(name)


# --- the others -------------------------------------------------------------------------------------------------------


def test_digits_come_with_scikit_learn() -> None:
    digits = read("digits")
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert digits.inputs.dtype == torch.float32
    assert digits.inputs.min() == 0
    assert digits.inputs.max() == 1
    assert digits.features == (1, 8, 8)
    assert (digits.labels.bincount() > 170).tolist() == [True] * 10
    assert (digits.classes, digits.official_test) == (10, 0)


def test_a_dataset_is_read_once() -> None:
    assert read("digits") is read("digits")


def test_an_unknown_dataset_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown dataset 'imagenet'") as caught:
        read("imagenet")
    assert all(name in str(caught.value) for name in DATASETS)
