"""Datasets of colour images, read from small files in their true formats."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from paramarket_env.learning.data import datasets as data
from paramarket_env.learning.data import images
from paramarket_env.learning.data.augmentation import CropsAndFlips
from paramarket_env.learning.data.datasets import DATASETS, Dataset, load_dataset
from tests.datafiles import draw_images, write_cifar10, write_jpeg, write_svhn, write_tinyimagenet

CHANNELS = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "svhn": ([0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
    "tinyimagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
ARRAYS = draw_images(12, 5, (32, 32, 3))
TINY = draw_images(12, 5, (64, 64, 3))
TINY[3] = TINY[1][:5]  # no class has test images alone


@pytest.fixture(autouse=True)
def _forget_datasets() -> Iterator[None]:
    load_dataset.cache_clear()
    yield
    load_dataset.cache_clear()


def read(name: str, folder: Path) -> Dataset:
    return load_dataset(DATASETS[name](data_dir=str(folder)))


def assert_holds(dataset: Dataset, name: str, pictures: np.ndarray, *, within: float = 1e-6) -> None:
    """The samples are these images, uint8 ``[n, height, width, 3]``, up to ``within`` of the range of a channel."""
    mean, deviation = (torch.tensor(row, dtype=torch.float64).view(3, 1, 1) for row in CHANNELS[name])
    pixels = dataset.inputs * deviation + mean
    expected = torch.from_numpy(pictures.transpose(0, 3, 1, 2) / 255)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=within)


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def test_cifar10_is_read_from_torchvisions_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar = pytest.importorskip("torchvision.datasets.cifar")
    monkeypatch.setattr(cifar, "check_integrity", lambda path, _md5=None: Path(path).is_file())
    write_cifar10(tmp_path / "cifar-10-batches-py", ARRAYS)
    dataset = read("cifar10", tmp_path)
    assert (dataset.features, dataset.classes, dataset.official_test) == ((3, 32, 32), 10, 5)
    assert dataset.labels.tolist() == [*ARRAYS[1], *ARRAYS[3]]
    assert_holds(dataset, "cifar10", np.concatenate(ARRAYS[::2]))
    black = [-mean / deviation for mean, deviation in zip(*CHANNELS["cifar10"], strict=True)]
    assert isinstance(dataset.augmentation, CropsAndFlips)
    assert dataset.augmentation.black == pytest.approx(black)
    assert (dataset.augmentation.padding, dataset.augmentation.flips) == (4, True)


def test_a_folder_without_cifar10_is_named(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(FileNotFoundError, match=r"lacks cifar-10-batches-py") as caught:
        read("cifar10", tmp_path)
    assert str(tmp_path) in str(caught.value)


# --- SVHN -------------------------------------------------------------------------------------------------------------


def test_svhn_is_read_from_its_two_files(tmp_path: Path) -> None:
    write_svhn(tmp_path, ARRAYS)
    dataset = read("svhn", tmp_path)
    assert (dataset.features, dataset.classes, dataset.official_test) == ((3, 32, 32), 10, 5)
    assert dataset.labels.tolist() == [*ARRAYS[1], *ARRAYS[3]]
    assert 0 in dataset.labels
    assert dataset.augmentation is None
    assert_holds(dataset, "svhn", np.concatenate(ARRAYS[::2]))


def test_the_files_of_svhn_that_are_missing_are_named(tmp_path: Path) -> None:
    write_svhn(tmp_path, ARRAYS)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_dir='.*' lacks test_32x32.mat") as caught:
        read("svhn", tmp_path)
    assert str(tmp_path) in str(caught.value)


X, Y = np.zeros((32, 32, 3, 4), np.uint8), np.ones((4, 1), np.uint8)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"X": X}, r"X, uint8 \[32, 32, 3, 4\], and y, object \[\]: it must have X, uint8 \[32, 32, 3, n\], and y"),
        ({"X": X, "y": Y[:3]}, r"and y, uint8 \[3, 1\]"),
        ({"X": X.transpose(3, 0, 1, 2), "y": Y}, r"has X, uint8 \[4, 32, 32, 3\]"),
        ({"X": X.astype(np.float64), "y": Y}, r"has X, float64 "),
        ({"X": X, "y": Y - 1}, r"has labels y outside 1 to 10"),
        ({"X": X, "y": Y * 1.5}, r"has labels y outside 1 to 10"),
        ({"X": X, "y": np.full((4, 1), 11)}, r"has labels y outside 1 to 10"),
    ],
)
def test_a_file_with_other_contents_is_refused_by_name(tmp_path: Path, contents: dict[str, Any], message: str) -> None:
    write_svhn(tmp_path, ARRAYS)
    path = tmp_path / "test_32x32.mat"
    savemat(path, contents)
    with pytest.raises(ValueError, match=message) as caught:
        read("svhn", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["empty", "a web page", "cut", "one byte"])
def test_a_damaged_file_of_svhn_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    write_svhn(tmp_path, ARRAYS)
    path = tmp_path / "train_32x32.mat"
    content = path.read_bytes()
    damaged = {"empty": b"", "a web page": b"<html>not found</html>" * 50, "cut": content[:5000]}
    path.write_bytes(damaged.get(damage, content[:130] + b"\xff" + content[131:]))
    with pytest.raises(ValueError, match=f"{path} is not a MATLAB file that can be read"):
        read("svhn", tmp_path)


# --- TinyImageNet -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The folder of a small TinyImageNet."""
    write_tinyimagenet(tmp_path / "tiny-imagenet-200", TINY)
    return tmp_path / "tiny-imagenet-200"


def test_tinyimagenet_is_read_from_its_folders(tmp_path: Path) -> None:
    smooth = [np.sort(each, axis=1) if each.ndim > 1 else each for each in TINY]  # JPEG keeps smooth images
    write_tinyimagenet(tmp_path / "tiny-imagenet-200", smooth)
    dataset = read("tinyimagenet", tmp_path)
    classes = sorted(set(smooth[1]))
    assert (dataset.features, dataset.classes, dataset.official_test) == ((3, 32, 32), len(classes), 5)
    order = np.lexsort((np.char.mod("%d", np.arange(12)), smooth[1]))  # by class, and then by the name of the file
    assert dataset.labels.tolist() == [classes.index(label) for label in [*smooth[1][order], *smooth[3]]]
    pictures = np.concatenate([smooth[0][order], smooth[2]])
    reduced = [Image.fromarray(each).resize((32, 32), Image.Resampling.BILINEAR) for each in pictures]
    assert_holds(dataset, "tinyimagenet", np.stack([np.asarray(each) for each in reduced]), within=0.04)
    assert isinstance(dataset.augmentation, CropsAndFlips)
    assert (dataset.augmentation.padding, dataset.augmentation.flips) == (0, True)


def test_a_grey_image_of_tinyimagenet_becomes_a_colour_image(tiny: Path) -> None:
    write_jpeg(tiny / "val" / "images" / "val_0.JPEG", np.full((64, 64), 200, np.uint8))
    dataset = read("tinyimagenet", tiny.parent)
    assert_holds(Dataset(dataset.inputs[12:13], dataset.labels, 2, 0), "tinyimagenet", np.full((1, 32, 32, 3), 200))


@pytest.mark.parametrize("missing", ["", "wnids.txt", "train/n01", "val/val_annotations.txt"])
def test_a_folder_in_another_layout_is_refused_with_what_it_has_and_must_have(tiny: Path, missing: str) -> None:
    path = tiny / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        read("tinyimagenet", tiny.parent)
    message = str(caught.value)
    assert message.startswith(f"'{tiny}' lacks {missing or 'wnids.txt'}")
    has = [name for name in ("train", "val", "wnids.txt") if missing and name != missing]
    assert f"it has {', '.join(has) or 'nothing'}, but it must have wnids.txt, train/CLASS/images/*.JPEG" in message
    assert "http://cs231n.stanford.edu/tiny-imagenet-200.zip" in message


@pytest.mark.parametrize("line", ["val_0.JPEG n01\n", "val_0.JPEG\tn77\t0\n", "\n"])
def test_a_line_of_the_annotations_that_names_no_class_is_refused(tiny: Path, line: str) -> None:
    path = tiny / "val" / "val_annotations.txt"
    path.write_text(line)
    with pytest.raises(ValueError, match=f"{path} has the line .* one of the classes in wnids.txt"):
        read("tinyimagenet", tiny.parent)


@pytest.mark.parametrize("content", [None, b"", b"<html>not found</html>", "cut"])
def test_an_image_that_cannot_be_read_is_refused_by_name(tiny: Path, content: bytes | str | None) -> None:
    path = tiny / "val" / "images" / "val_3.JPEG"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(before[:900] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=f"{path} is not an image that can be read"):
        read("tinyimagenet", tiny.parent)


# --- downloads --------------------------------------------------------------------------------------------------------


def download_svhn(root: str, *, split: str, download: bool) -> None:
    assert (split in ("train", "test"), download) == (True, True)
    write_svhn(Path(root), ARRAYS)


def download_archive(url: str, root: str, *, md5: str) -> None:
    assert url == "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    assert len(md5) == 32
    write_tinyimagenet(Path(root) / "tiny-imagenet-200", TINY)


@pytest.mark.parametrize("name", ["svhn", "tinyimagenet"])
def test_without_a_folder_files_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(data, "DEFAULT_DATA_DIR", tmp_path)
    torchvision = SimpleNamespace(
        SVHN=download_svhn, utils=SimpleNamespace(download_and_extract_archive=download_archive)
    )
    monkeypatch.setattr(images, "torchvision_datasets", lambda _: torchvision)
    source = DATASETS[name]()
    assert source().official_test == 5
    monkeypatch.setattr(images, "torchvision_datasets", None)
    assert source().official_test == 5
