"""Modules that were written for other purposes: their permutations pass the check, or an operation is named."""

from __future__ import annotations

import pytest

from benchmarks.derivations import NETWORKS, TORCHVISION, row, table


def test_a_transformer_passes_and_the_operation_that_stops_a_recurrent_network_is_named() -> None:
    lines = list(table(("nn.TransformerEncoder", "nn.LSTM")))
    assert len(lines) == 4
    assert lines[2].endswith("| passes |")
    assert "rnn" in lines[3]
    assert "in the module 'body' (LSTM) has no rule" in lines[3]


def test_twenty_networks_are_listed() -> None:
    assert len(NETWORKS) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_the_networks_of_torchvision_pass(name: str) -> None:
    pytest.importorskip("torchvision")
    _, _, permutations, *_, result = row(name)
    assert int(permutations) > 0
    assert result == "passes"
