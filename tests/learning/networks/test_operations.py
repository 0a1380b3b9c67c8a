"""Every operation that has a rule: the units in front of it still move, or are fixed because it depends on places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paramarket_env.learning.networks.derive import check, derive
from paramarket_env.learning.networks.operations import RULES
from tests.learning.networks.small_modules import MODULES, Call, sizes

LAYERS: dict[int, tuple[nn.Module, tuple[int, ...]]] = {
    0: (nn.Linear(4, 6), (4,)),
    1: (nn.Conv1d(2, 6, 1), (2, 8)),
    2: (nn.Conv2d(2, 6, 1), (2, 4, 4)),
    3: (nn.Conv3d(2, 6, 1), (2, 4, 4, 4)),
}
"""By the number of axes of space: the layer before the operation, which has 6 units, and the shape of a sample."""

ROWS = torch.tensor([0, 2, 1, 0])


def plus_constants(x: Tensor) -> Tensor:
    like = torch.ones_like(x) + torch.full_like(x, 2) + torch.zeros_like(x) + torch.empty_like(x).fill_(1)
    one = x.new_ones(1) + x.new_zeros(1) + x.new_full((1,), 2) + x.new_empty(1).zero_()
    return x + one + like.mean(1, keepdim=True)


def partly_constant(x: Tensor) -> Tensor:
    x[:, :, 0].zero_()
    x[:, :, 1].fill_(3)
    return x


def written_into(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:, 1:] = x[:, 1:]
    out[:, :1] = x[:, :1] * 2
    return out


MOVING: list[tuple[int, Callable[[Tensor], Tensor]]] = [
    (0, lambda x: x.log_softmax(1)),
    (0, lambda x: x.double().to(x.dtype)),
    (0, lambda x: x.detach()),
    (0, functional.leaky_relu),
    (0, functional.logsigmoid),
    (0, functional.hardswish),
    (0, lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True)),
    (0, lambda x: x * x.logsumexp(1, keepdim=True)),
    (0, lambda x: x * x.amin(1, keepdim=True) * x.max(1, keepdim=True).values * x.min(1, keepdim=True)[0]),
    (0, lambda x: x * x.std(1, keepdim=True) + torch.var_mean(x, 1, keepdim=True)[1] + x.prod(1, keepdim=True)),
    (0, lambda x: torch.baddbmm(x[:, None], x[:, None] * 2, torch.eye(1, dtype=x.dtype).expand(len(x), 6, 6))),
    (0, plus_constants),
    (0, lambda x: x @ x.T),
    (0, lambda x: (x @ x[0])[:, None]),
    (1, lambda x: x.roll(1, 2)),
    (1, lambda x: x[:, :, ROWS]),
    (1, lambda x: x.unfold(2, 2, 3)),
    (1, lambda x: x.unflatten(2, (2, 4))[:, :, 0]),
    (1, lambda x: torch.cat(x.split(3, 2), 2)),
    (1, lambda x: functional.pad(x, (1, 2))),
    (1, lambda x: functional.pad(x, (1, 2), mode="reflect")),
    (1, lambda x: functional.pad(x, (1, 2), mode="replicate")),
    (1, lambda x: functional.avg_pool1d(x, 2)),
    (1, lambda x: functional.adaptive_avg_pool1d(x, 3)),
    (1, lambda x: functional.interpolate(x, 5, mode="nearest")),
    (1, lambda x: functional.interpolate(x, 5, mode="linear")),
    (1, lambda x: x.mT @ x.new_ones(1).expand(6)),
    (2, lambda x: functional.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1)),
    (2, lambda x: functional.pixel_unshuffle(functional.pixel_shuffle(torch.cat([x, x], 1), 2), 2)),
    (2, lambda x: x.diagonal(0, 2, 3)),
    (2, partly_constant),
    (2, lambda x: functional.pad(x, (1, 2, 0, 1), mode="replicate")),
    (2, lambda x: functional.interpolate(x, 5, mode="bilinear")),
    (2, lambda x: functional.interpolate(x, 5, mode="bicubic")),
    (2, lambda x: functional.interpolate(x, 5, mode="nearest-exact")),
    (3, lambda x: functional.avg_pool3d(x, 2)),
    (3, lambda x: functional.max_pool3d(x, 2)),
    (3, lambda x: functional.adaptive_avg_pool3d(x, 2)),
    (3, lambda x: functional.adaptive_max_pool3d(x, 2)),
    (3, lambda x: functional.interpolate(x, 5, mode="nearest")),
    (3, lambda x: functional.interpolate(x, 5, mode="trilinear")),
    (3, lambda x: functional.pad(x, (1, 1, 1, 1, 1, 1), mode="reflect")),
    (3, lambda x: functional.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate")),
]

FIXED: list[tuple[int, Callable[[Tensor], Tensor]]] = [
    (0, lambda x: x.cumsum(1)),
    (0, lambda x: x.sort(1).values),
    (0, lambda x: x.topk(2, 1).values),
    (0, lambda x: x * x.argmax(1, keepdim=True) + x.argmin(1, keepdim=True)),
    (0, lambda x: x[:, ROWS] + x.index_select(1, ROWS) + x.gather(1, ROWS.expand(len(x), -1))),
    (0, lambda x: x[[[0], [1]], ROWS]),
    (0, lambda x: x.index_add(1, ROWS, x[:, :4])),
    (0, lambda x: x.scatter(1, ROWS.expand(len(x), -1), x[:, :4]).scatter_add(1, ROWS.expand(len(x), -1), x[:, :4])),
    (0, lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), x[0, 0])),
    (0, lambda x: (x[:, None] * x[:, :, None]).tril() + (x[:, None] * x[:, :, None]).triu()),
    (0, written_into),
    (2, lambda x: functional.channel_shuffle(x, 2)),
    (1, lambda x: functional.fold(x, (1, 9), (1, 2))),
    (2, lambda x: functional.unfold(x, 2)),
    (2, lambda x: functional.grid_sample(x, torch.zeros(2, 3, 3, 2, dtype=x.dtype), align_corners=False)),
]


def around(axes: int, operation: Callable[[Tensor], Tensor]) -> tuple[nn.Module, tuple[int, ...]]:
    """A module that applies an operation between two layers, and the shape of a sample."""
    first, features = LAYERS[axes]
    inputs = operation(first(torch.zeros(2, *features))).flatten(1).shape[1]
    module = Call(
        lambda self, x: self.head(operation(self.first(x)).flatten(1)), first=first, head=nn.Linear(inputs, 3)
    )
    return module, features


@pytest.mark.parametrize("number", range(len(MOVING)))
def test_units_move_through_an_operation(number: int) -> None:
    module, features = around(*MOVING[number])
    derived = derive(module, features)
    assert sizes(derived) == {"first": 6}
    check(module, features, derived)


@pytest.mark.parametrize("number", range(len(FIXED)))
def test_an_operation_that_depends_on_places_fixes_units(number: int) -> None:
    module, features = around(*FIXED[number])
    derived = derive(module, features)
    assert sizes(derived) == {}
    check(module, features, derived)


def test_every_rule_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()

    def recording(name: str, apply: Any) -> Any:
        return lambda call: used.add(name) or apply(call)

    for name in list(RULES):
        monkeypatch.setitem(RULES, name, recording(name, RULES[name]))
    for module, features in [*(around(*each) for each in MOVING + FIXED), *(each[:2] for each in MODULES.values())]:
        derive(module, features)
    assert set(RULES) - used <= {"leaky_relu"}  # newer versions of torch mark it as acting element by element


@pytest.mark.parametrize("name", RULES)
def test_every_rule_belongs_to_an_operation_of_torch(name: str) -> None:
    assert hasattr(torch.ops.aten, name)
