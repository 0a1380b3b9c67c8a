"""The plain version of the authors' data loading."""

from __future__ import annotations

import torch

from benchmarks.loader import DEVIATION, MEAN, Pictures, loaded_samples, loading
from tests.helpers import tiny_market


def test_a_picture_is_loaded_as_the_normalised_share_of_white() -> None:
    images = torch.arange(2 * 6, dtype=torch.uint8).view(2, 2, 3) * 21
    picture, _ = Pictures(images)[1]
    torch.testing.assert_close(picture, (images[1:].float() / 255 - MEAN) / DEVIATION)


def test_a_round_loads_what_is_trained_and_the_validation_data_for_each_loss() -> None:
    config = tiny_market(agents=3)
    weights = len(config.broker.merger.weights)
    assert loaded_samples(config, trained=100, validation=7) == 100 + 3 * 7 * (1 + 2 * weights)


def test_loading_takes_time() -> None:
    assert loading(tiny_market(), repeats=1) > 0
