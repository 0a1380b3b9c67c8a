"""Aligners decide nothing on the host where it would have to wait for the device, as on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import paramarket_env.config  # noqa: F401  # registers aligners
from paramarket_env.learning.alignment import weight_matching
from paramarket_env.learning.alignment.aligner import ALIGNERS, Samples
from paramarket_env.learning.alignment.permutations import identity
from paramarket_env.learning.kernels import selection
from paramarket_env.learning.networks.mlp import MLPNetwork
from tests.learning.alignment.described import Described, attention, draw, no_samples, recurrent, residual_blocks

NETWORKS: dict[str, Any] = {
    "mlp": MLPNetwork((10,), 4, (8, 6)),
    "attention": attention(),
    "recurrent": recurrent(),
    "residual": residual_blocks(),
}
WAITS = ("aten::nonzero", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::unique2")


class NoWait(TorchDispatchMode):
    """Refuses the operations for which the host waits for the device."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        assert function.name().partition(".")[0] not in WAITS, function.name()
        return function(*arguments, **(named or {}))


def pairs(network: Described, count: int) -> tuple[Tensor, Tensor, Tensor, Samples]:
    buyers, sellers = draw(network, count, 1), draw(network, count, 2)
    sellers[0] = buyers[0]  # this pair is done after one sweep
    return buyers, sellers, identity(network, buyers.device).repeat(count, 1), no_samples


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("aligner", [name for name in ALIGNERS if name not in ("none", "activation-matching")])
def test_an_alignment_of_fixed_shape_equals_that_with_early_ends(
    aligner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(selection.VARIABLE, "torch")
    network = NETWORKS[name]
    arguments = pairs(network, 6)
    align = ALIGNERS.check(aligner)
    expected = align(network, *arguments)
    with pytest.raises(AssertionError, match="aten::"), NoWait():
        align(network, *arguments)
    monkeypatch.setattr(weight_matching, "waits", lambda tensor: False)
    with NoWait():
        found = align(network, *arguments)
    assert torch.equal(found, expected)
    assert not torch.equal(found[1:], arguments[2][1:])
